"""A convolution of a tiny map is the same function as a linear layer, and as exact."""

import copy

import pytest
import torch
from conftest import build_model, errors_of
from torch import nn

from nanocnn.networks import tiny_maps
from nanocnn.networks.exchange import exchanged
from nanocnn.networks.fast_view import class_for, fast_view
from nanocnn.networks.tiny_maps import TinyMapConv2d

pytestmark = pytest.mark.slow

DOUBLE = torch.float64


@pytest.fixture
def uses(monkeypatch):
    """What was computed as linear layers; here that of few channels too."""
    monkeypatch.setattr(tiny_maps, "LEAST_WEIGHTS", 1)
    calls, linear = [], tiny_maps.linear
    monkeypatch.setattr(
        tiny_maps, "linear", lambda x, *rest: calls.append(x.shape) or linear(x, *rest)
    )
    return calls


def maps(height, width, channels=6, images=32, number=0):
    generator = torch.Generator().manual_seed(number)
    return torch.randn(images, channels, height, width, generator=generator, dtype=DOUBLE)


def trained_on(network, layer, x):
    x = x.clone(memory_format=torch.preserve_format).requires_grad_()
    output = network(x)
    weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(0)).to(output)
    (output * weights).sum().backward()
    return [output.detach(), x.grad, *(parameter.grad for parameter in layer.parameters())]


def compare(conv, x):
    plain = nn.Sequential(conv).double()
    other = copy.deepcopy(plain)
    expected = trained_on(plain, plain, x)
    found = trained_on(exchanged(other, class_for), other, x)
    torch.testing.assert_close(found, expected, atol=1e-11, rtol=1e-11)
    return found[0]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("kernel", "padding", "size"),
    [
        (3, 1, (1, 1)),
        (3, 1, (2, 2)),
        (3, "same", (2, 1)),
        (3, 1, (1, 2)),
        (5, 2, (3, 3)),
        ((3, 5), (1, 2), (2, 3)),
    ],
)
def test_it_trains_the_same(uses, kernel, padding, size, bias, layout):
    torch.manual_seed(0)
    conv = nn.Conv2d(6, 4, kernel, padding=padding, bias=bias).to(memory_format=layout)
    output = compare(conv, maps(*size).to(memory_format=layout))
    assert len(uses) == 1
    assert output.is_contiguous(memory_format=layout)


@pytest.mark.parametrize(
    ("conv", "x"),
    [
        pytest.param(nn.Conv2d(6, 4, 3, padding=1), maps(3, 3), id="larger maps"),
        pytest.param(nn.Conv2d(6, 4, 3, padding=1), maps(1, 3), id="wider maps"),
        pytest.param(nn.Conv2d(6, 4, 3, padding=1), maps(2, 2, images=31), id="few images"),
        pytest.param(nn.Conv2d(6, 4, 1), maps(1, 1), id="1x1"),
        pytest.param(nn.Conv2d(6, 4, 3, padding=1, stride=2), maps(2, 2), id="stride"),
        pytest.param(nn.Conv2d(6, 4, 3, padding=2), maps(2, 2), id="more padding"),
        pytest.param(nn.Conv2d(6, 4, 3, padding=2, dilation=2), maps(2, 2), id="dilation"),
        pytest.param(nn.Conv2d(6, 4, 2, padding="same"), maps(2, 2), id="even"),
        pytest.param(nn.Conv2d(6, 4, 3, padding=1, groups=2), maps(2, 2), id="groups"),
        pytest.param(
            nn.Conv2d(6, 4, 3, padding=1, padding_mode="circular"), maps(2, 2), id="circular"
        ),
    ],
)
def test_other_convolutions_stay_torchs_own(uses, conv, x):
    compare(conv, x)
    assert not uses


def test_few_channels_stay_torchs_own():
    view = exchanged(nn.Sequential(nn.Conv2d(16, 16, 3, padding=1)), class_for)
    assert not isinstance(view[0], TinyMapConv2d)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_it_is_as_exact_as_torch_in_the_same_precision(uses, dtype):
    """The largest error of 50 random inputs, against float64."""
    largest = {"torch": torch.zeros(4), "as linear": torch.zeros(4)}
    for number in range(50):
        torch.manual_seed(number)
        layer = nn.Conv2d(64, 32, 3, padding=1)
        for parameter in layer.parameters():
            parameter.data = parameter.data.to(dtype).float()  # what is rounded in both
        x = maps(2, 1 + number % 2, 64, 64, number)
        if number % 3 == 0:
            x += 10
        x = x.to(dtype, memory_format=torch.channels_last)
        exact = copy.deepcopy(layer).double()
        wanted = trained_on(exact, exact, x.double())
        for name, until_now in largest.items():
            own = copy.deepcopy(layer).to(memory_format=torch.channels_last)
            network = exchanged(own, class_for) if name == "as linear" else own
            with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
                found = trained_on(network, own, x)
            assert found[0].dtype == dtype
            largest[name] = torch.maximum(until_now, errors_of(found, wanted))
    assert len(uses) == 50
    assert (largest["as linear"] <= 1.25 * largest["torch"] + 1e-7).all(), largest


@pytest.mark.parametrize("training", [True, False])
def test_a_deep_network_on_small_images_is_the_same(monkeypatch, training):
    calls, linear = [], tiny_maps.linear
    monkeypatch.setattr(
        tiny_maps, "linear", lambda x, *rest: calls.append(x.shape) or linear(x, *rest)
    )
    torch.manual_seed(0)
    model = build_model("vgg11", (3, 32, 32), 10, norm="batch").train(training).double()
    view = fast_view(copy.deepcopy(model).float(), (3, 32, 32)).double().train(training)
    calls.clear()
    images = torch.rand(32, 3, 32, 32, dtype=DOUBLE)
    torch.manual_seed(1)
    expected = model(images)
    torch.manual_seed(1)
    torch.testing.assert_close(view(images), expected, atol=1e-6, rtol=1e-6)
    assert len(calls) == 2  # on 2x2 pixels
    assert (
        sum(isinstance(each, TinyMapConv2d) for each in view.modules()) == 6
    )  # of channels enough
