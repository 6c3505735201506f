"""What is said of a finished training: each rule where it should speak, and where it should not."""

import pytest
import torch
from torch import nn

from nanocnn.evaluation.activity import dead_units
from nanocnn.evaluation.remarks import remarks

KEYS = ("lr", "train_loss", "train_accuracy", "val_loss", "val_accuracy")
GOOD = [(0.1, 2.0, 0.3, 1.5, 0.5), (0.2, 1.0, 0.7, 0.8, 0.75), (0.0, 0.5, 0.9, 0.6, 0.85)]


def said(*epochs, confusion=None, classes=("a", "b", "c"), dead=None):
    rows = [
        {"epoch": n, "step": 30 * n, **dict(zip(KEYS, each, strict=True))}
        for n, each in enumerate(epochs, 1)
    ]
    judged = None
    if confusion:
        cells = torch.tensor(confusion).flatten()
        judged = torch.arange(len(cells)).repeat_interleave(cells)
        judged = judged // len(classes), judged % len(classes)
    return remarks(rows, judged, classes, dead or {})


def test_a_good_training_is_not_remarked_on():
    right = [[12, 1, 0], [0, 20, 0], [3, 0, 10]]
    alive = {"relu": torch.tensor([True, False, False])}
    assert said(*GOOD, confusion=right, dead=alive) == []
    assert said() == []
    assert said((None, 1.0, 0.5, None, None), (None, 0.5, 0.7, None, None)) == []  # no validation


@pytest.mark.parametrize(
    ("last", "speaks"),
    [
        ((0.0, 0.1, 1.0, 1.2, 0.74), True),
        ((0.0, 0.1, 0.8, 1.2, 0.74), False),  # no gap
        ((0.0, 0.1, 1.0, 0.8, 0.74), False),  # nor a loss that rose
        ((0.0, 1.1, 1.0, 1.2, 0.74), False),  # training does not get better either
    ],
)
def test_learning_by_heart(last, speaks):
    found = said(*GOOD[:2], last)
    assert [("by heart" in each) for each in found] == [True] * speaks
    assert not speaks or "from 0.8 in epoch 2 to 1.2" in found[0]


@pytest.mark.parametrize(
    ("last", "speaks"),
    [
        ((0.2, 0.5, 0.8, 0.6, 0.8), True),
        ((0.01, 0.5, 0.8, 0.6, 0.8), False),  # a rate that was lowered
        ((0.2, 0.5, 0.8, 0.78, 0.8), False),  # hardly
        ((0.2, 0.5, 0.8, 0.9, 0.8), False),
    ],
)
def test_a_validation_loss_that_still_falls(last, speaks):
    found = said((0.2, 2.0, 0.3, 1.5, 0.5), (0.2, 1.0, 0.7, 0.8, 0.75), last)
    assert ["still falls" in each for each in found] == [True] * speaks


def test_a_loss_that_rises_in_warm_up():
    rising = [(0.1, 2.0, 0.3, 1.5, 0.5), (0.2, 2.3, 0.3, 1.6, 0.5), (0.0, 1.0, 0.6, 1.0, 0.6)]
    assert ["rose in warm-up" in each for each in said(*rising)] == [True]
    steady = [(0.1, *each[1:]) for each in rising]  # no warm-up
    assert not any("warm-up" in each for each in said(*steady))


def test_classes_that_are_never_predicted():
    counts = [[15, 5, 0], [0, 20, 0], [3, 7, 0]]
    (found,) = said(*GOOD, confusion=counts)
    assert "1 of 3 classes are never predicted: c." in found
    row = dict(zip(KEYS, GOOD[0], strict=True)) | {"epoch": 1, "step": 1}  # a trial
    ones = torch.zeros(20, dtype=torch.long)
    assert remarks([row], (ones, ones + 1), "abc", {}) == []
    counts[2] = [3, 6, 0]  # 9 images are too few to say so
    assert said(*GOOD, confusion=counts) == []


def test_dead_units_are_counted_over_all_layers():
    half = {"one": torch.tensor([True] * 6), "two": torch.tensor([False] * 6)}
    (found,) = said(*GOOD, dead=half)
    assert "6 of 12" in found and "in one, 100%" in found
    half["two"] = torch.tensor([False] * 7)
    assert said(*GOOD, dead=half) == []


class Shared(nn.Module):
    """One ReLU in three places, the last of tokens (B, T, C)."""

    def __init__(self):
        super().__init__()
        self.relu = nn.ReLU()

    def forward(self, x):
        first = self.relu(x.sum(1, keepdim=True).expand(-1, 4))
        second = self.relu(-first[:, :2])
        return self.relu(second[:, None].expand(-1, 5, -1) + torch.tensor([1.0, -1.0]))


def test_a_unit_is_dead_that_answers_to_no_image():
    first, last = nn.Conv2d(1, 3, 1), nn.Linear(3 * 4, 2)
    with torch.no_grad():
        first.weight.copy_(torch.tensor([1.0, -1.0, 1.0]).reshape(3, 1, 1, 1))
        first.bias.copy_(torch.tensor([0.0, 0.0, -5.0]))
        last.weight.zero_()
        last.bias.copy_(torch.tensor([1.0, -1.0]))
    model = nn.Sequential(
        first, nn.BatchNorm2d(3, affine=False), nn.ReLU(), nn.Flatten(), last, nn.ReLU()
    )
    model[1].eval()
    before = [parameter.clone() for parameter in model.state_dict().values()]
    images = torch.full((4, 1, 2, 2), 2.0)
    found = dead_units(model, [images, images])
    assert found["2"].tolist() == [False, True, True] and found["5"].tolist() == [False, True]
    # an image to which the second answers, in another batch
    assert dead_units(model, [images, -images])["2"].tolist() == [False, False, True]
    assert model.training and not model[1].training
    found = dead_units(Shared(), [torch.ones(2, 3)])
    assert [each.tolist() for each in found.values()] == [[False] * 4, [True] * 2, [False, True]]
    after = model.state_dict().values()
    assert all(torch.equal(*pair) for pair in zip(before, after, strict=True))
    assert not model[2]._forward_hooks
