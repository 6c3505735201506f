"""What pixels of own pictures become that are transparent, of 16 bits, or that show nothing."""

import json
import shutil
import struct
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from nanocnn.config.schema import Data
from nanocnn.images.decode import Form, decode, header_or_reason
from nanocnn.images.splits import data_info, load_split, load_splits
from nanocnn.images.stream import Stream
from nanocnn.run.checkpoint import load_checkpoint, save_checkpoint

SHAPE = (1, 20, 30)
GREY = np.random.default_rng(0).integers(0, 256, (20, 30), dtype=np.uint8)


def drawing(number, colour, below=(0, 0, 0, 0), side=24):
    """A disc or a square of one colour on nothing."""
    picture = Image.new("RGBA", (side, side), below)
    box = [4, 4, 14 + number % 7, 14 + number % 7]
    draw = ImageDraw.Draw(picture)
    draw.ellipse(box, colour) if number % 2 else draw.rectangle(box, colour)
    return picture


@pytest.fixture
def drawings(tmp_path):
    """Make root/<split>/<class>/<n>.png: drawings(train=("black", "black")) has one colour for each
    of two classes.
    """

    def make(below=(0, 0, 0, 0), **colours):
        for split, of_classes in colours.items():
            for label, colour in enumerate(of_classes):
                folder = tmp_path / "drawings" / split / f"kind {label}"
                folder.mkdir(parents=True, exist_ok=True)
                for number in range(label, 20, 2):
                    drawing(number, colour, below).save(folder / f"{number}.png")
        return tmp_path / "drawings"

    return make


def own(root, **changes):
    return Data(dataset="folder", root=str(root), **changes)


def options(root, *more):
    model = "model={name: mlp, hidden: [8]}"
    return ["data.dataset=folder", f"data.root={root}", "train.epochs=1", model, *more]


@pytest.mark.parametrize(
    "colours, corner",
    [(("black", "black"), 255), (("#333", "navy"), 255), (("white", "yellow"), 0)],
)
def test_drawings_on_nothing_are_seen(drawings, colours, corner):
    """And alike in memory and streamed."""
    data = own(drawings(train=colours, test=("white", "black")), validation=0)
    train = load_splits(data, 0)["train"]
    assert (train.images[:, :, 0, 0] == corner).all()
    assert (train.images[:, :, 8, 8] != corner).any(dim=1).all()
    info = data_info(data, train)
    assert info.background == ("white" if corner else "black") and info.std != [1.0] * 3
    streamed = load_splits(data.model_copy(update={"memory_limit": 1, "cache": False}), 0)["train"]
    assert isinstance(streamed.images, Stream)
    assert data_info(data, streamed) == info and streamed.files.hashes == train.files.hashes
    batch = next(streamed.images.batches([torch.arange(20)]))
    assert torch.equal(batch, train.images)
    # other splits lie over what was chosen for the training images, whatever they show
    test = load_split("test", data, 0, info)
    assert (test.images[:, :, 0, 0] == corner).all()


def test_one_background_is_chosen_for_all_classes(drawings):
    """Of each picture its own would tell the classes apart by their corners."""
    train = load_splits(own(drawings(train=("black", "#aaa")), validation=0), 0)["train"]
    assert (train.images[:, :, 0, 0] == 255).all()


def test_every_picture_counts_alike_in_the_choice(drawings):
    root = drawings(train=("white", "white"))
    drawing(0, "black", side=2000).resize((24, 24)).save(root / "train" / "kind 0" / "0.png")
    large = root / "train" / "kind 0" / "large.png"
    Image.new("RGBA", (2000, 2000), (0, 0, 0, 254)).save(large)
    data = own(root, validation=0, image_size=24)
    assert data_info(data, load_splits(data, 0)["train"]).background == "black"


def test_where_nothing_is_transparent_the_choice_changes_nothing(drawings):
    """As in dark pictures whose files have a fourth band that is full."""
    root = drawings(train=("black", "#333"), below="#555")
    data = own(root, validation=0, image_size=20, resize="pad")
    for path in root.glob("train/kind 0/*"):
        with Image.open(path) as picture:
            picture.resize((24, 16)).save(path)
    by_itself = load_splits(data, 0)["train"]
    black = load_splits(data.model_copy(update={"background": "black"}), 0)["train"]
    assert by_itself.files.background == "black" and torch.equal(by_itself.images, black.images)


