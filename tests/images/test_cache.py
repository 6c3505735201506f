"""Decoded pictures that are kept: found again, never out of date, whole or not there."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import CPU, PROJECT
from PIL import Image

from nanocnn.config.schema import Augment, Data
from nanocnn.images import cache as cache_module
from nanocnn.images import pictures
from nanocnn.images.batches import Batches
from nanocnn.images.cache import FORMAT, locked
from nanocnn.images.cached_stream import CachedStream
from nanocnn.images.pixels import PixelFile
from nanocnn.images.splits import checksum, data_info, image_hashes, load_splits
from nanocnn.images.stream import Stream, StreamError
from nanocnn.run.checkpoint import load_checkpoint

SHORT = ["train.epochs=2", "train.batch_size=8", "model={name: mlp, hidden: [4]}"]


def folder(root, **changes):
    return Data(dataset="folder", root=str(root), **changes)


def sha256_of(splits):
    return checksum(splits, {name: image_hashes(split) for name, split in splits.items()})


def kept(root):
    return sorted(Path(root, ".nanocnn-cache").glob("*.pixels"))


@pytest.fixture
def decoded(monkeypatch):
    """The paths of the pictures that are decoded from now on."""
    found = []
    decode = pictures.decode
    monkeypatch.setattr(
        pictures, "decode", lambda path, form: (found.append(path), decode(path, form))[1]
    )
    return found


@pytest.mark.parametrize("limit", ["4GB", 1])
def test_what_was_decoded_is_read_with_all_that_is_known_of_it(digit_pictures, decoded, limit):
    root = digit_pictures({"train": 40, "val": 12})
    plain = root / "train" / "digit 0" / "plain.png"
    Image.new("L", (28, 28), 7).save(plain)
    data = folder(root, memory_limit=limit)
    without = load_splits(data.model_copy(update={"cache": False}), 0)
    assert len(decoded) == 53 and not (root / ".nanocnn-cache").exists()
    first = load_splits(data, 0)
    assert len(decoded) == 106 and [path.name.split("-")[0] for path in kept(root)] == [
        "train",
        "val",
    ]
    second = load_splits(data, 0)
    assert len(decoded) == 106, "nothing is decoded a second time"
    for splits in (first, second):
        assert sha256_of(splits) == sha256_of(without)
        for name, split in splits.items():
            assert isinstance(split.images, torch.Tensor) == (limit != 1)
            known = split.files._replace(histogram=0)
            assert known == without[name].files._replace(histogram=0)
            assert np.array_equal(split.files.histogram, without[name].files.histogram)
    assert second["train"].files.plain == ["train/digit 0/plain.png"]


@pytest.mark.parametrize("limit", ["4GB", 1])
def test_runs_of_several_seeds_share_a_file_but_not_what_they_carve(digit_pictures, decoded, limit):
    data = folder(digit_pictures({"train": 60}), validation=20, memory_limit=limit)
    load_splits(data, 0)
    decoded.clear()
    for seed in (0, 1, 2):
        found = load_splits(data, seed)
        assert decoded == [] and len(kept(data.root)) == 1
        expected = load_splits(data.model_copy(update={"cache": False}), seed)
        decoded.clear()
        assert sha256_of(found) == sha256_of(expected)
        for name in ("train", "val"):
            histograms = [splits[name].files.histogram for splits in (found, expected)]
            assert np.array_equal(*histograms)


def test_batches_from_the_file_are_those_of_the_memory(digit_pictures, decoded):
    data = folder(digit_pictures({"train": 40}), validation=0)
    memory = load_splits(data, 0)["train"]
    small = load_splits(data.model_copy(update={"memory_limit": 1}), 0)["train"]
    assert isinstance(small.images, CachedStream)
    decoded.clear()
    both = [Batches(split, data_info(data, memory), 7, CPU) for split in (memory, small)]
    for pair in zip(*both, strict=True):
        assert all(map(torch.equal, *pair))
    for arguments in ((11, 0, Augment(shift=3)), (11, 3, Augment(), 4)):
        for one, other in zip(*(each.shuffled(*arguments) for each in both), strict=True):
            assert one[0] == other[0] and all(map(torch.equal, one[1:], other[1:]))
    assert decoded == []


def rewrite_in_place(path):
    """Other pixels in a file of the same length and time, as a copy with its times may be."""
    before, length = path.stat(), path.stat().st_size
    Image.fromarray(255 - np.asarray(Image.open(path))).save(path)
    path.write_bytes(path.read_bytes().ljust(length, b"\0"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def exchange_classes(path):
    """No file in them changes."""
    one, other = path.parent, path.parent.with_name("digit 2")
    one.rename(one.with_name("x"))
    other.rename(one)
    one.with_name("x").rename(other)


CHANGES = {
    "rewritten": rewrite_in_place,
    "removed": Path.unlink,
    "one more": lambda path: shutil.copy(path, path.with_name("more.png")),
    "renamed": lambda path: path.rename(path.with_name("999.bmp")),
    "classes exchanged": exchange_classes,
}


@pytest.mark.parametrize("change", CHANGES)
def test_pictures_that_changed_are_never_read_from_the_cache(digit_pictures, change):
    root = digit_pictures({"train": 40})
    for path in root.glob("train/*/*.*"):  # of one length and one time
        Image.open(path).convert("L").save(path.with_suffix(".bmp"))
        path.unlink()
    for path in root.glob("train/*/*.bmp"):
        os.utime(path, ns=(10**18, 10**18))
    data = folder(root)
    before = sha256_of(load_splits(data, 0))
    CHANGES[change](min(root.glob("train/digit 1/*")))
    after = sha256_of(load_splits(data, 0))
    assert after == sha256_of(load_splits(data.model_copy(update={"cache": False}), 0)) != before


OPTIONS = [
    {"image_size": 20},
    {"image_size": 20, "resize": "crop"},
    {"image_size": 20, "resize": "pad"},
    {"image_size": 20, "resize": "pad", "background": "white"},
    {"image_size": 20, "interpolation": "bicubic"},
    {"image_size": 20, "resize": "crop", "crop_fraction": 0.5},
    {"image_size": 5, "shrink": False},
    {"image_size": 5},
    {"channels": 3, "image_size": 20},
]


def test_each_option_of_decoding_has_a_file_of_its_own(digit_pictures, monkeypatch):
    monkeypatch.setattr(cache_module, "KEPT", 99)
    root = digit_pictures({"train": 20})
    for path in root.rglob("*.*g"):
        Image.open(path).resize((90, 60)).save(path)
    found = [sha256_of(load_splits(folder(root, **options), 0)) for options in OPTIONS]
    again = [sha256_of(load_splits(folder(root, **options), 0)) for options in OPTIONS]
    assert found == again and len(set(found)) == len(OPTIONS) == len(kept(root))


@pytest.mark.parametrize("change", ["format", "versions", "nanocnn"])
def test_another_decoder_decodes_anew(digit_pictures, decoded, monkeypatch, change):
    data = folder(digit_pictures({"train": 20}))
    load_splits(data, 0)
    decoded.clear()
    new = {
        "format": ("FORMAT", FORMAT + 1),
        "versions": ("versions", lambda: ("99", "", "")),
        "nanocnn": ("__version__", "99"),
    }
    monkeypatch.setattr(cache_module, *new[change])
    load_splits(data, 0)
    assert len(decoded) == 20


def test_few_files_are_kept_of_a_split_and_none_beyond_the_limit(digit_pictures, capsys):
    root = digit_pictures({"train": 20, "val": 5})
    for size in (8, 9, 10, 11, 12):
        load_splits(folder(root, image_size=size), 0)
    assert sorted(path.name.split("-")[0] for path in kept(root)) == ["train"] * 3 + ["val"] * 3
    load_splits(folder(root, image_size=10), 0)  # used the latest
    load_splits(folder(root, image_size=13), 0)
    shapes = {PixelFile(path).shape[1] for path in kept(root)}
    assert shapes == {10, 12, 13}
    capsys.readouterr()
    load_splits(folder(root, image_size=100, cache_limit="100KB"), 0)
    said = capsys.readouterr()
    assert "are more than data.cache_limit" in said.err and len(kept(root)) == 6 - 1 + 1
    assert sum(path.stat().st_size for path in kept(root)) <= 100_000


def flip(path, place):
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


DAMAGE = {
    "a pixel": lambda path: flip(path, 100),
    "what is known": lambda path: flip(path, -100),
    "the end": lambda path: flip(path, -1),
    "cut short": lambda path: path.write_bytes(path.read_bytes()[:-1000]),
    "cut off in front": lambda path: path.write_bytes(path.read_bytes()[28 * 28 :]),
    "empty": lambda path: path.write_bytes(b""),
    "of others": lambda path: path.write_bytes(path.with_name("other").read_bytes()),
}


@pytest.mark.parametrize("limit", ["4GB", 1])
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_made_anew_with_a_word(digit_pictures, capsys, damage, limit):
    root = digit_pictures({"train": 20})
    load_splits(folder(root, limit=10), 0)
    kept(root)[0].rename(root / ".nanocnn-cache" / "other")
    data = folder(root, validation=0, memory_limit=limit)
    expected = load_splits(data, 0)["train"]
    order = [torch.arange(20)]
    pixels = load_splits(folder(root, validation=0), 0)["train"].images
    DAMAGE[damage](kept(root)[0])
    capsys.readouterr()
    found = load_splits(data, 0)["train"]
    assert found.files.hashes == expected.files.hashes
    images = found.images if limit != 1 else next(found.images.batches(order))
    assert torch.equal(images, pixels)
    assert capsys.readouterr().err.count(": damaged; ") == 1
    load_splits(data, 0)
    assert "damaged" not in capsys.readouterr().err and len(kept(root)) == 1


def test_where_the_picture_is_another_one_too_a_run_ends(digit_pictures):
    root = digit_pictures({"train": 20})
    data = folder(root, validation=0, memory_limit=1)
    images = load_splits(data, 0)["train"].images
    rewrite_in_place(root / images.pictures.paths[3])
    assert next(images.batches([torch.arange(20)])).shape[0] == 20, "read from the cache"
    for row in range(20):
        flip(kept(root)[0], row * 28 * 28)
    with pytest.raises(StreamError, match=r"is no longer what it was.*its pixels are others"):
        next(images.batches([torch.arange(20)]))


def test_a_full_disk_costs_the_cache_alone(digit_pictures, monkeypatch, capsys):
    root = digit_pictures({"train": 40})
    free = shutil.disk_usage(root)._replace(free=10)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: free)
    for limit, kind in (("4GB", torch.Tensor), (1, Stream)):
        found = load_splits(folder(root, memory_limit=limit), 0)
        assert isinstance(found["train"].images, kind) and kept(root) == []
        error = capsys.readouterr().err
        assert error.startswith("warning: no cache of") and "0.0 MB are free" in error
        assert error.count("\n") == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a disk that is always full")
def test_a_disk_that_fills_up_meanwhile(digit_pictures, monkeypatch, capsys):
    root = digit_pictures({"train": 40})
    data = folder(root)
    opened = Path.open
    monkeypatch.setattr(
        Path,
        "open",
        lambda path, *how, **options: opened(
            Path("/dev/full") if path.suffix == ".tmp" else path, *how, **options
        ),
    )
    found = load_splits(data, 0)
    assert "No space left" in capsys.readouterr().err and kept(root) == []
    monkeypatch.undo()
    assert sha256_of(found) == sha256_of(load_splits(data, 0))


def test_no_place_no_cache_and_a_word(digit_pictures, script):
    root = digit_pictures({"train": 40})
    (root / ".nanocnn-cache").write_text("a file where the folder would be")
    own = ["data.dataset=folder", f"data.root={root}", *SHORT]
    done = script("train.py", *own)
    assert done.code == 0 and done.error.count("warning: no cache") == 1, done.error
    assert script("train.py", *own, "data.cache=false").error == ""
    done = script("train.py", *own, "data.cache=elsewhere")
    assert done.code == 0 and done.error == "" and list(Path("elsewhere").glob("*/train-*.pixels"))


def test_a_cache_among_the_pictures_is_refused(digit_pictures, script):
    root = digit_pictures({"train": 20})
    Path("file").write_text("")
    own = ["data.dataset=folder", f"data.root={root}", *SHORT]
    for where in (f"{root}/decoded", str(root)):
        done = script("train.py", *own, f"data.cache={where}")
        assert done.code == 2 and "would be taken for images" in done.error
    assert "should name a folder" in script("train.py", *own, "data.cache=file").error
    assert not Path("runs").exists()


def test_a_second_process_leaves_the_first_alone(digit_pictures, capsys):
    root = digit_pictures({"train": 20})
    cache = root / ".nanocnn-cache"
    cache.mkdir()
    half = cache / ".train-1.pixels.tmp"
    half.write_bytes(b"half")
    with locked(cache, "train"):
        found = load_splits(folder(root), 0)
    assert "another process is writing there" in capsys.readouterr().err
    assert kept(root) == [] and half.exists()
    assert sha256_of(load_splits(folder(root), 0)) == sha256_of(found)
    assert len(kept(root)) == 1 and not half.exists(), "which nobody writes any more"


def test_pictures_that_change_while_they_are_decoded_are_not_kept(
    digit_pictures, monkeypatch, capsys
):
    root = digit_pictures({"train": 20})
    decode, victim = pictures.decode, next(root.rglob("*.png"))

    def touching(path, form):
        victim.touch()
        return decode(path, form)

    monkeypatch.setattr(pictures, "decode", touching)
    load_splits(folder(root), 0)
    assert "changed while they were decoded" in capsys.readouterr().err and kept(root) == []


def test_unreadable_files_are_asked_for_again_and_the_others_not(digit_pictures, decoded):
    root = digit_pictures({"train": 40})
    bad = next(root.rglob("*.png"))
    good = bad.read_bytes()
    bad.write_bytes(b"")
    data = folder(root, skip_unreadable=True)
    first = load_splits(data, 0)
    decoded.clear()
    second = load_splits(data, 0)
    assert decoded == [bad] and sha256_of(first) == sha256_of(second)
    bad.write_bytes(good)
    found = load_splits(data, 0)
    assert sum(len(split.labels) for split in found.values()) == 40


def test_drawings_and_16_bits_are_measured_once(tmp_path, monkeypatch, capsys):
    from nanocnn.images import survey

    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for number in range(6):
            drawing = np.zeros((8, 8, 4), np.uint8)
            drawing[number:, :, 3] = 255
            Image.fromarray(drawing).save(tmp_path / name / f"{number}.png")
            deep = np.arange(64, dtype=np.uint16).reshape(8, 8) + number
            Image.fromarray(deep).save(tmp_path / name / f"deep {number}.png")
    data = folder(tmp_path, test=0, channels=1)
    first, said = load_splits(data, 0), capsys.readouterr().err
    for name in ("opacity", "range_of"):
        monkeypatch.delattr(survey, name)
        monkeypatch.setattr(survey, name, None, raising=False)  # not to be called
    second = load_splits(data, 0)
    assert first["train"].files.background == second["train"].files.background == "white"
    assert "use 0.1% of their range" in said and capsys.readouterr().err == said


def test_a_run_with_and_one_without_come_to_the_same_and_go_on(digit_pictures, script):
    root = digit_pictures({"train": 60, "test": 20})
    own = ["data.dataset=folder", f"data.root={root}", *SHORT, "schedule={name: constant}"]
    assert script("train.py", *own, "data.cache=false", "--run-dir", "without").code == 0
    assert script("train.py", *own, "train.epochs=1", "--run-dir", "with").code == 0
    assert [path.name[:6] for path in kept(root)] == ["train-"], "no test picture was decoded"
    for limit in ("4GB", "1"):
        more = [f"data.memory_limit={limit}", f"train.epochs={2 + (limit == '1')}"]
        assert script("train.py", "--resume", "with", *more).code == 0
    assert script("train.py", "--resume", "without", "train.epochs=3").code == 0
    first, second = (load_checkpoint(Path(run, "last.pt")) for run in ("with", "without"))
    assert first["data_sha256"] == second["data_sha256"]
    assert all(torch.equal(first["model"][key], second["model"][key]) for key in first["model"])
    for run in ("with", "without"):
        judged = script("test.py", "--ckpt", run, "--json", "-")
        assert judged.code == 0 and json.loads(judged.out)["n"] == 20
    assert [path.name.split("-")[0] for path in kept(root)] == ["test", "train"]
    results = [json.loads(Path(run, "test.json").read_text()) for run in ("with", "without")]
    assert results[0]["confusion"] == results[1]["confusion"]


def test_the_verb_shows_and_clears(digit_pictures, script):
    root = digit_pictures({"train": 20, "val": 4})
    assert script("nanocnn", "cache", root).out == f"{root}: no cache\n"
    load_splits(folder(root), 0)
    load_splits(folder(root, cache="other"), 0)
    shown = script("nanocnn", "cache", root)
    assert "20 images of 1x28x28" in shown.out and "in 2 files" in shown.out
    other = script("nanocnn", "cache", "other")
    assert "4 images of 1x28x28" in other.out and "other/pictures-" in other.out
    with locked(root / ".nanocnn-cache", "train"):
        busy = script("nanocnn", "cache", root, "--clear")
    assert busy.code == 2 and "another process" in busy.error and len(kept(root)) == 2
    assert "MB removed" in script("nanocnn", "cache", root, "--clear").out
    assert not (root / ".nanocnn-cache").exists() and len(list(root.rglob("*.*g"))) == 24
    assert script("nanocnn", "cache", "nowhere").code == 2


WRITING = """
import os, sys
from pathlib import Path
from nanocnn.config.schema import Data
from nanocnn.images import pixels
from nanocnn.images.cache import Cache
from nanocnn.images.decode import Form
from nanocnn.images.pictures import Pictures

