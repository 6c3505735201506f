"""Layers computed together are the same function with the same gradients as one after the other."""

import copy

import pytest
import torch
import torch.nn.functional as F
from conftest import build_model, errors_of, small
from torch import nn

from model import MODELS
from nanocnn.networks import norm_pool
from nanocnn.networks.fast_view import fast_view
from nanocnn.networks.norm_pool import NormPool
from nanocnn.training.optimizer import pin

pytestmark = pytest.mark.slow

DOUBLE = torch.float64
POOLINGS = {
    "2": nn.MaxPool2d(2),
    "3 at stride 2, padded": nn.MaxPool2d(3, stride=2, padding=1),
    "overlapping": nn.MaxPool2d(3, stride=1),
    "ceil": nn.MaxPool2d((2, 3), stride=2, ceil_mode=True),
    "dilated": nn.MaxPool2d(2, dilation=2),
}


@pytest.fixture
def uses(monkeypatch):
    """How often maps were computed together; here small ones are too."""
    monkeypatch.setattr(NormPool, "least", 0)
    calls = []
    together = norm_pool.TrainedNormPool.apply
    monkeypatch.setattr(
        norm_pool.TrainedNormPool, "apply", lambda *inputs: calls.append(1) or together(*inputs)
    )
    return calls


def maps(channels, height=13, width=11, dtype=DOUBLE):
    generator = torch.Generator().manual_seed(channels)
    images = torch.randn(8, channels, height, width, generator=generator) + 0.7
    return images.to(dtype, memory_format=torch.channels_last)


def norm_of(channels, dtype=DOUBLE, negative=False):
    norm = nn.BatchNorm2d(channels, dtype=dtype)
    nn.init.uniform_(norm.weight, 0.2, 2)
    nn.init.normal_(norm.bias)
    if negative:
        norm.weight.data[::2] *= -1
    return norm


def trained_on(network, layers, images):
    """The output of a training step, and all that it leaves: gradients and statistics."""
    images = images.clone(memory_format=torch.preserve_format).requires_grad_()
    output = network.train()(images)
    weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(0)).to(output)
    (output * weights).sum().backward()
    gradients = [parameter.grad for parameter in layers.parameters()]
    return [output, images.grad, *gradients, *layers.buffers()]


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("channels", [1, 3, 16, 25])
@pytest.mark.parametrize("negative", [False, True])
def test_pooling_fused_with_normalisation_trains_the_same(uses, channels, pooling, negative):
    torch.manual_seed(0)
    plain = nn.Sequential(norm_of(channels, negative=negative), POOLINGS[pooling])
    other = copy.deepcopy(plain)
    expected = trained_on(plain, plain, maps(channels))
    found = trained_on(NormPool(*other), other, maps(channels))
    assert uses
    torch.testing.assert_close(found, expected, atol=1e-9, rtol=1e-9)


def test_it_does_so_in_float32(uses):
    torch.manual_seed(0)
    exact = nn.Sequential(norm_of(25), nn.MaxPool2d(2))
    other = copy.deepcopy(exact).float()
    images = maps(25, 16, 16, torch.float32)
    expected = trained_on(exact, exact, images.to(DOUBLE))
    found = trained_on(NormPool(*other), other, images)
    assert uses and found[0].dtype == found[1].dtype == torch.float32
    for one, two in zip(found, expected, strict=True):
        assert (one.to(DOUBLE) - two).norm() <= 1e-5 * two.to(DOUBLE).norm()


def hard_maps(number, dtype):
    """Random maps of as many pixels as real ones: every third far from zero for their spread, every
    other with blanks.
    """
    generator = torch.Generator().manual_seed(number)
    images = torch.randn(32, 10, 31, 28, generator=generator)
    if number % 3 == 0:
        images += 1e3
    if number % 2:
        images = images.relu()
    return images.to(dtype, memory_format=torch.channels_last)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_it_is_as_exact_as_torch_in_the_same_precision(uses, dtype):
    """The largest error of 50 random inputs, against float64; of those far from zero by itself."""
    largest = {
        (name, is_far): torch.zeros(6) for name in ("torch", "fused") for is_far in (True, False)
    }
    for number in range(50):
        torch.manual_seed(number)
        norm = norm_of(10, torch.float32, negative=number % 5 < 2)
        norm.weight.data[3] *= number % 7 > 0
        pooling = ("2", "ceil", "overlapping")[torch.randint(3, ())]
        images = hard_maps(number, dtype)
        layers = {"torch": [norm, POOLINGS[pooling], nn.ReLU()]}
        layers["fused"] = copy.deepcopy(layers["torch"])
        exact = nn.Sequential(*copy.deepcopy(layers["torch"])).to(DOUBLE)
        wanted = trained_on(exact, exact, images.to(DOUBLE))[:-1]  # without the count of batches
        for name, own in layers.items():
            network = NormPool(*own) if name == "fused" else None
            kept = nn.Sequential(*own)
            found = trained_on(network or kept, kept, images)[:-1]
            assert found[0].dtype == found[1].dtype == dtype
            kind = name, number % 3 == 0
            largest[kind] = torch.maximum(largest[kind], errors_of(found, wanted))
    assert uses
    for is_far in (True, False):
        allowed = 1.25 * largest["torch", is_far] + 1e-7  # of what has no error at all
        assert (largest["fused", is_far] <= allowed).all(), largest