def test_the_bars_of_a_padded_picture_are_of_the_background(drawings):
    root = drawings(train=("black", "black"))
    path = root / "train" / "kind 0" / "0.png"
    Image.open(path).crop((0, 0, 24, 12)).save(path)
    data = own(root, validation=0, image_size=24, resize="pad")
    assert (load_splits(data, 0)["train"].images[:, :, 0] == 255).all()


def test_the_choice_stays_with_the_network(drawings, script):
    root = drawings(train=("black", "#222"), test=("white", "#fef"))
    trained = script("train.py", *options(root, "--run-dir", "run"))
    assert trained.code == 0 and "; over white" in trained.out, trained.error
    assert load_checkpoint(Path("run/best.pt"))["data"]["background"] == "white"
    judged = script("test.py", "--ckpt", "run", "--json", "-")
    # white on white, which shows nothing
    assert judged.code == 0 and "10 of 20 test images have a single colour" in judged.error
    assert script("train.py", "--resume", "run", "train.epochs=2").code == 0


def test_an_earlier_checkpoint_means_black(drawings, script):
    root = drawings(train=("#777", "#222"), test=("#777", "#222"))
    black = "data.background=black"
    run = options(root, "--run-dir", "run", "schedule={name: constant}")
    assert script("train.py", *run, black).code == 0
    checkpoint = load_checkpoint(Path("run/last.pt"))
    del checkpoint["data"]["background"], checkpoint["config"]["data"]["background"]
    save_checkpoint(Path("run"), ["best.pt", "last.pt"], checkpoint)
    lines = Path("run/config.yaml").read_text().splitlines(keepends=True)
    Path("run/config.yaml").write_text("".join(each for each in lines if "background:" not in each))
    assert script("test.py", "--ckpt", "run", "--split", "train", "--json", "a.json").code == 0
    assert json.loads(Path("a.json").read_text())["trained_on"] is None
    refused = script("train.py", "--resume", "run", "train.epochs=2")
    assert refused.code == 2 and "it goes on with data.background=black" in refused.error
    assert script("train.py", "--resume", "run", black, "train.epochs=2").code == 0


def test_pixels_that_are_all_equal_are_refused(drawings, script, small_mnist):
    root = drawings(train=("black", "black"))
    for limit in ("4GB", "1KB"):
        more = ["data.background=black", f"data.memory_limit={limit}", "--run-dir", "run"]
        refused = script("train.py", *options(root, *more))
        assert refused.code == 2 and "all pixels of the training images are equal" in refused.error
        assert "data.background=white" in refused.error and not Path("run").exists()
    images = small_mnist / "MNIST" / "raw" / "train-images-idx3-ubyte"
    images.write_bytes(images.read_bytes()[:16] + bytes(40 * 28 * 28))
    refused = script("train.py", "data.dataset=mnist", f"data.root={small_mnist}")
    assert refused.code == 2 and "all pixels of the training images are equal" in refused.error


def test_what_shows_nothing_is_told(drawings, script):
    root = drawings(train=("#700", "#300"), below=(200, 0, 0, 255))
    Image.new("RGB", (24, 24), (9, 0, 0)).save(root / "train" / "kind 0" / "plain.png")
    first, second = drawing(0, "#500", "#900"), drawing(1, "#500", "#900")
    first.save(root / "train" / "kind 1" / "two.png", save_all=True, append_images=[second])
    trained = script("train.py", *options(root, "data.validation=0", "--run-dir", "run"))
    assert trained.code == 0
    assert "1 of 22 train images have a single colour" in trained.error
    assert "1 of 22 train images have several frames or pages" in trained.error
    assert "the green and blue of all training pixels is the same" in trained.error


def in_16_bits(root, factor, dtype=np.uint16):
    for path in root.glob("*/*/*"):
        grey = np.asarray(Image.open(path).convert("L"))
        path.unlink()
        Image.fromarray((grey * float(factor)).astype(dtype)).save(path.with_suffix(".png"))
    return root


@pytest.mark.parametrize("factor, high", [(16, 4095), (1, 255), (64, 16383)])
def test_few_of_16_bits_are_told_and_can_be_spread(digit_pictures, script, factor, high):
    root = in_16_bits(digit_pictures({"train": 30}), factor)
    few = script("train.py", *options(root, "--dry-run"))
    assert few.code == 0 and f"data.value_range=[0,{high}] uses all 256" in few.error
    spread = script("train.py", *options(root, "--dry-run", f"data.value_range=[0,{high}]"))
    assert spread.code == 0 and "16 bits" not in spread.error
    data = own(root, validation=0, value_range=[0, high])
    images = load_splits(data, 0)["train"].images
    streamed = load_splits(data.model_copy(update={"memory_limit": 1, "cache": False}), 0)[
        "train"
    ].images
    assert len(images.unique()) > 200
    assert torch.equal(next(streamed.batches([torch.arange(30)])), images)


