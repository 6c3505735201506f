"""Rewrites of networks, on every one of the line with statistics as after training."""

import pytest
import torch
from conftest import build_model
from torch import nn
from torch.nn.utils import parametrizations

from model import MODELS
from nanocnn.networks.rewrite import fold_batch_norm, fully_convolutional
from nanocnn.system.errors import UserError

pytestmark = pytest.mark.slow

SHAPES = [(1, 28, 28), (3, 32, 32)]
SMALL = {
    "alexnet": 0.25,
    "zfnet": 0.25,
    "vgg11": 0.25,
    "vgg13": 0.25,
    "vgg16": 0.25,
    "googlenet": 0.25,
}
VARIANTS = [(name, {}) for name in MODELS] + [
    ("vgg11", {"norm": "batch"}),
    ("convnet", {"activation": "maxout", "pool": "gaussian"}),
    ("lenet5", {"modern": True}),
]


def trained_like(name, shape, **arguments):
    """A network whose batch normalisation has statistics and weights as after some training."""
    torch.manual_seed(0)
    if name in SMALL:
        arguments = {"width": SMALL[name]} | arguments
    model = build_model(name, shape, 10, **arguments)
    for layer in model.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            layer.running_mean.normal_(std=0.3)
            layer.running_var.uniform_(0.5, 2)
            layer.weight.data.uniform_(0.5, 1.5)
            layer.bias.data.normal_(std=0.3)
    return model.eval()


def norms(model):
    return [
        layer for layer in model.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)
    ]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name, arguments", VARIANTS)
def test_folding_changes_no_logit_and_leaves_no_batch_norm_that_inference_uses(
    name, arguments, shape
):
    model = trained_like(name, shape, **arguments)
    before = len(norms(model))
    folded, count, exact = fold_batch_norm(model, shape)
    images = torch.randn(8, *shape)
    with torch.no_grad():
        torch.testing.assert_close(folded(images), model(images), atol=1e-5, rtol=1e-4)
    assert len(norms(model)) == before, "the network itself must stay"
    assert len(norms(folded)) == before - count
    left = [name for name, layer in folded.named_modules() if layer in norms(folded)]
    after_pooling = ["groups.2", "groups.9", "groups.16"] if name == "airbench" else []
    assert [norm for norm in left if not norm.startswith("auxiliary")] == after_pooling
    assert exact


def test_folding_keeps_its_hands_off_what_others_use():
    class Branched(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)
            self.first_norm = nn.BatchNorm2d(1)
            self.shared, self.shared_norm = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)

        def forward(self, x):
            x = self.conv(self.first_norm(x))
            x = x + self.norm(x)  # the convolution's output is used twice
            return self.shared_norm(self.shared(self.shared_norm(self.shared(x)))).mean((2, 3))

    torch.manual_seed(0)
    model = Branched()
    for norm in norms(model):
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
    folded = fold_batch_norm(model.eval(), (1, 8, 8)).model
    images = torch.randn(2, 1, 8, 8)
    torch.testing.assert_close(folded(images), model(images))
    assert len(norms(folded)) == 3


@pytest.mark.parametrize(
    "layer, norm, shape",
    [
        (nn.Conv1d(2, 4, 3), nn.BatchNorm1d(4), (2, 9)),
        (nn.Conv3d(2, 4, 3), nn.BatchNorm3d(4), (2, 5, 5, 5)),
        (nn.ConvTranspose2d(2, 4, 3), nn.BatchNorm2d(4), (2, 5, 5)),
        (nn.Conv2d(2, 4, 3, groups=2), nn.BatchNorm2d(4), (2, 5, 5)),
        (nn.Linear(6, 4), nn.BatchNorm1d(4), (6,)),
    ],
)
def test_folding_knows_every_kind_of_layer(layer, norm, shape):
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2)
    norm.weight.data.uniform_(0.5, 1.5)
    model = nn.Sequential(layer, norm).eval().requires_grad_(False)
    folded = fold_batch_norm(model, shape).model
    images = torch.randn(3, *shape)
    torch.testing.assert_close(folded(images), model(images))
    assert not norms(folded)


