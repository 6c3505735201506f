"""Pictures that are judged, held against those that were trained on."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nanocnn.run.checkpoint import load_checkpoint, save_checkpoint

MODEL = "model={name: mlp, hidden: [8]}"


@pytest.fixture
def own(tmp_path):
    """Make root/<split>/k0 and k1: own(train=change, test=change) has ten pictures in each, whose
    grey pixels (12, 12) `change` makes into those of the file.
    """

    def make(**changes):
        generator = np.random.default_rng(0)
        for split, change in changes.items():
            for number in range(20):
                pixels = generator.integers(0, 256, (12, 12)).astype(np.uint8)
                pixels[: 6 + number % 2] //= 2
                path = tmp_path / "own" / split / f"k{number % 2}" / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(change(pixels)).save(path)
        return tmp_path / "own"

    return make


def grey(pixels):
    return pixels


def black_on_white(pixels):
    return np.repeat(np.where(pixels > 90, 255, 0).astype(np.uint8)[:, :, None], 3, 2)


def black_on_nothing(pixels):
    opacity = 255 - black_on_white(pixels)[:, :, :1]
    return np.concatenate([np.zeros((12, 12, 3), np.uint8), opacity], 2)


def opaque(pixels):
    return np.concatenate([black_on_white(pixels), np.full((12, 12, 1), 255, np.uint8)], 2)


def white_on_nothing(pixels):
    return black_on_nothing(pixels) | np.uint8([255, 255, 255, 0])


def of_12_bits(pixels):
    return pixels.astype(np.uint16) * 16


def of_16_bits(pixels):
    return pixels.astype(np.uint16) * 257


def red(pixels):
    return pixels[:, :, None] // np.uint8([1, 2, 3])


def as_colour(pixels):
    return np.repeat(pixels[:, :, None], 3, 2)


def dim(pixels):
    return pixels // 16


def train_and_test(script, root, *more):
    options = ["data.dataset=folder", f"data.root={root}", "train.epochs=1", MODEL, *more]
    trained = script("train.py", *options, "--run-dir", "run")
    return trained, script("test.py", "--ckpt", "run") if trained.code == 0 else None


@pytest.mark.parametrize(
    "train, test, words",
    [
        (black_on_white, black_on_nothing, "20 of 20 test images are transparent, which no train"),
        (opaque, black_on_nothing, "and lie over black: test/k0/0.png, test/k0/2.png"),
        (grey, of_12_bits, "all 20 test images have 16 bits and are nearly black"),
        (of_16_bits, of_12_bits, "brightest pixel is 16 of 255, that of the training images 255"),
        (black_on_nothing, white_on_nothing, "the 20 test images are equal: there is nothing to"),
    ],
)
def test_what_the_network_cannot_see_is_refused(own, script, train, test, words):
    root = own(train=train, test=test)
    trained, judged = train_and_test(script, root)
    assert trained.code == 0, trained.error
    assert judged.code == 2 and words in judged.error, judged.error
    assert not Path("run/test.json").exists()
    (root / "test").rename(root / "val")
    refused = script("train.py", "data.dataset=folder", f"data.root={root}", MODEL)
    assert refused.code == 2 and words in refused.error.replace("val", "test")
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    "train, test, words, options",
    [
        (black_on_white, white_on_nothing, "transparent, which no training image is", []),
        (grey, dim, "brightest pixel of the test images is 15 of 255, that of the training", []),
        (of_12_bits, grey, "is 255 of 255, that of the training images 16", []),
        (of_12_bits, of_16_bits, "ends at 4,095, and ", ["data.value_range=[0,4095]"]),
        (red, as_colour, "all 20 test images are grey, the training images have colour", []),
        (red, grey, "all 20 test images are grey, the training images have colour", []),
        (grey, red, "20 of 20 test images have colour, which no training image has and which", []),
        (as_colour, red, "20 of 20 test images have colour, which no training image has", []),
    ],
)
def test_what_it_has_not_learned_from_is_told(own, script, train, test, words, options):
    trained, judged = train_and_test(script, own(train=train, test=test), *options)
    assert trained.code == 0 and judged.code == 0, judged.error
    assert words in judged.error and judged.error.count("warning") == 1


@pytest.mark.parametrize(
    "train, test, options",
    [
        (black_on_white, opaque, []),
        (black_on_nothing, black_on_nothing, []),
        (black_on_nothing, black_on_white, []),
        (grey, of_16_bits, []),
        (of_12_bits, grey, ["data.value_range=[0,4095]"]),
        (grey, as_colour, []),
        (as_colour, grey, []),
        (red, grey, ["data.channels=1"]),
    ],
)
def test_what_comes_to_the_same_needs_no_word(own, script, train, test, options):
    trained, judged = train_and_test(script, own(train=train, test=test, val=test), *options)
    assert trained.code == 0 and judged.code == 0, judged.error
    assert "warning" not in trained.error + judged.error


def test_one_dark_picture_of_16_bits_among_others_is_told(own, script):
    root = own(train=grey, test=grey)
    path = root / "test" / "k1" / "3.png"
    Image.fromarray(of_12_bits(np.asarray(Image.open(path)))).save(path)
    _, judged = train_and_test(script, root)
    told = "1 of 20 test images have 16 bits and are nearly black: their brightest pixel is 16"
    assert judged.code == 0 and told in judged.error and "test/k1/3.png" in judged.error


def test_an_earlier_checkpoint_says_nothing_of_it(own, script):
    train_and_test(script, own(train=grey, test=red))
    checkpoint = load_checkpoint(Path("run/last.pt"))
    for key in ("transparent", "grey", "brightest"):
        del checkpoint["data"][key]
    save_checkpoint(Path("run"), ["best.pt", "last.pt"], checkpoint)
    judged = script("test.py", "--ckpt", "run")
    assert judged.code == 0 and "warning" not in judged.error
