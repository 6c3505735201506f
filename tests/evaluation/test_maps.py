"""What the layers make of an image, step by step."""

import torch
from conftest import build_model, small
from torch import nn

from nanocnn.evaluation.maps import MOST_STEPS, convolutions, steps
from nanocnn.networks.table import trace


def test_a_step_ends_where_the_shape_changes_or_another_map_goes_on():
    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Conv2d(1, 2, 3), nn.Conv2d(1, 2, 5)
            self.act = nn.ReLU()

        def forward(self, images):
            first, second = self.one(images), self.two(images)
            return self.act(first).mean((2, 3)) + second.add_(9).mean((2, 3))

    model, image = Branches(), torch.rand(1, 1, 9, 9)
    found, left_out = steps(model, image)
    assert [(step.name, step.layers) for step in found] == [
        ("one", "Conv2d"),
        ("two", "Conv2d"),
        ("act", "ReLU"),
    ]
    assert left_out == 0 and torch.equal(found[1].values, model.two(image)[0])  # as it was made


def test_each_step_has_what_its_last_layer_made():
    conv = nn.Conv2d(1, 3, 3)
    model = nn.Sequential(conv, nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Flatten())
    image = torch.randn(1, 1, 8, 8)
    first, second, third = steps(model, image)[0]
    assert (first.layers, first.arithmetic) == ("Conv2d, ReLU", "(8 + 2*0 - 3)/1 + 1 = 6")
    assert torch.equal(first.values, conv(image)[0].relu())
    assert torch.equal(third.values, second.values.flatten()) and second.values.shape == (3, 3, 3)


def test_of_many_steps_the_last_of_each_size_stay():
    model = build_model("googlenet", (1, 28, 28), 10, **small("googlenet"))
    found, left_out = steps(model, torch.rand(1, 1, 28, 28))
    assert len(found) <= MOST_STEPS and left_out > 40
    sizes = [step.values.shape[1] for step in found if step.values.ndim == 3]
    assert sizes == [28, 14, 7, 3, 1] and found[-1].values.shape == (10,)


def test_convolutions_of_one_unit_and_of_several_calls_are_left_out():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.same, self.once = nn.Conv2d(1, 1, 3, padding=1), nn.Conv2d(1, 2, 3)
            self.gate = nn.Conv2d(2, 2, 1)

        def forward(self, images):
            x = self.once(self.same(self.same(images)))
            return (x * self.gate(x.mean((2, 3), keepdim=True))).mean((2, 3))

    calls, _ = trace(Twice(), (1, 8, 8))
    assert [call.name for call in convolutions(calls)] == ["once"]