class Gated(nn.Module):
    """Uses the convolution once more where the graph does not show it."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x):
        x = self.conv(x)
        return (self.norm(x) * (x.detach() > 0)).mean((2, 3))


@pytest.mark.parametrize(
    "model, shape",
    [
        (Gated(), (1, 8, 8)),
        (nn.Sequential(nn.ConvTranspose2d(4, 6, 3, groups=2), nn.BatchNorm2d(6)), (4, 5, 5)),
        (
            nn.Sequential(parametrizations.weight_norm(nn.Conv2d(1, 4, 3)), nn.BatchNorm2d(4)),
            (1, 5, 5),
        ),
        (nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(4)), (4, 3)),
        (nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)), (4, 4)),
        (
            nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2, track_running_stats=False)),
            (1, 5, 5),
        ),
        (nn.Flatten(), (1, 2, 2)),
    ],
)
def test_what_cannot_be_folded_stays_as_it_is(model, shape):
    torch.manual_seed(0)
    for norm in norms(model):
        if norm.running_mean is not None:
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2)
    folded, count, _ = fold_batch_norm(model, shape)
    images = torch.randn(3, *shape)
    with torch.no_grad():
        torch.testing.assert_close(folded(images), model.eval()(images))
    assert count == 0 and len(norms(folded)) == len(norms(model))


def test_a_network_that_folding_would_change_is_left_as_it_is():
    """It uses the weights of its convolution elsewhere too, which no graph of outputs tells."""

    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)

        def forward(self, images):
            return self.norm(self.conv(images)).mean((2, 3)) + self.conv.weight.sum()

    model = Odd().eval()
    model.norm.running_var.fill_(4.0)
    folded, count, exact = fold_batch_norm(model, (1, 8, 8))
    assert (count, exact) == (0, False) and len(norms(folded)) == 1


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name, arguments", VARIANTS)
def test_fully_connected_layers_become_convolutions(name, arguments, shape):
    model = trained_like(name, shape, **arguments)
    scanner = fully_convolutional(model, shape)
    linear = [name for name, layer in scanner.named_modules() if isinstance(layer, nn.Linear)]
    assert all(name.startswith("auxiliary") for name in linear)  # of training only
    images = torch.randn(4, *shape)
    larger = torch.randn(2, shape[0], shape[1] + 32, shape[2] + 64)
    with torch.no_grad():
        scores = scanner(images)
        assert scores.shape == (4, 10, 1, 1)
        torch.testing.assert_close(scores[..., 0, 0], model(images), atol=1e-5, rtol=1e-4)
        height, width = scanner(larger).shape[2:]
    assert height > 1 and width > height


def test_the_map_of_scores_is_the_network_slid_over_the_image():
    model = trained_like("lenet", (1, 28, 28))
    scanner = fully_convolutional(model, (1, 28, 28))
    image = torch.randn(1, 1, 36, 40)
    with torch.no_grad():
        scores = scanner(image)
        assert scores.shape == (1, 10, 3, 4)  # one place every four pixels
        for row in range(3):
            for column in range(4):
                part = image[..., 4 * row : 4 * row + 28, 4 * column : 4 * column + 28]
                torch.testing.assert_close(
                    scores[..., row, column], model(part), atol=1e-5, rtol=1e-4
                )


def test_a_network_that_flattens_by_hand_is_refused():
    class ByHand(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(16, 3)

        def forward(self, x):
            return self.linear(x.reshape(len(x), -1))

    with pytest.raises(UserError, match="fully convolutional"):
        fully_convolutional(ByHand(), (1, 4, 4))
    pooled = nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(8, 3)
    )
    with pytest.raises(UserError, match="1 = AdaptiveAvgPool2d"):
        fully_convolutional(pooled, (1, 9, 9))
