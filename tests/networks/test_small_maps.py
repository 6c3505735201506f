"""A convolution that makes small maps is the same function, with gradients as exact as torch's."""

import copy

import pytest
import torch
from conftest import build_model, errors_of
from torch import nn

from nanocnn.networks import fast_view as fast_view_module
from nanocnn.networks import small_maps
from nanocnn.networks.exchange import exchanged
from nanocnn.networks.fast_view import class_for, fast_view
from nanocnn.networks.small_maps import ConvolvedSmall, SmallMapConv2d

pytestmark = pytest.mark.slow

BF16 = torch.bfloat16


@pytest.fixture
def uses(monkeypatch):
    """How often the gradient was one product; here of few values too, on any processor."""
    monkeypatch.setattr(small_maps, "is_zen_5", lambda: True)
    monkeypatch.setattr(SmallMapConv2d, "least", 0)
    monkeypatch.setattr(SmallMapConv2d, "least_strided", 0)
    return counted(monkeypatch)


def counted(monkeypatch):
    calls, apply = [], ConvolvedSmall.apply
    monkeypatch.setattr(ConvolvedSmall, "apply", lambda *inputs: calls.append(1) or apply(*inputs))
    return calls


def maps(*shape, number=0, layout=torch.channels_last):
    generator = torch.Generator().manual_seed(number)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(memory_format=layout)


def trained_on(network, layer, x, dtype=None):
    """Output and gradients, in bf16 with `dtype`."""
    x = x.clone(memory_format=torch.preserve_format).requires_grad_()
    with torch.autocast("cpu", dtype or BF16, enabled=dtype is not None):
        output = network(x)
    weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(1)).to(output)
    (output * weights).sum().backward()
    return [output.detach(), x.grad, *(parameter.grad for parameter in layer.parameters())]


CONVOLUTIONS = [
    ({"kernel_size": 3, "padding": 1}, (4, 4)),
    ({"kernel_size": 3, "padding": 1, "bias": False}, (3, 5)),
    ({"kernel_size": 4, "stride": 2, "padding": 1}, (6, 6)),
    ({"kernel_size": (3, 2), "stride": (2, 1), "padding": (0, 1)}, (7, 3)),
    ({"kernel_size": 1, "stride": 2}, (7, 8)),
    ({"kernel_size": 5}, (5, 5)),
    ({"kernel_size": 2, "stride": 3}, (9, 8)),  # what is never looked at has no gradient
]


@pytest.mark.parametrize(("options", "size"), CONVOLUTIONS)
def test_its_gradients_are_those_of_torch(options, size):
    """In float64, where nothing is rounded."""
    torch.manual_seed(0)
    plain = nn.Conv2d(6, 8, **options).double().to(memory_format=torch.channels_last)
    x, other = maps(5, 6, *size), copy.deepcopy(plain)
    expected = trained_on(plain, plain, x)
    x = x.clone(memory_format=torch.preserve_format).requires_grad_()
    found = ConvolvedSmall.apply(x, other.weight, other.bias, other.stride, other.padding)
    weights = torch.randn(found.shape, generator=torch.Generator().manual_seed(1)).to(found)
    (found * weights).sum().backward()
    gradients = [x.grad, *(parameter.grad for parameter in other.parameters())]
    torch.testing.assert_close([found.detach(), *gradients], expected, atol=1e-11, rtol=1e-11)


@pytest.mark.parametrize(("options", "size"), CONVOLUTIONS)
def test_it_is_as_exact_as_torch_in_bf16(uses, options, size):
    """The largest error of 50 random inputs, against float64."""
    largest: dict[str, torch.Tensor] = {}
    for number in range(50):
        torch.manual_seed(number)
        layer = nn.Conv2d(16, 24, **options)
        for parameter in layer.parameters():
            parameter.data = parameter.data.to(BF16).float()  # what is rounded in both
        x = maps(32, 16, *size, number=number) + (10 if number % 3 == 0 else 0)
        x = x.to(BF16).to(memory_format=torch.channels_last)
        exact = copy.deepcopy(layer).double()
        wanted = trained_on(exact, exact, x.double())
        for name in ("torch", "product"):
            own = copy.deepcopy(layer).to(memory_format=torch.channels_last)
            network = exchanged(own, lambda _: SmallMapConv2d) if name == "product" else own
            found = trained_on(network, own, x, BF16)
            assert found[0].dtype == BF16
            errors = errors_of(found, wanted)
            largest[name] = torch.maximum(largest.get(name, errors), errors)
    assert len(uses) == 50
    assert (largest["product"] <= 1.25 * largest["torch"] + 1e-7).all(), largest


