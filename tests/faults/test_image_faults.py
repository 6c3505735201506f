"""Files that are no pictures, or odd ones, among one's own images, through the whole scripts."""

import json
import os
import resource
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nanocnn.config.schema import Data
from nanocnn.images.splits import load_splits

pytestmark = pytest.mark.slow


def png(width, height, rows):
    """A grey PNG that says it is of this size, with these bytes of pixels."""

    def chunk(kind, content):
        checksum = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    parts = [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows, 1)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def truncated(path):
    picture = np.random.default_rng(0).integers(0, 256, (28, 28), dtype=np.uint8)
    Image.fromarray(picture).save(path)
    path.write_bytes(path.read_bytes()[:-200])


FAULTS = {
    "zero bytes.png": (lambda path: path.write_bytes(b""), "empty"),
    "truncated.jpg": (truncated, "truncated"),
    "truncated.png": (truncated, "truncated"),
    "text.png": (lambda path: path.write_text("a cat"), "none of BMP, GIF, JPEG"),
    "page.jpg": (lambda path: path.write_text("%PDF-1.4"), "none of BMP, GIF, JPEG"),
    "icon.png": (lambda path: Image.new("L", (28, 28)).save(path, format="ICO"), "none of BMP"),
    "huge.png": (lambda path: path.write_bytes(png(50_000, 50_000, b"\0")), "more than 64,000,000"),
    "large.png": (
        lambda path: path.write_bytes(png(8001, 8001, bytes(8002 * 8001))),
        "more than 64,000,000",
    ),
    "broken.png": (lambda path: path.write_bytes(png(28, 28, b"\0")), "truncated"),
    "float.tif": (lambda path: Image.new("F", (28, 28)).save(path), "32 bits a pixel"),
    "pipe.png": (os.mkfifo, "not a file"),
    "dangling.png": (lambda path: path.symlink_to("nowhere"), "No such file"),
}


def own_images(root, *options):
    return ["data.dataset=folder", f"data.root={root}", "train.epochs=1", *options]


@pytest.mark.parametrize("name", FAULTS)
def test_a_file_that_is_no_picture_is_refused_with_its_reason(digit_pictures, script, name):
    root = digit_pictures({"train": 12})
    make, reason = FAULTS[name]
    make(root / "train" / "digit 1" / name)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    result = script("train.py", *own_images(root))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000, "50 MB"
    assert result.code == 2 and result.error.count("\n") == 1
    assert f"1 of 13 images cannot be read: train/digit 1/{name} (" in result.error
    assert reason in result.error and "data.skip_unreadable=true" in result.error
    assert not Path("runs").exists()


@pytest.mark.parametrize("limit", ["4GB", "1KB"])
def test_all_of_them_are_skipped_and_counted_where_that_is_asked_for(digit_pictures, script, limit):
    root = digit_pictures({"train": 40, "val": 5, "test": 8})
    for name, (make, _) in FAULTS.items():
        make(root / "train" / "digit 2" / name)
    for split in ("val", "test"):
        (root / split / "digit 0" / "zero bytes.png").write_bytes(b"")
    refused = script("train.py", *own_images(root))
    assert f"{len(FAULTS) + 1} of {46 + len(FAULTS)} images cannot be read" in refused.error
    assert refused.error.count("\n") == 1 and "and 10 more" in refused.error
    options = ["data.skip_unreadable=true", f"data.memory_limit={limit}", "--run-dir", "run"]
    trained = script("train.py", *own_images(root, *options))
    assert trained.code == 0, trained.error
    assert "40 train and 5 val images" in trained.out
    assert f"left out, since they cannot be read: {len(FAULTS) + 1}\n" in trained.out
    lines = Path("run/unreadable.txt").read_text().splitlines()
    assert len(lines) == len(FAULTS) + 1 and lines[-1] == "val/digit 0/zero bytes.png (empty)"
    for name, (_, reason) in FAULTS.items():
        assert [line for line in lines if f"/{name} (" in line and reason in line], name
    tested = script("test.py", "--ckpt", "run", "--json", "result.json")
    assert tested.code == 0 and "since they cannot be read: 1\n" in tested.out
    report = json.loads(Path("result.json").read_text())
    assert report["n"] == 8 and report["unreadable"] == ["test/digit 0/zero bytes.png (empty)"]


