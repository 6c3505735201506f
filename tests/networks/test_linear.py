"""Linear layers that oneDNN computes are the same function, gradients and parameters."""

import copy

import pytest
import torch
from conftest import build_model
from torch import nn

from nanocnn.networks import fast_view, linear
from nanocnn.networks.exchange import exchanged
from nanocnn.networks.fast_view import class_for
from nanocnn.networks.linear import OneDNNLinear

pytestmark = pytest.mark.slow


@pytest.fixture
def uses(monkeypatch):
    """What oneDNN computed, on a processor for which it is chosen."""
    for module in (linear, fast_view):
        monkeypatch.setattr(module, "is_zen_5", lambda: True)
    calls, as_it_is = [], torch.Tensor.to_mkldnn
    monkeypatch.setattr(
        torch.Tensor, "to_mkldnn", lambda x, *rest: calls.append(x.shape) or as_it_is(x, *rest)
    )
    return calls


def with_onednn(model):
    return exchanged(model, class_for)


def perceptron(inputs=1024, bias=True):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(inputs, 512, bias=bias), nn.ReLU(), nn.Linear(512, 10))


def trained_on(network, layers, x):
    x = x.clone().requires_grad_()
    output = network(x)
    (output * torch.arange(10).to(output)).sum().backward()
    return [output.detach(), x.grad, *(parameter.grad for parameter in layers.parameters())]


@pytest.mark.parametrize("bias", [True, False])
def test_large_products_in_float32_are_as_exact(uses, bias):
    """Within three times the error of torch's own product: sums are taken in another order."""
    plain = perceptron(bias=bias)
    x = torch.randn(64, 1024, generator=torch.Generator().manual_seed(1))
    exact, other = copy.deepcopy(plain).double(), copy.deepcopy(plain)
    wanted = trained_on(exact, exact, x.double())
    own, found = trained_on(plain, plain, x), trained_on(with_onednn(other), other, x)
    assert uses[0] == (64, 1024) and (64, 512) not in uses[:1]
    for one, two, reference in zip(found, own, wanted, strict=True):
        assert one.dtype == torch.float32 and one.layout == torch.strided
        error = (one.double() - reference).norm()
        assert error <= 3 * (two.double() - reference).norm() + 1e-7 * reference.norm()


@pytest.mark.parametrize(
    ("x", "change"),
    [
        pytest.param(torch.randn(7, 8192), lambda _: perceptron(8192), id="large, of few images"),
        pytest.param(torch.randn(2, 1024), lambda network: network, id="few images"),
        pytest.param(torch.randn(64, 1024).double(), lambda each: each.double(), id="float64"),
        pytest.param(torch.randn(64, 1024).bfloat16(), lambda each: each.bfloat16(), id="bf16"),
        pytest.param(torch.randn(64, 8, 1024), lambda network: network, id="tokens"),
    ],
)
def test_other_products_stay_torchs_own(uses, x, change):
    network = change(perceptron())
    assert torch.equal(with_onednn(network)(x), network(x)) and not uses


def test_mixed_precision_stays_torchs_own(uses):
    network, x = perceptron(), torch.randn(64, 1024)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(with_onednn(network)(x), network(x)) and not uses


class Nested(nn.Module):
    """Layers in every kind of place, one of them twice."""

    def __init__(self):
        super().__init__()
        self.shared = nn.Linear(1024, 1024)
        self.parts = nn.ModuleDict({"again": self.shared, "none": nn.Identity()})
        self.missing = None
        self.register_module("gone", None)

    def forward(self, x):
        return self.parts["again"](self.shared(x))


def test_the_parameters_stay_those_of_the_model(uses):
    model = Nested()
    view = with_onednn(model)
    assert type(model.shared) is nn.Linear and type(view.shared) is OneDNNLinear
    assert list(view.state_dict()) == list(model.state_dict())
    assert set(view.parameters()) == set(model.parameters())
    view(torch.randn(64, 1024)).sum().backward()
    assert len(uses) == 2 and model.shared.weight.grad is not None
    view.eval()
    assert not model.shared.training
    model.shared.weight = nn.Parameter(torch.zeros(1024, 1024))
    assert view.shared.weight is model.shared.weight


def test_a_layer_that_somebody_watches_is_watched_still(uses):
    network, seen = perceptron(), []
    network[0].register_forward_hook(lambda *call: seen.append(call[2].shape))
    with_onednn(network)(torch.randn(64, 1024))
    assert seen == [(64, 512)] and uses


def test_layers_of_another_kind_stay(uses):
    class Own(nn.Linear):
        def forward(self, x):
            return super().forward(x) + 1

    network = nn.Sequential(Own(1024, 512))
    assert with_onednn(network) is network


def test_on_other_processors_nothing_changes(monkeypatch):
    found = {"cpu_name": "AMD EPYC", "avx512_f": True, "avx_vnni": True}
    for change, expected in (
        ({}, True),
        ({"cpu_name": "Intel(R) Xeon(R)"}, False),
        ({"avx512_f": False}, False),
        ({"avx_vnni": False}, False),
    ):
        linear.is_zen_5.cache_clear()
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda each=found | change: each)
        assert linear.is_zen_5() is expected
        network = perceptron()
        assert (with_onednn(network) is network) is not expected
    linear.is_zen_5.cache_clear()
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert not linear.is_zen_5()
    linear.is_zen_5.cache_clear()


@pytest.mark.parametrize("name", ["lenet", "mlp", "vgg11"])
def test_networks_of_the_line_give_the_same(uses, name):
    model = build_model(name, (1, 28, 28), 10).eval()
    images = torch.rand(64, 1, 28, 28)
    with torch.no_grad():
        found, expected = with_onednn(model)(images), model(images)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    assert uses
