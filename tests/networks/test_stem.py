"""A first convolution computed with its normalisation and pooling is the same function of images,
with the same gradients and statistics, and as exact as torch's layers.
"""

import copy

import pytest
import torch
from conftest import build_model, errors_of
from torch import nn

from nanocnn.networks import stem
from nanocnn.networks.fast_view import fast_view
from nanocnn.networks.norm_pool import NormPool

pytestmark = pytest.mark.slow

DOUBLE = torch.float64
CONVOLUTIONS = {
    "3x3": {"kernel_size": 3},
    "same": {"kernel_size": 3, "padding": "same"},
    "an even kernel, same": {"kernel_size": 2, "padding": "same"},
    "padded at the sides": {"kernel_size": (1, 3), "padding": (0, 1)},
    "with a stride": {"kernel_size": (2, 1), "stride": (2, 1)},
    "of two channels": {"kernel_size": (2, 1), "padding": "same", "in_channels": 2},
}


@pytest.fixture
def uses(monkeypatch):
    """How often images were computed so; here small ones are too."""
    monkeypatch.setattr(NormPool, "least", 0)
    calls = []
    together = stem.TrainedConvNormPool.apply
    monkeypatch.setattr(
        stem.TrainedConvNormPool, "apply", lambda *inputs: calls.append(1) or together(*inputs)
    )
    return calls


def layers_of(after=(), pool=None, **options):
    """A convolution, normalisation with weights of both signs, ReLU and pooling."""
    conv = nn.Conv2d(options.pop("in_channels", 1), 6, **({"bias": False} | options))
    norm = nn.BatchNorm2d(6)
    nn.init.uniform_(norm.weight, 0.2, 2)
    norm.weight.data[::2] *= -1
    nn.init.normal_(norm.bias)
    layers = nn.Sequential(conv, norm, *(after or [nn.ReLU()]), pool or nn.MaxPool2d(2))
    return layers.to(memory_format=torch.channels_last)


def view_of(layers, channels=1):
    """What stands for them in float32 training; in float64 it would be built the same."""
    is_double = next(layers.parameters()).dtype == DOUBLE
    view = fast_view(layers.float(), (channels, 12, 14))
    return (view.double(), layers.double())[0] if is_double else view


def images_of(channels=1, height=12, width=14, number=0):
    generator = torch.Generator().manual_seed(number)
    return torch.rand(8, channels, height, width, generator=generator, dtype=DOUBLE)


def trained_on(network, layers, images):
    output = network.train()(images)
    weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(0)).to(output)
    (output * weights).sum().backward()
    return [output, *(parameter.grad for parameter in layers.parameters()), *layers.buffers()]


def compare(layers, images, uses, expected_uses=1):
    plain = layers.double()
    other = copy.deepcopy(plain)
    expected = trained_on(plain, plain, images)
    view = view_of(other, images.shape[1])
    uses.clear()  # of the trial
    found = trained_on(view, other, images)
    assert len(uses) == expected_uses
    torch.testing.assert_close(found, expected, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("after", [nn.ReLU(), nn.Tanh()], ids=["relu", "tanh"])
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_it_trains_the_same(uses, name, after):
    torch.manual_seed(0)
    layers = layers_of([after], **CONVOLUTIONS[name])
    compare(layers, images_of(layers[0].in_channels), uses)


def test_equal_pixels_send_their_gradient_to_the_first_of_them(uses):
    images = (images_of() > 0.5).double()
    images[2:4] = 1
    layers = layers_of(kernel_size=3, padding=1)
    nn.init.constant_(layers[0].weight, 1.0)
    compare(layers, images, uses)


def test_images_far_from_zero(uses):
    layers = layers_of(kernel_size=3)
    plain, images = layers.double(), images_of() + 1000
    other = copy.deepcopy(plain)
    expected = trained_on(plain, plain, images)
    view = view_of(other)
    uses.clear()  # of the trial
    found = trained_on(view, other, images)
    assert uses
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)


def test_the_running_mean_of_bright_images_is_not_rounded(uses):
    """They are rounded to bf16, and their mean is taken off before: what sums is in float32."""
    layers = layers_of(kernel_size=3)
    layers[0].weight.data = layers[0].weight.data.bfloat16().float()
    layers[1].momentum = 1.0  # the statistics of this batch alone
    images = (0.3 * images_of() + 2).bfloat16()
    exact = copy.deepcopy(layers).double()
    exact.train()(images.double())
    view = view_of(layers)
    uses.clear()
    with torch.autocast("cpu", torch.bfloat16):
        view.train()(images.float())
    assert uses
    deviation = exact[1].running_var.sqrt()
    error = (layers[1].running_mean - exact[1].running_mean).abs() / deviation
    assert error.max() < 1e-4


@pytest.mark.parametrize(
    ("options", "images"),
    [
        pytest.param({"kernel_size": 3}, images_of(height=13), id="a map that pooling crops"),
        pytest.param({"kernel_size": 3}, images_of().requires_grad_(), id="of a layer before"),
        pytest.param({"kernel_size": 3, "bias": True}, images_of(), id="bias"),
        pytest.param({"kernel_size": 3, "dilation": 2}, images_of(), id="dilation"),
        pytest.param(
            {"kernel_size": 3, "padding": 1, "padding_mode": "circular"}, images_of(), id="circular"
        ),
        pytest.param(
            {"kernel_size": 1, "groups": 2, "in_channels": 2}, images_of(channels=2), id="groups"
        ),
        pytest.param({"kernel_size": 3, "in_channels": 2}, images_of(channels=2), id="wide"),
        pytest.param(
            {"kernel_size": 3, "pool": nn.MaxPool2d(2, padding=1)}, images_of(), id="padded pooling"
        ),
        pytest.param(
            {"kernel_size": 3, "pool": nn.MaxPool2d(2, stride=1)}, images_of(), id="overlapping"
        ),
        pytest.param({"kernel_size": 3, "pool": nn.MaxPool2d(3)}, images_of(), id="windows of 3"),
        pytest.param(
            {"kernel_size": 3, "pool": nn.MaxPool2d(2, dilation=2)},
            images_of(),
            id="dilated pooling",
        ),
    ],
)
def test_what_it_cannot_compute_is_computed_layer_by_layer(uses, options, images):
    compare(layers_of(**options), images, uses, expected_uses=0)


