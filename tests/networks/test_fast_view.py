"""The network that is computed has the layers, parameters and gradients of the model."""

import copy

import pytest
import torch
from conftest import build_model, small
from torch import nn

from model import MODELS
from nanocnn.networks import fast_view as fast_view_module
from nanocnn.networks import linear
from nanocnn.networks.exchange import exchanged
from nanocnn.networks.fast_view import LaidOutFlatten, class_for, fast_view

pytestmark = pytest.mark.slow


def test_the_gradient_of_what_is_flattened_lies_as_the_maps_do():
    layouts = []
    for layout in (torch.channels_last, torch.contiguous_format):
        maps = torch.randn(2, 3, 4, 5).to(memory_format=layout).requires_grad_()
        passed = maps * 1
        maps.register_hook(lambda grad: layouts.append(grad.stride()))
        view = exchanged(nn.Sequential(nn.Flatten()), class_for)
        assert type(view[0]) is LaidOutFlatten
        weights = torch.randn(2, 60)
        (view(passed) * weights).sum().backward()
        assert torch.equal(maps.grad, weights.view(2, 3, 4, 5))
        assert layouts[-1] == maps.stride()


def test_flattening_what_needs_no_gradient_and_other_shapes():
    view = LaidOutFlatten()
    assert view(torch.zeros(2, 3, 4, 5)).shape == (2, 60)
    assert view(torch.zeros(2, 3, 4, requires_grad=True)).shape == (2, 12)


class Outside(nn.Module):
    """Reaches parts of itself otherwise than by their names, and asks what they are."""

    def __init__(self, way):
        super().__init__()
        self.way = way
        self.part = nn.Sequential(nn.Flatten(), nn.Linear(64, 8))
        self.inner = Inner()
        self.kept = [self.part, self.inner]

    def forward(self, images):
        if self.way == "a list":
            return self.kept[1](self.kept[0](images))
        if self.way == "identity":
            return self.part(images) + (1.0 if self.kept[0] is self.part else 2.0)
        return self.part(images) + (1.0 if type(self.part[1]) is nn.Linear else 2.0)


class Inner(nn.Module):
    def __init__(self):
        super().__init__()
        self.flat = nn.Flatten()

    def forward(self, x):
        return nn.functional.dropout(self.flat(x), 0.5, self.training)


@pytest.mark.parametrize("way", ["a list", "identity", "type"])
def test_a_network_that_a_view_would_change_stays_as_it_is(monkeypatch, way):
    for module in (fast_view_module, linear):
        monkeypatch.setattr(module, "is_zen_5", lambda: True)
    model = Outside(way)
    assert fast_view(model, (1, 8, 8)) is model


class Counting(nn.Module):
    """Keeps more in its checkpoint than tensors."""

    def __init__(self):
        super().__init__()
        self.steps, self.flat = 0, nn.Flatten()

    def forward(self, images):
        self.steps += self.training
        return self.flat(images)

    def get_extra_state(self):
        return self.steps

    def set_extra_state(self, state):
        self.steps = state


def test_a_network_with_more_to_keep_stays_as_it_is():
    model = Counting()
    assert fast_view(model, (1, 8, 8)) is model


def test_large_images_gain_nothing():
    model = nn.Sequential(nn.Flatten(), nn.Linear(65 * 65, 2))
    assert fast_view(model, (1, 65, 65)) is model
    assert fast_view(nn.Sequential(nn.Flatten(), nn.Linear(64, 2)), (1, 8, 8)) is not model


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32)])
@pytest.mark.parametrize("name", [name for name in MODELS if name != "torchvision"])
def test_every_network_of_the_line_is_the_same(name, shape):
    """At full width where that is quick, so that layers are large enough to be exchanged."""
    torch.manual_seed(0)
    options = {} if name in ("lenet", "mlp", "lenet5", "convnet") else small(name)
    plain = build_model(name, shape, 10, **options).to(memory_format=torch.channels_last)
    other = copy.deepcopy(plain)
    exact = copy.deepcopy(plain).double()
    view = fast_view(other, shape)
    images = torch.rand(48, *shape, generator=torch.Generator().manual_seed(1))
    weights = torch.linspace(-1, 1, 480).view(48, 10)
    for network, kind in ((plain, torch.float32), (view, torch.float32), (exact, torch.float64)):
        torch.manual_seed(2)  # of dropout
        outputs = network.train()(images.to(kind))
        logits = outputs[0] if isinstance(outputs, tuple) else outputs
        (logits * weights.to(kind)).sum().backward()
    torch.testing.assert_close(
        dict(other.named_buffers()), dict(plain.named_buffers()), atol=1e-4, rtol=1e-3
    )
    with torch.no_grad():
        found, expected = view.eval()(images), exact.eval()(images.double())
    assert (found.double() - expected).norm() <= 1e-4 * expected.norm()
    for own, found, wanted in zip(
        plain.parameters(), other.parameters(), exact.parameters(), strict=True
    ):
        if own.grad is not None:
            error, usual = ((each.grad.double() - wanted.grad).norm() for each in (found, own))
            assert error <= 4 * usual + 1e-5 * wanted.grad.norm()
