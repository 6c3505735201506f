"""Grad-CAM: what it is of, and that it tells a trained network from one that was not."""

import numpy as np
import pytest
import torch
from conftest import CPU, NETWORKS, build_model, restore
from scipy.stats import rankdata
from torch import nn

from nanocnn.evaluation.gradcam import gradcam, target_of
from nanocnn.images.batches import Batches
from nanocnn.images.splits import load_split
from nanocnn.networks.build import build_network


def likeness(one, other):
    """The mean Spearman correlation of maps (N, h, w); 1 where a map has nothing to correlate."""
    ranks = [rankdata(maps.flatten(1).numpy(), axis=1) for maps in (one, other)]
    first, second = (each - each.mean(1, keepdims=True) for each in ranks)
    size = np.sqrt((first**2).sum(1) * (second**2).sum(1))
    return np.where(size > 0, (first * second).sum(1) / np.maximum(size, 1e-9), 1.0).mean()


def test_it_shows_what_was_learned(digits_run):
    """The check of J. Adebayo et al., Sanity Checks for Saliency Maps (2018)."""
    model, config, info, _, _ = restore(digits_run)
    split = load_split("val", config.data, config.seed, info)
    images, labels = next(iter(Batches(split, info, 100, CPU)))
    drawn_again = build_network(
        config.model_copy(update={"seed": 7}), NETWORKS, info.image_shape, len(info.classes)
    )
    assert len(images) == 100
    layer = target_of(model, info.image_shape).name
    maps = gradcam(model, layer, images, labels)
    assert likeness(maps, gradcam(model, layer, images, labels)) == pytest.approx(1)
    assert likeness(maps, gradcam(drawn_again, layer, images, labels)) < 0.5


class Evidence(nn.Module):
    """One map speaks for class 0, the other for class 1."""

    def __init__(self, outputs):
        super().__init__()
        self.conv, self.outputs = nn.Conv2d(2, 2, 1, bias=False), outputs
        self.conv.weight.data = torch.eye(2)[:, :, None, None]

    def forward(self, images):
        first, second = self.conv(images).sum((2, 3)).unbind(1)
        none = torch.zeros_like(first) if self.outputs == 1 else first - second
        return torch.stack([none, second - first], 1)


@pytest.mark.parametrize("outputs", [1, 2])
def test_both_of_two_classes_have_a_map(outputs):
    """By hand: the gradients are 1 and -1, of the one output of a logistic network half of that."""
    images = torch.rand(2, 2, 8, 8)
    maps = gradcam(Evidence(outputs), "conv", images, torch.tensor([0, 1]))
    difference = images[:, 0] - images[:, 1]
    expected = torch.stack([difference[0], -difference[1]]).relu() * outputs / 2
    assert (difference < 0).any() and (difference > 0).any()
    assert maps.shape == (2, 8, 8) and torch.allclose(maps, expected.double(), atol=1e-6)


@pytest.mark.parametrize(
    ("name", "target", "shape"),
    [
        ("lenet", "features.6", (50, 11, 11)),  # the ReLU after the convolution
        ("lenet5", "features.5", (16, 10, 10)),  # the last but one: the last has a single unit
        ("resnet18", "blocks", (512, 4, 4)),
        ("airbench", "groups", (256, 3, 3)),
        ("googlenet", "to_5b", (1024, 3, 3)),
    ],
)
def test_the_last_maps_of_convolutions_are_taken(name, target, shape):
    found = target_of(build_model(name, (1, 28, 28), 10), (1, 28, 28))
    assert (found.name, found.shape) == (target, shape)


def test_without_convolutions_there_is_no_target():
    assert target_of(build_model("mlp", (1, 8, 8), 2), (1, 8, 8)) is None
