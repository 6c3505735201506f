"""Augmentation for photographs: each operation beside torchvision's, cut-outs, boxes, and until
when.
"""

import math
import os
import signal
from pathlib import Path

import pytest
import torch
import torchvision.transforms.v2.functional as theirs
from conftest import after, differences_of_runs, load_config
from torchvision.transforms import InterpolationMode

from nanocnn.config.schema import Augment, Data
from nanocnn.images.augment import augment, harmful
from nanocnn.images.training_data import TrainingData
from nanocnn.images.trivial import BLENDS, GEOMETRIC, OPERATIONS, operate, trivial_augment
from nanocnn.images.warp import cut_out, rectangles, sample
from nanocnn.system.errors import UserError
from nanocnn.training.learner import Learner

BILINEAR = InterpolationMode.BILINEAR


def pictures(count=3, channels=3, height=40, width=48):
    """Smooth ones, uint8, from black to white."""
    random = torch.Generator().manual_seed(0)
    seeds = torch.rand(count, channels, 6, 6, generator=random) * 300 - 20
    grown = torch.nn.functional.interpolate(seeds, size=(height, width), mode="bicubic")
    return grown.clamp(0, 255).round().to(torch.uint8)


def operated(name, images, strength, sign):
    numbers = (torch.full((len(images), 1, 1, 1), float(value)) for value in (strength, sign))
    return operate(name, images.float(), *numbers)


def torchvisions(name, images, strength, sign):
    amount, moved = strength * sign, images.float()
    factor, degrees = 1 + 0.99 * amount, math.degrees(math.atan(0.99 * amount))
    across, down = (min(32, 150 / 331 * side) * amount for side in (48, 40))
    return {
        "identity": lambda: images,
        "shear_x": lambda: theirs.affine(moved, 0, [0, 0], 1, [degrees, 0], BILINEAR),
        "shear_y": lambda: theirs.affine(moved, 0, [0, 0], 1, [0, degrees], BILINEAR),
        "translate_x": lambda: theirs.affine(moved, 0, [across, 0], 1, [0, 0], BILINEAR),
        "translate_y": lambda: theirs.affine(moved, 0, [0, down], 1, [0, 0], BILINEAR),
        "rotate": lambda: theirs.rotate(moved, -135 * amount, BILINEAR),
        "brightness": lambda: theirs.adjust_brightness(images, factor),
        "color": lambda: theirs.adjust_saturation(images, factor),
        "contrast": lambda: theirs.adjust_contrast(images, factor),
        "sharpness": lambda: theirs.adjust_sharpness(images, factor),
        "posterize": lambda: theirs.posterize(images, 8 - round(6 * strength)),
        "solarize": lambda: theirs.solarize(images, 256 * (1 - strength)),
        "autocontrast": lambda: theirs.autocontrast(images),
        "equalize": lambda: theirs.equalize(images),
    }[name]().float()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_is_torchvisions(name, channels):
    images = pictures(channels=channels)
    for strength, sign in ((0.1, 1), (0.1, -1), (0.5, -1), (1.0, 1), (1.0, -1)):
        ours = operated(name, images, strength, sign)
        expected = torchvisions(name, images, strength, sign)
        # what torchvision does to uint8 it rounds down, the mean of contrast and sharpness too
        atol = 2.1 if name in BLENDS else 0.01 if name in GEOMETRIC else 1.0
        torch.testing.assert_close(ours, expected, atol=atol, rtol=0)
        assert ours.min() >= 0 and ours.max() <= 255.001


@pytest.mark.parametrize("name", sorted(set(OPERATIONS) - {"autocontrast", "equalize"}))
def test_without_strength_an_operation_changes_nothing(name):
    images = pictures()
    images[0, :, 0, 0] = 255
    torch.testing.assert_close(operated(name, images, 0, 1), images.float(), atol=1e-3, rtol=0)


def test_flat_and_tiny_images_pass_every_operation():
    for images in (torch.full((2, 3, 9, 9), 7.0), torch.full((2, 1, 1, 2), 200.0)):
        for name in OPERATIONS:
            changed = operated(name, images, 0.5, 1)
            assert changed.shape == images.shape and changed.isfinite().all(), name
    flat = torch.full((2, 3, 9, 9), 7.0)
    for name in ("autocontrast", "equalize"):
        assert torch.equal(operated(name, flat, 1, 1), flat)


