"""Convolution and pooling against a textbook version, and the layers that torch has not."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from nanocnn.evaluation.evaluate import AverageFlips
from nanocnn.networks.layers import (
    GaussianPool2d,
    LearnedPool2d,
    Maxout,
    WhiteningConv2d,
    ZeroPadToFit,
)


def textbook_convolution(images, weight, bias, stride, padding):
    """Every window as a column, times every filter as a row."""
    batch, _, height, _ = images.shape
    out, _, kernel, _ = weight.shape
    columns = F.unfold(images, kernel, padding=padding, stride=stride)  # (B, C * k * k, windows)
    rows = (height + 2 * padding - kernel) // stride + 1
    scores = weight.flatten(1) @ columns + bias.view(1, -1, 1)
    return scores.view(batch, out, rows, -1)


def textbook_pool(images, kernel, stride, padding, reduce):
    batch, channels, height, _ = images.shape
    fill = float("-inf") if reduce is torch.amax else 0.0
    padded = F.pad(images, (padding,) * 4, value=fill)
    columns = F.unfold(padded, kernel, stride=stride).view(batch, channels, kernel**2, -1)
    rows = (height + 2 * padding - kernel) // stride + 1
    return reduce(columns, 2).view(batch, channels, rows, -1)


def assert_same_function(ours, theirs, *inputs):
    """Equal values, and equal gradients of a random weighting of them."""
    first, second = ours(*inputs), theirs(*inputs)
    torch.testing.assert_close(first, second, atol=1e-5, rtol=1e-5)
    weighting = torch.randn_like(first)
    gradients = [
        torch.autograd.grad((result * weighting).sum(), inputs) for result in (first, second)
    ]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("padding", [0, 1, 2])
def test_convolution_is_the_textbooks_forward_and_backward(stride, padding):
    images = torch.randn(2, 3, 8, 9, requires_grad=True)
    weight = torch.randn(4, 3, 3, 3, requires_grad=True)
    bias = torch.randn(4, requires_grad=True)
    assert_same_function(
        lambda *x: textbook_convolution(*x, stride, padding),
        lambda *x: F.conv2d(*x, stride=stride, padding=padding),
        images, weight, bias,
    )  # fmt: skip


@pytest.mark.parametrize("kernel, stride, padding", [(2, 2, 0), (3, 2, 0), (3, 2, 1), (3, 1, 1)])
@pytest.mark.parametrize("reduce, layer", [(torch.amax, nn.MaxPool2d), (torch.mean, nn.AvgPool2d)])
def test_pooling_is_the_textbooks_forward_and_backward(kernel, stride, padding, reduce, layer):
    images = torch.randn(2, 3, 8, 9, requires_grad=True)
    assert_same_function(
        lambda x: textbook_pool(x, kernel, stride, padding, reduce),
        layer(kernel, stride, padding),
        images,
    )


def test_maxout_keeps_the_larger_of_neighbouring_channels():
    x = torch.tensor([[1.0, 5.0, -2.0, -3.0]])
    assert Maxout()(x).tolist() == [[5.0, -2.0]]
    assert Maxout()(torch.randn(2, 6, 4, 4)).shape == (2, 3, 4, 4)


@pytest.mark.parametrize(
    "size, kernel, stride, padded", [(7, 2, 2, 8), (8, 2, 2, 8), (110, 3, 2, 111), (1, 2, 2, 2)]
)
def test_zero_padding_fills_the_last_window(size, kernel, stride, padded):
    x = torch.ones(1, 1, size, size)
    y = ZeroPadToFit(kernel, stride)(x)
    assert y.shape == (1, 1, padded, padded)
    assert torch.equal(y[..., :size, :size], x) and y.sum() == x.sum()


def test_gaussian_pool_is_a_binomial_blur_and_subsampling():
    pool = GaussianPool2d(2, kernel_size=3, stride=2)
    blur = torch.tensor([[1.0, 2, 1], [2, 4, 2], [1, 2, 1]]) / 16
    assert torch.equal(pool.weight, blur.expand(2, 1, 3, 3)) and not list(pool.parameters())
    image = torch.zeros(1, 2, 5, 5)
    image[0, 0, 2, 2] = 16
    assert pool(image)[0, 0].tolist() == [[1.0, 1.0], [1.0, 1.0]] and pool(image)[0, 1].sum() == 0
    assert GaussianPool2d(1, 4).weight[0, 0, 0].mul(64).tolist() == [1, 3, 3, 1]


def test_learned_pool_is_a_trainable_mean_a_channel():
    pool = LearnedPool2d(2)
    x = torch.randn(3, 2, 6, 6)
    torch.testing.assert_close(pool(x), F.avg_pool2d(x, 2))
    pool.weight.data = torch.tensor([2.0, -1.0])
    pool.bias.data = torch.tensor([0.5, 0.0])
    means = F.avg_pool2d(x, 2)
    torch.testing.assert_close(pool(x), torch.stack([2 * means[:, 0] + 0.5, -means[:, 1]], 1))
    assert sum(p.numel() for p in pool.parameters()) == 4


def test_whitened_patches_are_uncorrelated_and_of_one_strength():
    torch.manual_seed(0)
    smooth = F.avg_pool2d(torch.randn(400, 3, 14, 14), 3, 1)
    layer = WhiteningConv2d(3, 2)
    layer.fit(smooth.split(150), eps=0.0)
    with torch.no_grad():
        half = layer(smooth)[:, :12].transpose(0, 1).flatten(1).double()
        torch.testing.assert_close(layer(smooth)[:, 12:], -layer(smooth)[:, :12])
    covariance = half @ half.T / half.shape[1]
    torch.testing.assert_close(covariance, torch.eye(12, dtype=torch.float64), atol=1e-4, rtol=0)
    assert not layer.weight.requires_grad and layer.bias.requires_grad


def test_flips_are_averaged():
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    images = torch.randn(5, 1, 3, 4)
    logits = AverageFlips(model)(images)
    torch.testing.assert_close(logits, (model(images) + model(images.flip(3))) / 2)
    torch.testing.assert_close(logits, AverageFlips(model)(images.flip(3)))