def test_all_of_16_bits_need_no_word(digit_pictures, script):
    root = in_16_bits(digit_pictures({"train": 30}), 257)
    assert "16 bits" not in script("train.py", *options(root, "--dry-run")).error


def test_a_range_that_cannot_act_is_refused(digit_pictures, script):
    root = digit_pictures({"train": 30})
    refused = script("train.py", *options(root, "data.value_range=[0,4095]"))
    assert refused.code == 2 and "since no training picture has 16 bits" in refused.error
    path = next(root.glob("train/*/*.png"))
    tiff(path, Layout(3, 16, 1, 2), GREY)
    refused = script("train.py", *options(root, "data.value_range=[0,4095]"))
    assert refused.code == 2 and "cannot act on colours of 16 bits" in refused.error
    for wrong in ("[4095,0]", "[0]", "[0,70000]", "5", "[1.5,3]"):
        refused = script("train.py", *options(root, f"data.value_range={wrong}"))
        assert refused.code == 2 and "data.value_range" in refused.error


def test_colours_of_16_bits_that_use_few_are_told(digit_pictures, script):
    root = digit_pictures({"train": 30})
    for path in root.glob("train/*/*.png"):
        tiff(path, Layout(3, 16, 1, 2), np.asarray(Image.open(path)), factor=16)
    told = script("train.py", *options(root, "--dry-run"))
    assert told.code == 0 and "have 16 bits but use 5.9% of their range" in told.error
    assert "save them with 8 bits" in told.error


def test_a_range_is_cut_off_at_both_ends(tmp_path):
    values = np.arange(600, dtype=np.uint16).reshape(20, 30) * 100
    Image.fromarray(values).save(tmp_path / "a.png")
    found = decode(tmp_path / "a.png", Form(SHAPE, value_range=(1000, 41_000)))[0]
    expected = np.round((values.clip(1000, 41_000) - 1000.0) / 40_000 * 255)
    assert np.abs(found - expected).max() <= 1 and found.min() == 0 and found.max() == 255


class Layout(NamedTuple):
    bands: int
    bits: int
    kind: int  # 1 = unsigned, 2 = signed, 3 = floating point
    photometric: int  # 0 = white is zero, 1 = black is, 2 = RGB
    extra: tuple = ()  # what the bands beyond the colours are: 0 = unknown, 2 = opacity


def tiff(path, layout, pixels, factor=1):
    """A TIFF, each band of which has the pixels (H, W)."""
    bands, bits, kind, photometric, extra = layout
    height, width = pixels.shape
    values = np.repeat(pixels[:, :, None].astype(float) * factor, bands, axis=2)
    content = values.astype(f"<{'_uif'[kind]}{bits // 8}").tobytes()
    tags = {
        256: (4, [width]), 257: (4, [height]), 258: (3, [bits] * bands), 259: (3, [1]),
        262: (3, [photometric]), 273: (4, [0]), 277: (3, [bands]), 278: (4, [height]),
        279: (4, [len(content)]), **({338: (3, list(extra))} if extra else {}),
        339: (3, [kind] * bands),
    }  # fmt: skip
    start = 8 + 2 + 12 * len(tags) + 4
    beside = b""
    entries = b""
    for tag, (field, numbers) in tags.items():
        raw = struct.pack(f"<{len(numbers)}{'_BBHI'[field]}", *numbers)
        if tag == 273:
            raw = struct.pack("<I", start + 1000)
        elif len(raw) > 4:
            raw, beside = struct.pack("<I", start + len(beside)), beside + raw
        entries += struct.pack("<HHI", tag, field, len(numbers)) + raw.ljust(4, b"\0")
    header = b"II" + struct.pack("<HIH", 42, 8, len(tags)) + entries + bytes(4)
    path.write_bytes((header + beside).ljust(start + 1000, b"\0") + content)
    return path