def test_each_operation_comes_to_about_as_many_images(monkeypatch):
    seen = {}

    def note(name, images, strength, sign):
        seen[name] = (len(images), strength.unique(), sign.unique())
        return images

    monkeypatch.setattr("nanocnn.images.trivial.operate", note)
    for channels, operations in ((3, set(OPERATIONS)), (1, set(OPERATIONS) - {"color"})):
        seen.clear()
        torch.manual_seed(0)
        trivial_augment(torch.zeros(7000, channels, 2, 2))
        assert seen.keys() == operations
        for count, strength, sign in seen.values():
            assert 400 < count < 650
            torch.testing.assert_close(strength, torch.arange(31) / 30)
            assert sign.tolist() == [-1, 1]


# cut out and enlarged


@pytest.mark.parametrize("size", [(20, 20), (21, 30)])
def test_the_whole_image_cut_out_is_the_image(size):
    images = pictures(height=size[0], width=size[1])
    cut = augment(images, Augment(random_resized_crop=[1.0, 1.0]))
    torch.testing.assert_close(cut, images.float(), atol=1e-3, rtol=0)


def test_what_is_cut_out_lies_in_the_image_and_is_enlarged_to_its_size():
    """Of images that hold their own coordinates, a crop tells where it came from."""
    height, width = 31, 44
    rows, columns = torch.meshgrid(torch.arange(31.0), torch.arange(44.0), indexing="ij")
    images = torch.stack([rows, columns]).expand(3000, -1, -1, -1)
    torch.manual_seed(0)
    cut = augment(images, Augment(random_resized_crop=[0.2, 0.7]))
    inner = cut[:, :, 2:-2, 2:-2]  # at the edge of the image there is black beside it
    down = inner[:, 0].diff(dim=1).mean((1, 2))  # the share of the height
    across = inner[:, 1].diff(dim=2).mean((1, 2))
    places = torch.stack([down, across], 1).view(-1, 2, 1, 1)
    middle = torch.tensor([(height - 1) / 2, (width - 1) / 2]).view(2, 1, 1)
    centre = cut[:, :, 15:16, 21:23].mean((2, 3), keepdim=True)
    grid = images[:1] - middle
    expected = (centre + grid * places)[:, :, 2:-2, 2:-2]
    torch.testing.assert_close(inner, expected, atol=1e-2, rtol=0)

    area = down * across
    assert 0.2 <= area.min() < 0.21 and 0.69 < area.max() < 0.701
    assert area.mean().item() == pytest.approx(0.45, abs=0.01)
    ratio = (down / across).log()
    assert ratio.abs().max() < math.log(4 / 3) + 0.01 and abs(ratio.mean()) < 0.01
    # the sides of the box: from -0.5 before the first pixel to half a pixel behind the last
    for axis, side in ((0, height), (1, width)):
        low = centre[:, axis].flatten() + 0.5 - places[:, axis].flatten() * side / 2
        high = centre[:, axis].flatten() + 0.5 + places[:, axis].flatten() * side / 2
        assert -0.01 < low.min() < 0.5 and side - 0.5 < high.max() < side + 0.01


def test_a_cut_out_is_torchvisions_of_the_same_box(monkeypatch):
    images = pictures(1, 3, 24, 24).float()
    box = [torch.full((1, 1, 1, 1), side / 24) for side in (12, 18)]
    monkeypatch.setattr("nanocnn.images.warp.rectangles", lambda *_: box)
    place = torch.tensor([2 / 6, 3 / 12]).view(1, 2, 1, 1)  # of the pixels that are free
    monkeypatch.setattr("torch.rand", lambda *_, **__: place)
    cut = sample(images, cut_out(images, [0.1, 1.0]))
    expected = theirs.resized_crop(images, 3, 2, 12, 18, [24, 24], BILINEAR, antialias=False)
    inner = (..., slice(1, -1), slice(1, -1))  # at its edge theirs knows nothing beyond the box
    torch.testing.assert_close(cut[inner], expected[inner], atol=1e-2, rtol=0)


def test_no_black_comes_in_at_the_edges_of_what_is_cut_out():
    cut = augment(torch.full((200, 1, 9, 12), 200.0), Augment(random_resized_crop=[0.1, 0.5]))
    torch.testing.assert_close(cut, torch.full_like(cut, 200.0))


# erasing