OTHERS = {
    "larger maps": ({"kernel_size": 3, "padding": 2}, maps(4, 6, 3, 2), BF16),
    "no autocast": ({"kernel_size": 3, "padding": 1}, maps(4, 6, 4, 4), None),
    "float16": ({"kernel_size": 3, "padding": 1}, maps(4, 6, 4, 4), torch.float16),
    "same": ({"kernel_size": 3, "padding": "same"}, maps(4, 6, 4, 4), BF16),
    "groups": ({"kernel_size": 3, "padding": 1, "groups": 2}, maps(4, 6, 4, 4), BF16),
    "dilation": ({"kernel_size": 2, "dilation": 2}, maps(4, 6, 4, 4), BF16),
    "circular": (
        {"kernel_size": 3, "padding": 1, "padding_mode": "circular"},
        maps(4, 6, 4, 4),
        BF16,
    ),
    "one image": ({"kernel_size": 3, "padding": 1}, maps(1, 6, 4, 4)[0], BF16),
    "other layout": (
        {"kernel_size": 3, "padding": 1},
        maps(4, 6, 4, 4, layout=torch.contiguous_format),
        BF16,
    ),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_convolutions_stay_torchs_own(uses, name):
    options, x, dtype = OTHERS[name]
    plain = nn.Conv2d(6, 4, **options)
    layer = exchanged(plain, lambda _: SmallMapConv2d)
    trained_on(layer, plain, x.float(), dtype)
    assert type(layer) is SmallMapConv2d and not uses


def test_float64_is_not_rounded(uses):
    """Autocast leaves it as it is."""
    plain = nn.Conv2d(6, 4, 3, padding=1).double().to(memory_format=torch.channels_last)
    layer = exchanged(plain, lambda _: SmallMapConv2d)
    assert trained_on(layer, plain, maps(4, 6, 4, 4), BF16)[0].dtype == torch.float64
    assert not uses


@pytest.mark.parametrize(("name", "value"), [("stride", 2), ("padding", 1), ("padding", (1,))])
def test_a_stride_or_padding_that_is_set_later_may_be_one_number(uses, name, value):
    plain = nn.Conv2d(6, 4, 3).to(memory_format=torch.channels_last)
    setattr(plain, name, value)
    layer = exchanged(plain, lambda _: SmallMapConv2d)
    x = maps(4, 6, 5, 5).float()
    found, expected = trained_on(layer, plain, x, BF16)[0], trained_on(plain, plain, x, BF16)[0]
    assert torch.equal(found, expected) and not uses


@pytest.mark.parametrize(
    ("stride", "is_zen_5", "expected"),
    [(1, True, []), (2, True, [1]), (2, False, [])],
    ids=["few products", "with a stride fewer will do", "another processor"],
)
def test_where_it_would_not_pay_convolutions_stay_torchs_own(
    monkeypatch, stride, is_zen_5, expected
):
    monkeypatch.setattr(small_maps, "is_zen_5", lambda: is_zen_5)
    uses = counted(monkeypatch)
    conv = nn.Conv2d(64, 64, 3, padding=1, stride=stride).to(memory_format=torch.channels_last)
    layer = exchanged(conv, class_for)
    trained_on(layer, layer, maps(64, 64, 4 * stride, 4 * stride).float(), BF16)
    assert uses == expected


def test_nothing_is_computed_for_weights_that_do_not_learn(uses):
    plain = nn.Conv2d(6, 4, 3, padding=1).to(memory_format=torch.channels_last)
    layer, x = exchanged(plain, lambda _: SmallMapConv2d), maps(4, 6, 4, 4).float()
    with torch.autocast("cpu", BF16):
        with torch.no_grad():
            layer(x)
        plain.weight.requires_grad_(False)
        layer(x)
    assert not uses


def test_a_second_gradient_is_refused(uses):
    plain = nn.Conv2d(6, 4, 3, padding=1).to(memory_format=torch.channels_last)
    layer = exchanged(plain, lambda _: SmallMapConv2d)
    with torch.autocast("cpu", BF16):
        loss = layer(maps(4, 6, 4, 4).float()).float().square().sum()
    assert uses
    (gradient,) = torch.autograd.grad(loss, plain.weight, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


class Mapped(nn.Module):
    """Convolves each of several maps of an image by itself."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, stride=2)
        self.head = nn.Linear(4, 10)

    def forward(self, x):
        maps = torch.func.vmap(self.conv)(torch.stack([x, x.flip(3)]))
        return self.head(maps.mean((0, 3, 4)))


@pytest.fixture
def on_zen_5(monkeypatch):
    for module in (small_maps, fast_view_module):
        monkeypatch.setattr(module, "is_zen_5", lambda: True)


def test_what_only_training_in_bf16_would_show_is_tried(on_zen_5):
    model = Mapped()
    assert fast_view(model, (1, 8, 8)) is model


class Float32Only(nn.Sequential):
    """What takes no maps in bf16."""

    def forward(self, x):
        return self[2](self[1](torch.lerp(x.mean(), self[0](x), 0.5)))


def test_a_network_that_does_not_run_in_bf16_has_the_view_in_float32(on_zen_5):
    model = Float32Only(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(144, 10))
    with torch.autocast("cpu", BF16), pytest.raises(RuntimeError):
        model(torch.rand(2, 1, 8, 8))
    assert isinstance(fast_view(model, (1, 8, 8))[0], SmallMapConv2d)


def test_a_convolution_that_computes_otherwise_stays():
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(144, 10))
    conv = model[0]
    conv._conv_forward = lambda x, weight, bias: 2 * torch.conv2d(x, weight, bias)
    assert fast_view(model, (1, 8, 8))[0] is conv


def test_a_deep_network_has_the_gradients_that_it_had(uses):
    """Those of all layers before and behind, within what bf16 rounds."""
    torch.manual_seed(0)
    model = build_model("resnet18", (3, 32, 32), 10, width=0.5)
    model = model.to(memory_format=torch.channels_last)
    view = fast_view(model, (3, 32, 32))
    images = torch.rand(32, 3, 32, 32)
    uses.clear()
    found = []
    for network in (view, model):
        model.zero_grad()
        with torch.autocast("cpu", BF16):
            loss = nn.functional.cross_entropy(network.train()(images), torch.arange(32) % 10)
        loss.backward()
        found.append(torch.cat([each.grad.flatten() for each in model.parameters()]))
    assert uses
    assert (found[0] - found[1]).norm() < 0.05 * found[1].norm()
