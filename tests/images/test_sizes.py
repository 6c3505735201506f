"""data.image_size as height and width."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import load_config
from PIL import Image
from test_lists import folder, options, pictures

from nanocnn.config.schema import Data
from nanocnn.images.splits import image_shape, load_splits
from nanocnn.run.checkpoint import load_checkpoint
from nanocnn.system.errors import UserError

EVERYTHING = (
    "data.augment={shift: 2, rotate: 10, scale: 0.1, shear: 5, elastic: 1, flip: true, crop: 2, "
    "cutout: 4, brightness: 0.1, contrast: 0.1, mixup: 0.2, cutmix: 1.0}"
)


def half_white(path, size=(40, 20)):
    """Black above, white below."""
    pixels = np.zeros((size[1], size[0]), np.uint8)
    pixels[size[1] // 2 :] = 255
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.mark.parametrize("limit", ["4GB", 1])
@pytest.mark.parametrize("resize", ["stretch", "crop", "pad"])
def test_own_pictures_come_to_height_and_width(tmp_path, resize, limit):
    for name in "ab":
        half_white(tmp_path / "train" / name / "1.png")
    half_white(tmp_path / "train" / "b" / "2.png", (20, 40))
    data = folder(tmp_path, image_size=[10, 30], resize=resize, validation=0, memory_limit=limit)
    images = load_splits(data, 0)["train"].images
    if limit == 1:
        images = next(iter(images.batches([torch.arange(3)])))
    assert images.shape == (3, 1, 10, 30) and image_shape(data) == (1, 10, 30)
    wide, tall = images[0, 0], images[2, 0]
    if resize == "pad":  # the bars are black, and stand left and right
        assert (wide[9, 5:25] > 200).all() and not wide[:, :5].any() and not wide[:, 25:].any()
        assert (tall[9, 13:17] > 200).all() and not tall[:, :12].any()
    else:
        assert (wide[9] > 200).all() and (wide[0] < 50).all() and (tall[9] > 200).all()


@pytest.mark.parametrize("model", ["lenet", "{name: mlp, hidden: [8]}"])
def test_a_run_on_wide_images_is_trained_resumed_and_judged(tmp_path, script, model):
    root = pictures(pictures(tmp_path / "my", {"a": 9, "b": 9}), {"a": 3, "b": 3}, "test")
    wide = ["data.image_size=[20,28]", "data.resize=crop", EVERYTHING, "schedule={name: constant}"]
    done = script("train.py", *options(root, *wide), f"model={model}", "--run-dir", "run")
    assert done.code == 0 and "images of 1x20x28" in done.out, done.error
    assert tuple(load_checkpoint(Path("run/best.pt"))["data"]["image_shape"]) == (1, 20, 28)
    done = script("train.py", "--resume", "run", "train.epochs=2")
    assert done.code == 0, done.error
    done = script("test.py", "--ckpt", "run")
    assert done.code == 0 and json.loads(Path("run/test.json").read_text())["n"] == 6
    assert script("train.py", "--config", "run/config.yaml", "--dry-run").code == 0


def test_published_images_are_stretched_to_height_and_width(script):
    data = Data(image_size=[20, 36], limit=50)
    assert load_splits(data, 0)["train"].images.shape[1:] == (1, 20, 36) == image_shape(data)
    square, pair = (load_splits(Data(limit=50, image_size=size), 0) for size in (20, [20, 20]))
    assert torch.equal(square["train"].images, pair["train"].images)
    few = ["data.limit=50", "data.image_size=[20,36]", "train.epochs=1", "--run-dir", "run"]
    assert script("train.py", *few).code == 0
    assert script("test.py", "--ckpt", "run").code == 0
    with pytest.raises(UserError, match=r"data\.image_size = \[4000, 2000\]: 1,438 images would"):
        load_splits(Data(image_size=[4000, 2000], memory_limit="1GB"), 0)


@pytest.mark.parametrize(
    "size", ["0", "[3]", "[3, 0]", "[3, 4, 5]", "true", "[3.5, 2]", "[5000, 2]"]
)
def test_a_size_that_cannot_be_is_refused(size):
    message = f"data.image_size = {size}: should be a number of pixels from 1 to 4096, or two of"
    with pytest.raises(UserError, match=re.escape(message)):
        load_config("digits.yaml", [f"data.image_size={size}"])


def corner(path, orientation, kind):
    """A black picture (20, 40), whose upper left quarter is white; in the file it lies turned, as
    EXIF says, or it is black on nothing.
    """
    shown = np.zeros((20, 40), np.uint8)
    shown[:10, :20] = 255
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "transparent":
        shown = np.dstack([np.zeros((20, 40, 3), np.uint8), 255 - shown])
    turned = {1: 0, 3: 2, 6: 1, 8: 3}[orientation]  # a quarter each, against the clock
    tags = Image.Exif()
    tags[274] = orientation
    Image.fromarray(np.rot90(shown, turned)).save(path, exif=tags)


@pytest.mark.parametrize("limit", ["4GB", 1])
@pytest.mark.parametrize("kind", ["opaque", "transparent"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_turned_and_transparent_pictures_come_out_right(tmp_path, orientation, kind, limit):
    for name in "ab":
        corner(tmp_path / "train" / name / "1.png", orientation, kind)
    is_white = kind == "transparent"  # the background, of black drawings
    half = np.arange(8) < 4
    quarter = half[:, None] & half
    expected = {
        "stretch": quarter,
        "crop": quarter,
        "pad": np.pad(quarter[::2], ((2, 2), (0, 0)), constant_values=is_white),
    }
    for resize, pattern in expected.items():
        data = folder(tmp_path, image_size=[8, 8], resize=resize, validation=0)
        images = load_splits(data.model_copy(update={"memory_limit": limit}), 0)["train"].images
        if limit == 1:
            images = next(iter(images.batches([torch.arange(2)])))
        assert ((images[0] > 127).numpy() == pattern).all(), resize


@pytest.mark.parametrize("resize", ["stretch", "crop", "pad"])
def test_one_number_and_two_equal_ones_are_the_same_to_the_bit(tmp_path, script, resize):
    root = tmp_path / "my"
    for split, count in {"train": 6, "test": 2}.items():
        for number in range(count):
            kind = "opaque" if number % 2 else "transparent"
            for name, orientation in (("a", (1, 6)[number % 2]), ("b", (3, 8)[number % 2])):
                corner(root / split / name / f"{number}.png", orientation, kind)
    found = []
    for number, size in enumerate(("16", "[16,16]", "[16,16]")):
        more = [f"data.image_size={size}", f"data.resize={resize}", "data.validation=0"]
        more += ["data.memory_limit=1"] if number == 2 else []
        done = script("train.py", *options(root, *more), "--run-dir", str(number))
        assert done.code == 0, done.error
        done = script("test.py", "--ckpt", str(number), "--json", "-")
        assert done.code == 0, done.error
        checkpoint = load_checkpoint(Path(str(number), "last.pt"))
        report = json.loads(done.out)
        found.append((checkpoint["data"], checkpoint["data_sha256"], report["loss"]))
        weights = [tensor.numpy().tobytes() for tensor in checkpoint["model"].values()]
        found[-1] += (b"".join(weights),)
    assert found[0] == found[1] == found[2]
