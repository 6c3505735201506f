"""Receptive fields, against a network that is asked pixel by pixel."""

import pytest
import torch
from conftest import build_model
from torch import nn

from nanocnn.evaluation import receptive
from nanocnn.evaluation.receptive import output_of, receptive_fields

SHAPE = (2, 13, 11)


class Branches(nn.Module):
    """Two branches of other strides and sizes, and a way around a convolution."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(2, 8, 3, stride=2, padding=1)
        self.wide = nn.Conv2d(8, 8, (5, 1), padding=(2, 0))
        self.narrow = nn.Conv2d(8, 8, 1)
        self.block = nn.Conv2d(16, 16, 3, padding=1, dilation=1)
        self.last = nn.Conv2d(16, 8, (1, 2), stride=(2, 1))

    def forward(self, images):
        x = self.stem(images).relu()
        x = torch.cat([self.wide(x), self.narrow(x)], 1)
        return self.last(x + self.block(x).relu()).mean((2, 3))


NETWORKS = {
    "plain": nn.Sequential(
        nn.Conv2d(2, 8, 3, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, ceil_mode=True),
        nn.BatchNorm2d(8),
        nn.Conv2d(8, 8, 2, stride=2, padding=1),
    ),
    "dilated": nn.Sequential(
        nn.Conv2d(2, 8, 4, padding="same", dilation=2), nn.Tanh(), nn.Conv2d(8, 8, (1, 3), groups=2)
    ),
    "branches": Branches(),
}


def by_trial(model, layer):
    """For each unit of the map (h, w) which rows and columns change it, pixel by pixel."""
    generator = torch.Generator().manual_seed(0)
    height, width = SHAPE[1:]
    changed = torch.tensor(False)
    for _ in range(6):
        images = torch.randn(1, *SHAPE, generator=generator, dtype=torch.float64).repeat(
            1 + height * width, 1, 1, 1
        )
        for place in range(height * width):
            noise = 50 * torch.randn(2, generator=generator, dtype=torch.float64)
            images[1 + place, :, place // width, place % width] += noise
        with torch.no_grad():
            maps = output_of(model, layer, images)
        changed = changed | ((maps[1:] - maps[:1]).abs() > 1e-9).any(1)
    return changed.unflatten(0, (height, width)).permute(2, 3, 0, 1)  # (h, w, height, width)


def hull(places):
    found = places.nonzero().flatten().tolist()
    return range(found[0], found[-1] + 1) if found else range(0)


@pytest.mark.parametrize("name", NETWORKS)
def test_fields_are_the_pixels_that_a_unit_changes_with(name):
    torch.manual_seed(0)
    model = NETWORKS[name]
    layer = [each for each in model.modules() if isinstance(each, nn.Conv2d)][-1]
    fields = receptive_fields(model, layer, SHAPE)
    seen = by_trial(model.double(), layer)
    model.float()
    assert seen.shape[:2] == (len(fields.rows), len(fields.columns))
    for row, rows in enumerate(fields.rows):
        for column, columns in enumerate(fields.columns):
            sees = seen[row, column]
            assert len(rows) == len(hull(sees.any(1))) and len(columns) == len(hull(sees.any(0)))
            if rows and columns:
                assert (rows, columns) == (hull(sees.any(1)), hull(sees.any(0)))


class Odd(nn.Module):
    """Takes images of one shape alone, or looks elsewhere in those of another."""

    def __init__(self, takes_others):
        super().__init__()
        self.conv, self.takes_others = nn.Conv2d(1, 2, 3), takes_others

    def forward(self, images):
        if images.shape[1:] != SHAPE:
            assert self.takes_others
            images = images.roll(1, 2)
        return self.conv(images[:, :1]).mean((2, 3))


@pytest.mark.parametrize(
    "model", [*NETWORKS.values(), Odd(False), Odd(True)], ids=[*NETWORKS, "one shape", "odd"]
)
def test_of_large_images_a_strip_will_do_but_where_it_does_not(model, monkeypatch):
    layer = [each for each in model.modules() if isinstance(each, nn.Conv2d)][-1]
    expected = receptive_fields(model, layer, SHAPE)
    shapes = set()
    note = model.register_forward_pre_hook(lambda _, inputs: shapes.add(inputs[0].shape[1:]))
    monkeypatch.setattr(receptive, "NARROW", 7)
    assert receptive_fields(model, layer, SHAPE) == expected
    note.remove()
    assert shapes == {SHAPE, (2, 7, 11), (2, 13, 7)}


def test_those_of_lenet_are_what_one_works_out_by_hand():
    model = build_model("lenet", (1, 28, 28), 10)
    first, second = (
        receptive_fields(model, model.get_submodule(name), (1, 28, 28))
        for name in ("features.0", "features.4")
    )
    assert first.size == (3, 3) and first.rows[:2] == [range(3), range(1, 4)]
    assert second.size == (8, 8) and second.rows[:2] == [range(8), range(2, 10)]
    assert (len(first.rows), len(second.columns)) == (26, 11)


def test_a_layer_after_one_that_looks_everywhere_does_so_too():
    class Squeeze(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.after = nn.Conv2d(1, 2, 3), nn.Conv2d(2, 2, 1)

        def forward(self, images):
            x = self.conv(images)
            return self.after(x * x.mean((2, 3), keepdim=True).sigmoid()).mean((2, 3))

    model = Squeeze()
    assert receptive_fields(model, model.conv, (1, 9, 9)).size == (3, 3)
    assert receptive_fields(model, model.after, (1, 9, 9)).rows == [range(9)] * 7


def test_a_unit_beyond_the_image_depends_on_nothing():
    model = nn.Sequential(nn.Conv2d(1, 1, 3, padding=5))
    rows = receptive_fields(model, model[0], (1, 6, 6)).rows
    assert [len(each) for each in rows[:6]] == [0, 0, 0, 1, 2, 3] and not rows[-1]