def test_a_class_of_which_nothing_is_left_is_refused(digit_pictures, script):
    root = digit_pictures({"train": 12})
    for path in (root / "train" / "digit 1").iterdir():
        path.write_bytes(b"")
    result = script("train.py", *own_images(root, "data.skip_unreadable=true"))
    assert result.code == 2 and "of a class of train none is left" in result.error
    for path in (root / "train").rglob("*.*"):
        path.write_bytes(b"")
    result = script("train.py", *own_images(root))
    assert result.code == 2 and "no training image can be read" in result.error


def test_odd_pictures_are_no_faults(tmp_path, script):
    """16 bits, transparency, palette, CMYK, EXIF and names with spaces and letters of all
    languages.
    """
    folder = tmp_path / "my 图片" / "train" / "ночь и день"
    folder.mkdir(parents=True)
    ramp = np.linspace(0, 255, 28 * 28).reshape(28, 28).astype(np.uint8)
    grey, tags = Image.fromarray(ramp), Image.Exif()
    tags[274] = 3
    Image.fromarray(ramp.astype(np.uint16) * 257).save(folder / "16 bit.png")
    grey.convert("RGBA").save(folder / "rgba é.png")
    grey.convert("RGB").quantize(256).save(folder / "palette 😀.png")
    grey.convert("CMYK").save(folder / "cmyk.jpg", quality=100)
    grey.rotate(180).save(folder / "turned.jpg", quality=100, exif=tags)
    data = Data(dataset="folder", root=str(folder.parent.parent), validation=0)
    images = load_splits(data, 0)["train"].images
    assert images.shape == (5, 3, 28, 28)
    expected = torch.from_numpy(ramp).int().expand_as(images)
    assert (images.int() - expected).abs().max() <= 8
    trained = script("train.py", *own_images(data.root, "data.validation=0", "--run-dir", "run"))
    assert trained.code == 0 and "ночь и день 5" in trained.out, trained.error
    assert script("test.py", "--ckpt", "run", "--split", "train").code == 0


def test_classes_that_are_empty_or_unknown_are_refused(digit_pictures, script):
    root = digit_pictures({"train": 12, "val": 3, "test": 3})
    options = own_images(root, "--run-dir", "run")
    (root / "train" / "digit 7").mkdir()
    (root / "train" / "digit 7" / ".hidden").write_bytes(b"")
    result = script("train.py", *options)
    assert result.code == 2 and "the class 'digit 7' has no images" in result.error
    (root / "train" / "digit 7" / ".hidden").unlink()
    (root / "train" / "digit 7").rename(root / "val" / "digit 7")
    result = script("train.py", *options)
    assert result.code == 2 and "'digit 7' is no class of the training images" in result.error
    assert "known: digit 0, digit 1, digit 2" in result.error and not Path("run").exists()
    (root / "val" / "digit 7").rename(root / "test" / "digit 7")
    assert script("train.py", *options).code == 0
    result = script("test.py", "--ckpt", "run")
    assert result.code == 2 and "'digit 7' is no class of the training images" in result.error
    (root / "test" / "digit 7").rmdir()
    assert script("test.py", "--ckpt", "run").code == 0
    (root / "train" / "stray.png").write_bytes(b"")
    result = script("train.py", *own_images(root))
    assert result.code == 2 and "stray.png: lies beside the class folders" in result.error


def test_other_sizes_than_the_network_knows_are_refused(digit_pictures, script):
    root = digit_pictures({"train": 12, "test": 3})
    assert script("train.py", *own_images(root, "--run-dir", "run")).code == 0
    path = next(root.glob("test/*/*.png"))
    Image.open(path).resize((20, 30)).save(path)
    result = script("test.py", "--ckpt", "run")
    assert result.code == 2 and f"{path.name} has 30x20 pixels, others have 28x28" in result.error