def smooth_images():
    """Discs of one brightness each, of which an edge filter lets next to nothing through."""
    side = torch.linspace(-1, 1, 64, dtype=DOUBLE)
    disc = torch.cos(side[:, None]) * torch.cos(side)
    return disc * torch.linspace(1, 5, 16, dtype=DOUBLE).view(-1, 1, 1, 1)


def test_a_filter_that_lets_little_through_is_computed_layer_by_layer(uses):
    """Its variance would be a small difference of large sums."""
    layers = layers_of(kernel_size=3)
    edges = torch.tensor([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]])
    layers[0].weight.data[2] = edges
    compare(layers, smooth_images(), uses, expected_uses=0)


def test_several_processes_compute_layer_by_layer(uses):
    """What they add up is that of maps, whichever way each of them takes."""
    view = view_of(layers_of(kernel_size=3))
    assert isinstance(view[0], stem.ConvNormPool)
    uses.clear()

    class Joining:
        def statistics(self, mean, var, pixels):
            return mean, var, pixels

    view[0].joining = Joining()
    view.train()(images_of().float())
    assert not uses


def test_maps_keep_the_layout_that_they_had(uses):
    layers = layers_of(kernel_size=3).to(memory_format=torch.contiguous_format)
    view = view_of(layers)
    uses.clear()
    assert view.train()(images_of().float()).is_contiguous() and not uses


def test_a_second_gradient_is_refused(uses):
    layers = layers_of(kernel_size=3)
    view = view_of(layers)
    loss = view.train()(images_of().float()).square().sum()
    assert uses
    (gradient,) = torch.autograd.grad(loss, layers[0].weight, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_a_weight_of_zero_is_computed_layer_by_layer(uses):
    layers = layers_of(kernel_size=3)
    layers[1].weight.data[2] = 0
    compare(layers, images_of(), uses, expected_uses=0)


def test_evaluation_is_computed_layer_by_layer(uses):
    layers = layers_of(kernel_size=3)
    plain = layers.double().eval()
    view = view_of(plain).eval()
    uses.clear()
    with torch.no_grad():
        torch.testing.assert_close(view(images_of()), plain(images_of()))
    assert not uses


def test_a_convolution_that_somebody_watches_stays():
    layers, seen = layers_of(kernel_size=3), []
    layers[0].register_forward_hook(lambda *call: seen.append(call[2].shape))
    view = fast_view(layers, (1, 12, 14))
    assert not any(isinstance(each, stem.ConvNormPool) for each in view.modules())
    view(torch.zeros(2, 1, 12, 14))
    assert seen[-1] == (2, 6, 10, 12)


def test_a_convolution_with_a_forward_of_its_own_stays():
    layers = layers_of(kernel_size=3)
    conv = layers[0]
    conv.forward = lambda x: torch.conv2d(x, conv.weight.sign())
    view = fast_view(layers, (1, 12, 14))
    assert not any(isinstance(each, stem.ConvNormPool) for each in view.modules())


def hard_images(number):
    """As many pixels as real batches have: every third far from zero for their spread, every other
    with blanks, as in grey images of digits.
    """
    generator = torch.Generator().manual_seed(number)
    images = torch.randn(64, 1, 28, 28, generator=generator)
    if number % 2:
        images = images.relu()
    if number % 3 == 0:
        images += 1e3
    return images


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_it_is_as_exact_as_torch_in_the_same_precision(uses, dtype):
    """The largest error of 50 random inputs, against float64; of those far from zero by itself."""
    largest = {
        (name, is_far): torch.zeros(6) for name in ("torch", "together") for is_far in (True, False)
    }
    for number in range(50):
        torch.manual_seed(number)
        layers = layers_of(kernel_size=3, padding=number % 2)
        images = hard_images(number)
        layers[0].weight.data = layers[0].weight.data.to(dtype).float()  # what is rounded in both
        images = images.to(dtype).float()
        exact = copy.deepcopy(layers).double()
        wanted = trained_on(exact, exact, images.double())[:-1]  # without the count of batches
        for name in ("torch", "together"):
            own = copy.deepcopy(layers).to(memory_format=torch.channels_last)
            network = view_of(own) if name == "together" else own
            uses.clear()
            with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
                found = trained_on(network, own, images)[:-1]
            assert found[0].dtype == dtype and len(uses) == (name == "together")
            kind = name, number % 3 == 0
            largest[kind] = torch.maximum(largest[kind], errors_of(found, wanted))
    for is_far in (True, False):
        allowed = 1.25 * largest["torch", is_far] + 1e-7  # of what has no error at all
        assert (largest["together", is_far] <= allowed).all(), largest


def test_the_seed_network_uses_it_at_its_usual_size(monkeypatch):
    calls = []
    together = stem.TrainedConvNormPool.apply
    monkeypatch.setattr(
        stem.TrainedConvNormPool, "apply", lambda *inputs: calls.append(1) or together(*inputs)
    )
    model = build_model("lenet", (1, 28, 28), 10).to(memory_format=torch.channels_last)
    network = fast_view(model, (1, 28, 28))
    calls.clear()
    network.train()(torch.rand(128, 1, 28, 28))
    assert calls == [1]