def test_equal_pixels_send_their_gradient_to_one_of_them(uses):
    layers = nn.Sequential(norm_of(4), nn.MaxPool2d(2))
    other = copy.deepcopy(layers)
    flat = torch.zeros(2, 4, 6, 6, dtype=DOUBLE).to(memory_format=torch.channels_last)
    flat[1] = 1
    expected, found = trained_on(layers, layers, flat), trained_on(NormPool(*other), other, flat)
    assert uses
    torch.testing.assert_close(found, expected, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize(
    "layers",
    [
        pytest.param([nn.BatchNorm2d(3, affine=False)], id="no weights"),
        pytest.param([nn.BatchNorm2d(3, track_running_stats=False)], id="no statistics"),
        pytest.param([nn.BatchNorm2d(3, momentum=None)], id="cumulative statistics"),
        pytest.param([nn.BatchNorm2d(3).eval()], id="frozen"),
        pytest.param([nn.BatchNorm2d(3), nn.Tanh()], id="tanh"),
        pytest.param([nn.LeakyReLU(0.2)], id="leaky"),
        pytest.param([nn.GELU()], id="falls and rises"),
        pytest.param([nn.LeakyReLU(-0.5)], id="falls and rises too"),
    ],
)
def test_every_kind_of_layer_before_a_pooling_stays_the_same_function(uses, layers):
    plain = nn.Sequential(*layers, nn.MaxPool2d(2), nn.Flatten()).to(DOUBLE)
    other = copy.deepcopy(plain)
    for network in (plain, other):
        if not network[0].training:
            pin(network[0])
    network = fast_view(other.float(), (3, 13, 11))
    other.double()
    torch.testing.assert_close(
        trained_on(network, other, maps(3)), trained_on(plain, plain, maps(3))
    )
    with torch.no_grad():
        torch.testing.assert_close(network.eval()(maps(3)), plain.eval()(maps(3)))


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32)])
@pytest.mark.parametrize("name", [name for name in MODELS if name != "torchvision"])
def test_every_network_of_the_line_trains_the_same(uses, name, shape):
    torch.manual_seed(0)
    plain = build_model(name, shape, 10, **small(name))
    plain = plain.to(memory_format=torch.channels_last).double()
    other = copy.deepcopy(plain)
    images = torch.rand(16, *shape, generator=torch.Generator().manual_seed(1), dtype=DOUBLE)
    labels = torch.arange(16) % 10
    for network, layers in ((plain, plain), (fast_view(other.float(), shape).double(), other)):
        torch.manual_seed(2)  # of dropout
        outputs = network.train()(images)
        logits = outputs[0] if isinstance(outputs, tuple) else outputs
        F.cross_entropy(logits, labels).backward()
        assert all(p.dtype == DOUBLE for p in layers.parameters())
    has_pooling = any(isinstance(layer, nn.MaxPool2d) for layer in plain.modules())
    if name == "lenet":
        assert uses and has_pooling
    for (key, one), two in zip(plain.named_parameters(), other.parameters(), strict=True):
        if one.grad is not None:
            torch.testing.assert_close(two.grad, one.grad, atol=1e-6, rtol=1e-4, msg=key)
    torch.testing.assert_close(dict(other.named_buffers()), dict(plain.named_buffers()))


def test_the_layers_stay_those_of_the_model():
    model = build_model("lenet", (1, 28, 28), 10)
    names, state = list(model.state_dict()), copy.deepcopy(model.state_dict())
    random_state = torch.random.get_rng_state()
    network = fast_view(model, (1, 28, 28))
    assert [type(layer).__name__ for layer in network.features] == [
        "ConvNormPool", "SmallMapConv2d", "NormPool",
    ]  # fmt: skip
    assert set(network.parameters()) == set(model.parameters())
    assert list(model.state_dict()) == names and len(model.features) == 8
    torch.testing.assert_close(model.state_dict(), state, atol=0, rtol=0)
    assert torch.equal(torch.random.get_rng_state(), random_state)
    network.eval()
    assert not any(layer.training for layer in model.features)


def test_what_changes_its_input_in_place_still_learns(uses):
    norm = [nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2)]
    model = nn.Sequential(*norm, nn.Dropout(0.5, inplace=True), nn.Flatten(), nn.Linear(100, 3))
    fast_view(model, (1, 12, 12)).train()(torch.randn(4, 1, 12, 12)).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


class Tapped(nn.Module):
    """A network that uses a map from within its sequence."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2))
        self.head = nn.LazyLinear(3)

    def forward(self, images):
        rectified = self.features[:2](images)
        return self.head(
            torch.cat([self.features[2](rectified).flatten(1), rectified.flatten(1)], 1)
        )


@pytest.mark.parametrize("first_weights", ["random", "zero"])
def test_a_forward_that_uses_parts_of_a_sequence_is_left_alone(first_weights):
    model = Tapped()
    model(torch.zeros(1, 1, 8, 8))
    if first_weights == "zero":
        nn.init.zeros_(model.head.weight)
    assert not any(isinstance(each, NormPool) for each in fast_view(model, (1, 8, 8)).modules())
    assert type(fast_view(model, (1, 8, 8)).features[1]) is nn.ReLU


class TappedTwice(Tapped):
    """The same where nothing breaks: only the values would be others."""

    def forward(self, images):
        taken = [images := layer(images) for layer in self.features]
        return self.head(torch.cat([taken[-1].flatten(1), taken[1].flatten(1)[:, :9]], 1))


def test_other_values_are_noticed_whatever_the_first_weights(uses):
    model = TappedTwice()
    model(torch.zeros(1, 1, 8, 8))
    nn.init.zeros_(model.head.weight)
    assert not any(isinstance(each, NormPool) for each in fast_view(model, (1, 8, 8)).modules())
    assert type(fast_view(model, (1, 8, 8)).features[1]) is nn.ReLU


def test_a_layer_that_somebody_watches_stays_where_it_is():
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2))
    seen = []
    model[2].register_forward_hook(lambda *call: seen.append(call[2].shape))
    fast_view(model, (1, 8, 8))(torch.zeros(2, 1, 8, 8))
    assert seen[-1] == (2, 4, 6, 6)