@pytest.mark.parametrize(
    "layout, words",
    [
        ((4, 8, 1, 2), "4 bands, of which only 3 would be used"),  # red, green, blue, infrared
        ((4, 8, 1, 2, (0,)), "4 bands, of which only 3 would be used"),
        ((5, 8, 1, 2, (2, 0)), "5 bands, of which only 4 would be used"),
        ((2, 8, 1, 1), "2 bands, of which only 1 would be used"),
        ((7, 16, 1, 1, (0,) * 6), "7 bands, of which only 1 would be used"),
        ((8, 32, 3, 1, (0,) * 7), "8 bands, of which only 1 would be used"),
        ((1, 8, 2, 1), "8 bits a pixel, signed"),
        ((1, 16, 2, 1), "16 bits a pixel, signed"),
        ((1, 32, 3, 1), "32 bits a pixel, floating point"),
        ((1, 64, 3, 1), "64 bits a pixel, floating point"),
        ((1, 16, 3, 1), "16 bits a pixel, floating point"),
        ((3, 32, 3, 2), "32 bits a pixel, floating point"),
        ((1, 32, 1, 1), "32 bits a pixel, of no fixed range"),
        ((2, 16, 1, 1, (2,)), "a TIFF of 2 x 16 bits a pixel, which is not read"),
    ],
)
def test_a_tiff_that_would_be_guessed_at_is_refused(tmp_path, layout, words):
    path = tiff(tmp_path / "a.tif", Layout(*layout), GREY)
    assert words in header_or_reason(path)
    with pytest.raises(ValueError, match=words):
        decode(path, Form(SHAPE))


def test_declared_opacity_and_white_that_is_zero_are_heeded(tmp_path):
    opaque = tiff(tmp_path / "a.tif", Layout(4, 8, 1, 2, (2,)), GREY)
    expected = np.round(GREY.astype(float) ** 2 / 255 + (255 - GREY))
    assert np.abs(decode(opaque, Form(SHAPE, background="white"))[0] - expected).max() <= 1
    for bits, factor in ((8, 1), (16, 257)):  # Pillow turns those of 8 bits only
        path = tiff(tmp_path / "b.tif", Layout(1, bits, 1, 0), GREY, factor)
        assert np.array_equal(decode(path, Form(SHAPE))[0], 255 - GREY)


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("background", ["black", "white"])
def test_the_transparent_level_of_a_grey_png_is_one_of_the_file(tmp_path, bits, background):
    most = 2**bits - 1
    values = (GREY > 128) * most
    level = most if background == "black" else 0  # what is visible would be lost
    parts = np.unpackbits(values.astype(">u2").view(np.uint8).reshape(20, 30, 2), axis=2)
    rows = np.packbits(parts[:, :, 16 - bits :].reshape(20, -1), axis=1)
    rows = np.pad(rows, ((0, 0), (1, 0)))

    def chunk(kind, content):
        checksum = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + checksum

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 30, 20, bits, 0, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(rows.tobytes()))
    named = chunk(b"tRNS", struct.pack(">H", level))
    path = tmp_path / "a.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + named + pixels + chunk(b"IEND", b""))
    found = decode(path, Form(SHAPE, background=background))
    assert header_or_reason(path).transparent
    assert (found == (0 if background == "black" else 255)).all()


def test_palettes_with_a_transparent_colour_are_measured(drawings):
    root = drawings(train=("black", "black"))
    for number, path in enumerate(sorted(root.glob("train/*/*"))):
        picture = Image.open(path)
        palette = Image.fromarray((np.asarray(picture)[:, :, 3] == 0).astype(np.uint8), "P")
        palette.putpalette([0, 0, 0, 0, 0, 0])
        path.unlink()
        palette.save(path.with_suffix(".gif" if number % 2 else ".png"), transparency=1)
    train = load_splits(own(root, validation=0), 0)["train"]
    assert train.images.shape[1] == 1 and (train.images[:, :, 0, 0] == 255).all()
    assert (train.images[:, :, 8, 8] == 0).all()


def test_a_background_survives_a_copied_config(drawings, script):
    root = drawings(train=("black", "#222"))
    assert script("train.py", *options(root, "--run-dir", "run")).code == 0
    shutil.copy("run/config.yaml", "again.yaml")
    again = script("train.py", "--config", "again.yaml", "--run-dir", "again")
    assert again.code == 0
    first, second = (load_checkpoint(Path(run, "last.pt")) for run in ("run", "again"))
    assert first["data"] == second["data"] and first["data_sha256"] == second["data_sha256"]


def test_a_checkpoint_of_another_background_is_refused(drawings, script):
    root = drawings(train=("black", "#222"))
    assert script("train.py", *options(root, "--run-dir", "run")).code == 0
    checkpoint = load_checkpoint(Path("run/last.pt"))
    checkpoint["data"]["background"] = "\x1b[31m"
    save_checkpoint(Path("run"), ["best.pt"], checkpoint)
    assert script("test.py", "--ckpt", "run", "--split", "train").code == 2
