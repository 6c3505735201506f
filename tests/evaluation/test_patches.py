"""Planted filters, an edge and a dot: patches and projection find what they were made for."""

import pytest
import torch
import torch.nn.functional as F
from conftest import build_model
from torch import nn

from nanocnn.evaluation.patches import patch, strongest
from nanocnn.evaluation.projection import NotPlainError, layers_up_to, project
from nanocnn.evaluation.receptive import receptive_fields

EDGE = torch.tensor([[-1.0, 0.0, 1.0]] * 3)
DOT = torch.tensor([[-1.0, -1.0, -1.0], [-1.0, 8.0, -1.0], [-1.0, -1.0, -1.0]])
SHAPE = (1, 12, 12)


@pytest.fixture
def planted():
    """conv - ReLU - pool - conv: the second layer sees edges alone, or dots alone."""
    model = nn.Sequential(
        nn.Conv2d(1, 2, 3, bias=False), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(2, 2, 1, bias=False)
    )
    model[0].weight.data = torch.stack([EDGE, DOT])[:, None]
    model[3].weight.data = torch.eye(2)[:, :, None, None]
    return model


@pytest.fixture
def images():
    """Ten nearly empty ones; the fourth has an edge from row 2 on, the eighth a dot at (7, 4)."""
    found = torch.randint(0, 20, (10, *SHAPE), generator=torch.Generator().manual_seed(0))
    found = found.to(torch.uint8)
    found[3, :, 2:7, 6:] = 230
    found[7, :, 7, 4] = 255
    return found


def both(images):
    """In batches of four, with their numbers."""
    numbers = torch.arange(len(images))
    return [(some, images[some].float() / 255) for some in numbers.split(4)]


def test_the_strongest_patches_are_those_that_filters_were_made_for(planted, images):
    top = strongest(planted, {"0": planted[0], "3": planted[3]}, both(images), 3)
    for name, responses in top.items():
        assert responses.images[0, 0] == 3 and responses.images[1, 0] == 7, name
        assert (responses.values.diff(dim=1) <= 0).all()
        assert all(len(set(row)) == 3 for row in responses.images.tolist())  # one an image
    fields = receptive_fields(planted, planted[0], SHAPE)
    edge, dot = (patch(images[i], int(top["0"].units[k, 0]), fields) for k, i in ((0, 3), (1, 7)))
    assert edge.shape == dot.shape == (2, 3, 3)
    assert (edge[0, :, 2] > 200).all() and (edge[0, :, 0] < 20).all()
    assert dot[0, 1, 1] == 255 and (dot[0].flatten()[[0, 1, 2, 3, 5, 6, 7, 8]] < 20).all()


def test_each_response_is_that_of_the_layer(planted, images):
    maps = planted[0](images.float() / 255).flatten(2).max(2).values
    top = strongest(planted, {"0": planted[0]}, both(images), 9)["0"]
    assert torch.equal(top.values, maps.T.sort(1, descending=True).values[:, :9])
    assert torch.equal(maps.T.gather(1, top.images), top.values)
    assert strongest(planted, {"0": planted[0]}, both(images[:4]), 9)["0"].values.shape == (2, 4)


def test_a_patch_ends_at_the_border():
    model = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1))
    fields = receptive_fields(model, model[0], (1, 4, 4))
    image = torch.arange(1, 17, dtype=torch.uint8).view(1, 4, 4)
    values, opacity = patch(image, 0, fields)
    assert values.tolist() == [[0, 0, 0], [0, 1, 2], [0, 5, 6]]
    assert (opacity > 0).tolist() == [[False] * 3, [False, True, True], [False, True, True]]
    values, _ = patch(image, 15, fields)
    assert values.tolist() == [[11, 12, 0], [15, 16, 0], [0, 0, 0]]


def test_projection_shows_what_a_unit_responded_to_and_nothing_else(planted, images):
    image = torch.maximum(images[3], images[7])[None].float() / 255  # an edge and a dot
    unit = planted(image).flatten(2).argmax(2)[0]
    layers = layers_up_to(planted, "3", SHAPE)
    edge, dot = project(layers, image.repeat(2, 1, 1, 1), torch.tensor([0, 1]), unit)
    assert dot[0].argmax() == 7 * 12 + 4  # the dot itself, and around it the filter
    assert torch.allclose(dot[0, 6:9, 3:6] / dot.max(), DOT / 8, atol=1e-6)
    assert int((dot != 0).sum()) == 9
    rows, columns = edge[0].nonzero(as_tuple=True)
    assert rows.min() >= 2 and rows.max() <= 7 and {5, 6} & set(columns.tolist())
    assert torch.equal(edge[0].nonzero(), (edge[0].abs() > 0).nonzero()) and edge.sum().abs() < 1e-5


def test_projection_is_unpooling_relu_and_transposed_convolution():
    torch.manual_seed(0)
    conv1, conv2 = nn.Conv2d(2, 5, 3, padding=1), nn.Conv2d(5, 4, 3, stride=2)
    model = nn.Sequential(conv1, nn.ReLU(inplace=True), nn.MaxPool2d(2), conv2)
    images = torch.randn(3, 2, 14, 14)
    first = conv1(images).relu()
    pooled, switches = F.max_pool2d(first, 2, return_indices=True)
    second = conv2(pooled)
    filters, units = torch.tensor([0, 3, 2]), second.flatten(2).argmax(2)[[0, 1, 2], [0, 3, 2]]
    kept = torch.zeros_like(second).flatten(2)
    kept[[0, 1, 2], filters, units] = second.flatten(2)[[0, 1, 2], filters, units].relu()
    back = F.conv_transpose2d(kept.view_as(second), conv2.weight, stride=2)
    back = F.max_unpool2d(back, switches, 2).relu()
    expected = F.conv_transpose2d(back, conv1.weight, padding=1)
    found = project(layers_up_to(model, "3", (2, 14, 14)), images, filters, units)
    assert expected.abs().max() > 0 and torch.allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "layer", "said"),
    [
        ("lenet5", "features.3", "features.1 is Tanh"),
        ("resnet18", "blocks.0.residual.3", "BatchNorm2d"),
    ],
)
def test_other_networks_are_refused_with_the_layer(name, layer, said):
    with pytest.raises(NotPlainError, match=said):
        layers_up_to(build_model(name, (1, 28, 28), 10), layer, (1, 28, 28))


def test_what_happens_between_layers_is_noticed():
    class Between(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3)

        def forward(self, images):
            return self.two(self.one(images).tanh()).mean((2, 3))

    with pytest.raises(NotPlainError, match="single line"):
        layers_up_to(Between(), "two", SHAPE)
