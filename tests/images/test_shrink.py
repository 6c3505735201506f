"""JPEG files decoded smaller than they are; and the formats that need more than Pillow's own."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import NETWORKS
from PIL import Image

from nanocnn.config.schema import Data
from nanocnn.images.decode import FORMATS, Form, Header, decode, header_or_reason, load
from nanocnn.images.splits import load_split, load_splits
from nanocnn.run.checkpoint import load_checkpoint, save_checkpoint
from nanocnn.run.restore import restore

GENERATOR = np.random.default_rng(0)
NOISE = Image.fromarray(GENERATOR.integers(0, 256, (40, 50, 3), dtype=np.uint8))
PHOTO = NOISE.resize((1000, 800), Image.Resampling.BICUBIC)


def exif(orientation):
    tags = Image.Exif()
    tags[274] = orientation
    return tags


def written(path, picture=PHOTO, **options):
    picture.save(path, quality=95, **options)
    return path


@pytest.mark.parametrize(
    "resize, size, fraction, expected",
    [
        ("stretch", (20, 25), 1.0, 8),
        ("stretch", (25, 31), 1.0, 8),  # 800 / 8 is 4 times 25
        ("stretch", (26, 20), 1.0, 4),
        ("stretch", (20, 32), 1.0, 4),
        ("stretch", (100, 100), 1.0, 2),
        ("stretch", (101, 10), 1.0, 1),
        ("crop", (25, 25), 1.0, 8),
        ("crop", (25, 25), 0.9, 4),  # of which 4 times 25 pixels are to be left
        ("pad", (31, 31), 1.0, 8),  # 31 x 25 of picture
        ("pad", (32, 32), 1.0, 4),
    ],
)
@pytest.mark.parametrize("orientation", [1, 6])
def test_what_is_resized_has_4_times_the_sides(
    tmp_path, resize, size, fraction, expected, orientation
):
    path = written(tmp_path / "a.jpg", exif=exif(orientation))
    shape, sides = (3, *size), (1000, 800)
    if orientation == 6:
        shape, sides = (3, *size[::-1]), (800, 1000)
    form = Form(shape, resize, crop_fraction=fraction, shrink=True)
    assert load(path, form).size == tuple(side // expected for side in sides)
    near = np.abs(decode(path, form).astype(int) - decode(path, form._replace(shrink=False)))
    assert near.mean() < 2 and (near.max() > 0 or expected == 1)
    assert header_or_reason(path) == Header(*sides[::-1], False), "of the file, as ever"


def test_only_jpeg_files_are_shrunk_and_only_if_asked(tmp_path):
    form = Form((3, 10, 10), "stretch", shrink=True)
    for name, options in {
        "a.png": {}, "a.tif": {"compression": "jpeg"}, "a.webp": {}, "a.bmp": {}, "a.avif": {},
    }.items():  # fmt: skip
        path = written(tmp_path / name, **options)
        assert load(path, form).size == (1000, 800), name
    path = written(tmp_path / "a.jpg")
    assert load(path, form).size == (125, 100)
    assert load(path, form._replace(shrink=False)).size == (1000, 800)
    assert load(path, form._replace(resize=None)).size == (1000, 800)
    PHOTO.save(tmp_path / "a.mpo", save_all=True, append_images=[PHOTO])  # as telephones write
    assert load(tmp_path / "a.mpo", form).size == (125, 100)


@pytest.fixture
def photos(tmp_path):
    root = tmp_path / "photos"
    for number in range(24):
        colour = ("red", "blue")[number % 2]
        folder = root / "train" / colour
        folder.mkdir(parents=True, exist_ok=True)
        turned = PHOTO.rotate(15 * number).resize((200, 150))
        written(folder / f"{number}.jpg", turned)
    return root


def test_a_network_is_judged_as_it_was_trained(photos, script):
    """One trained before there was data.shrink too."""
    own = ["data.dataset=folder", f"data.root={photos}", "data.image_size=8", "seed=0"]
    short = ["train.epochs=1", "train.batch_size=8", "model={name: mlp, hidden: [4]}"]
    short.append("schedule={name: constant}")
    for run, shrink in (("auto", "auto"), ("before", "false")):
        command = [*own, *short, f"data.shrink={shrink}", "--run-dir", run]
        assert script("train.py", *command).code == 0
    checkpoint = load_checkpoint(Path("before/last.pt"))
    del checkpoint["config"]["data"]["shrink"], checkpoint["data"]["shrink"]
    save_checkpoint(Path("before"), ["last.pt", "best.pt"], checkpoint)
    text = Path("before/config.yaml").read_text()
    lines = [line for line in text.splitlines() if " shrink:" not in line]
    Path("before/config.yaml").write_text("\n".join(lines) + "\n")

    data = Data(dataset="folder", root=str(photos), image_size=8)
    for run, shrink in (("auto", "auto"), ("before", False)):
        restored = restore(Path(run), networks=NETWORKS)
        assert restored.info.shrink == (shrink == "auto")
        trained = load_splits(data.model_copy(update={"shrink": shrink}), 0)["train"]
        for asked in (data, restored.config.data):
            judged = load_split("train", asked, 0, restored.info)
            assert torch.equal(judged.images, trained.images)
    refused = script("train.py", "--resume", "before", "train.epochs=2")
    assert refused.code == 2 and "data.shrink=false" in refused.error
    goes_on = script("train.py", "--resume", "before", "train.epochs=2", "data.shrink=false")
    assert goes_on.code == 0, goes_on.error
    assert script("train.py", "--resume", "auto", "train.epochs=2", "data.shrink=false").code == 2


@pytest.mark.parametrize("name", ["a.avif", "a.jp2"])
def test_avif_and_jpeg_2000(tmp_path, name):
    if {"a.avif": "AVIF", "a.jp2": "JPEG2000"}[name] not in FORMATS:
        pytest.skip("this Pillow was built without")
    options = {"quality": 100, "subsampling": "4:4:4"} if name == "a.avif" else {}
    path = tmp_path / name
    NOISE.save(path, **options)
    assert header_or_reason(path) == Header(40, 50, False)
    found = decode(path, Form((3, 40, 50)))
    assert np.abs(found.astype(int) - np.asarray(NOISE).transpose(2, 0, 1)).mean() < 3


def test_heic_by_its_package(tmp_path):
    heif = pytest.importorskip("pillow_heif")
    turned = PHOTO.resize((128, 64)).convert("L").convert("RGB")  # colours are stored coarsely
    pixels = np.asarray(turned)
    image = heif.from_pillow(turned)
    image.info["thumbnails"] = [64]
    image.save(tmp_path / "a.jpg", quality=95, exif=exif(6).tobytes())  # whatever its name
    assert header_or_reason(tmp_path / "a.jpg") == Header(128, 64, False)
    form = Form((3, 128, 64), shrink=True)
    found = decode(tmp_path / "a.jpg", form)
    expected = np.rot90(pixels, -1).transpose(2, 0, 1)
    assert np.abs(found.astype(int) - expected).mean() < 4
    small = decode(tmp_path / "a.jpg", Form((3, 16, 8), "stretch", shrink=True))
    whole = Image.fromarray(found.transpose(1, 2, 0)).resize((8, 16), Image.Resampling.BILINEAR)
    assert np.array_equal(small, np.asarray(whole).transpose(2, 0, 1)), "no thumbnail of its own"


def test_heic_without_its_package_is_told_what_to_type(photos, script, monkeypatch):
    heic = b"\0\0\0\x18ftypheic" + bytes(100)
    (photos / "train" / "red" / "0.heic").write_bytes(heic)
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    own = ["data.dataset=folder", f"data.root={photos}", "data.image_size=8"]
    done = script("train.py", *own)
    assert done.code == 2 and done.error.count("\n") == 1
    assert "0.heic (HEIC, for which type pip install pillow-heif)" in done.error