def test_erasing_puts_noise_in_a_whole_box_of_some_images():
    images = torch.zeros(4000, 3, 40, 60, dtype=torch.uint8)
    torch.manual_seed(0)
    erased = augment(images, Augment(erasing=0.4))
    assert erased.dtype == torch.uint8
    noise = erased[erased > 0].float()
    assert noise.mean().item() == pytest.approx(128, abs=1) and noise.max() == 255
    hidden = (erased > 0).any(1)
    changed = hidden.flatten(1).any(1)
    assert 0.37 < changed.float().mean() < 0.43
    rows, columns = hidden[changed].any(2), hidden[changed].any(1)
    for spans in (rows, columns):
        runs = (spans[:, 1:] != spans[:, :-1]).sum(1) + spans[:, 0] + spans[:, -1]
        assert (runs <= 2).all(), "not in one piece"
    shares = rows.float().mean(1) * columns.float().mean(1)
    assert 0.01 < shares.min() < 0.03 and 0.3 < shares.max() < 0.36
    assert shares.mean().item() == pytest.approx(0.175, abs=0.01)
    assert torch.equal(augment(images, Augment(erasing=0.0)), images)


def test_boxes_of_any_area_fit():
    images = torch.empty(5000, 1, 1, 1)
    torch.manual_seed(0)
    for areas in ((1.0, 1.0), (0.01, 1.0), (0.4, 0.6)):
        height, width = rectangles(images, areas, 10.0)
        assert max(height.max(), width.max()) <= 1 and min(height.min(), width.min()) > 0
        assert areas[0] - 1e-4 <= (height * width).min()
        assert (height * width).max() <= areas[1] + 1e-4


# until


@pytest.mark.parametrize(
    "until, epochs, last", [(0.9, 20, 18), (0.29, 100, 29), (0.5, 3, 1), (0.1, 2, 1), (1.0, 7, 7)]
)
def test_until_counts_whole_epochs(until, epochs, last):
    assert Augment(shift=2, until=until).last_of(epochs) == last


@pytest.mark.parametrize(
    "overrides, said",
    [
        (["data.augment={until: 0.5}"], r"augment.*until = 0\.5: cannot act, since nothing"),
        (
            ["data.augment.until=0.5", "train.epochs=1"],
            r"augment.until = 0\.5: cannot act with train.epochs = 1",
        ),
        (["data.augment.until=0"], r"until = 0: should be greater than 0"),
        (["data.augment.random_resized_crop=[0.9,0.5]"], r"random_resized_crop = \[0\.9, 0\.5\]"),
        (["data.augment.random_resized_crop=[0,1]"], r"random_resized_crop"),
        (["data.augment.random_resized_crop=0.5"], r"random_resized_crop"),
        (["data.augment.erasing=1.5"], r"erasing = 1\.5: should be less than or equal to 1"),
    ],
)
def test_what_cannot_act_is_refused(overrides, said):
    with pytest.raises(UserError, match=said):
        load_config("mnist.yaml", overrides)


UNTIL = ["data.limit=60", "train.epochs=3", "data.augment={shift: 3, mixup: 0.5, until: 0.6}"]


def test_the_last_epochs_see_images_as_they_are():
    config = load_config("digits.yaml", UNTIL)
    data = TrainingData(config)
    assert all(labels.ndim == 2 for _, _, labels in data.epoch(1))
    as_they_are = torch.cat([images for images, _ in data.train]).flatten(1).unique(dim=0)
    for number in (2, 3):
        images, labels = zip(*[batch for _, *batch in data.epoch(number)], strict=True)
        assert torch.equal(torch.cat(images).flatten(1).unique(dim=0), as_they_are)
        assert all(label.ndim == 1 for label in labels)


@pytest.mark.parametrize("step", [1, 3])
def test_a_run_that_is_stopped_before_or_after_until_comes_to_the_same_bits(
    script, monkeypatch, step
):
    typed = [*UNTIL, "train.batch_size=30", "data.augment.trivial_augment=true"]
    typed += ["data.augment.random_resized_crop=[0.5,1]", "data.augment.erasing=0.5"]
    done = script("train.py", *typed, "--run-dir", "whole")
    assert done.code == 0 and "augmented: up to epoch 1 of 3" in done.out
    with monkeypatch.context() as patched:
        after(patched, Learner, "step", step, lambda: os.kill(os.getpid(), signal.SIGTERM))
        assert script("train.py", *typed, "--run-dir", "parts").code == 143
    assert script("train.py", "--resume", "parts").code == 0
    assert differences_of_runs(Path("whole"), Path("parts")) == []


def test_an_operation_that_turns_digits_is_warned_of():
    (warning,) = harmful(Data(augment=Augment(trivial_augment=True)))
    assert "trivial_augment" in warning and "a 6 into a 9" in warning
    assert harmful(Data(dataset="cifar10", augment=Augment(trivial_augment=True))) == []