root, left = Path(sys.argv[1]), [int(sys.argv[2])]

def dying(function):
    def call(*arguments):
        if not left[0]:
            os.kill(os.getpid(), 9)
        left[0] -= 1
        return function(*arguments)
    return call

pixels.PixelWriter.write, os.replace = dying(pixels.PixelWriter.write), dying(os.replace)
paths = sorted(str(path.relative_to(root)) for path in root.rglob("train/*/*.*g"))
form, rows = Form((1, 120, 120), shrink=True), pixels.np.arange(len(paths))
with Cache(Data(dataset="folder", root=str(root))).writing("train", paths, form) as writer:
    writer.add(rows, Pictures(root, paths, form).read_all(False, writer.of(rows)))
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_kills_while_it_is_written_leave_no_wrong_picture(digit_pictures, decoded):
    root = digit_pictures({"train": 40}, size=120)
    data = folder(root)
    expected = sha256_of(load_splits(data.model_copy(update={"cache": False}), 0))
    for left, is_killed in ((0, True), (39, True), (40, True), (41, True), (42, False)):
        done = subprocess.run(
            [sys.executable, "-c", WRITING, str(root), str(left)], cwd=PROJECT, check=False
        )
        assert (done.returncode == -signal.SIGKILL) == is_killed
        assert len(kept(root)) == (not is_killed)
        assert len(list(root.glob(".nanocnn-cache/.*.tmp"))) == is_killed
    decoded.clear()
    assert sha256_of(load_splits(data, 0)) == expected and decoded == []
