"""Near copies: what is told, what is not, and what train.py says of them, the test unopened."""

import io
import os

import numpy as np
import pytest
from conftest import load_config
from PIL import Image

from nanocnn.images.cache import NAME, THUMBNAILS
from nanocnn.images.copies import near_copies, perceptual_hashes
from nanocnn.images.leaks import paths_of_test
from nanocnn.images.splits import load_splits
from nanocnn.images.thumbnails import SIDE

CONFIG = ["--config", "folder.yaml", "data.image_size=32", "data.root=pictures"]
QUICK = [*CONFIG, "model=lenet5", "train.epochs=1", "data.validation=6", "data.channels=1"]


def scene(seed):
    """A picture with some structure, as photographs have: blurred noise."""
    noise = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((64, 64), Image.Resampling.BICUBIC)


@pytest.fixture
def scenes(tmp_path):
    """Make pictures/<split>/<class>/<n>.png of different scenes, in an empty folder."""
    for split, seeds in {"train": range(24), "test": range(24, 30)}.items():
        for seed in seeds:
            folder = tmp_path / "pictures" / split / "ab"[seed % 2]
            folder.mkdir(parents=True, exist_ok=True)
            scene(seed).save(folder / f"{seed:02}.png")
    return tmp_path / "pictures"


def thumbnail(picture):
    return np.asarray(picture.convert("L").resize((SIDE, SIDE), Image.Resampling.BILINEAR))


def saved_again(picture):
    file = io.BytesIO()
    picture.save(file, "jpeg", quality=70)
    return Image.open(file)


def test_what_is_saved_again_scaled_or_lighter_is_a_copy_and_nothing_else_is():
    different = [thumbnail(scene(seed)) for seed in range(50)]
    changed = [saved_again(scene(3)), scene(4).resize((90, 80)), scene(5).point(lambda x: x // 2)]
    thumbnails = np.stack([*different, *map(thumbnail, changed)])
    found = near_copies(thumbnails, np.zeros(len(thumbnails)))
    assert [(one, other) for one, other, _ in found] == [(3, 50), (4, 51), (5, 52)]
    assert all(0.99 < copy.correlation <= 1 for copy in found)


def test_pictures_of_a_single_colour_and_those_with_like_hashes_are_no_copies():
    plain = np.stack([np.full((SIDE, SIDE), level, np.uint8) for level in (0, 0, 90, 255)])
    assert near_copies(plain, np.zeros(4)) == []
    fine = np.random.default_rng(0).normal(0, 12, (SIDE, SIDE))  # what the hash does not see
    alike = np.stack([thumbnail(scene(0)), (thumbnail(scene(0)) + fine).clip(0, 255)])
    one, other = perceptual_hashes(alike)
    assert np.bitwise_count(one ^ other) <= 6 and near_copies(alike, np.zeros(2)) == []


def test_of_each_split_one_copy_is_told():
    thumbnails = np.stack([thumbnail(scene(0))] * 5)
    found = near_copies(thumbnails, np.array([0, 0, 1, 2, 2]))
    told = {(copy.other, [0, 0, 1, 2, 2][copy.one]) for copy in found}
    assert told == {(1, 0), (2, 0), (3, 0), (3, 1), (4, 0), (4, 1), (4, 2)}


def test_train_py_tells_of_validation_pictures_that_are_nearly_training_pictures(scenes, script):
    (scenes / "val" / "a").mkdir(parents=True)
    saved_again(scene(7)).save(scenes / "val" / "a" / "again.jpg")
    scene(8).save(scenes / "val" / "a" / "same.png")
    options = [each for each in QUICK if "validation" not in each]
    error = script("train.py", *options, "--dry-run").error
    assert "1 validation images are copies of one that is trained on, or nearly so" in error
    assert "the first is val/a/again.jpg, as train/b/07.png" in error
    assert "1 validation images have the pixels of a training image" in error


def test_train_py_tells_of_test_pictures_that_check_data_has_seen_and_opens_none(scenes, script):
    saved_again(scene(7)).save(scenes / "test" / "a" / "again.jpg")
    assert "copies" not in script("train.py", *QUICK, "--dry-run").error
    assert script("nanocnn", "check-data", *CONFIG).code == 0
    warning = "1 test images are copies of one that is trained on or validated, or nearly so: the "
    warning += "first is test/a/again.jpg, as train/b/07.png"
    assert warning in script("train.py", *QUICK, "--dry-run").error

    for path in (scenes / "test").rglob("*.*"):  # unreadable, and yet of the same size and time
        state = path.stat()
        path.write_bytes(b"\0" * state.st_size)
        os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    result = script("train.py", *QUICK, "--run-dir", "run")
    assert result.code == 0 and warning in result.error

    path.write_bytes(path.read_bytes() + b"\0")  # no longer the file that was looked at
    assert "copies" not in script("train.py", *QUICK, "--dry-run").error


def test_pictures_held_out_by_name_are_compared_too(scenes, script):
    (scenes / "test").rename(scenes.parent / "test")
    for folder in (scenes / "train").iterdir():
        folder.rename(scenes / folder.name)
    (scenes / "train").rmdir()
    config = load_config("folder.yaml", [f"data.root={scenes}", "data.image_size=32"])
    train = load_splits(config.data, 0)["train"].files
    held_out = scenes / paths_of_test(config.data, train)[0]
    original = scenes / train.paths[0]
    saved_again(Image.open(original)).save(held_out, "jpeg")
    assert script("nanocnn", "check-data", *CONFIG).code == 0
    assert f"as {train.paths[0]}" in script("train.py", *QUICK, "--dry-run").error


def test_a_damaged_file_of_check_data_says_nothing_and_one_that_cannot_be_written_is_told(
    scenes, script, monkeypatch
):
    (scenes / NAME).write_text("in the way")
    result = script("nanocnn", "check-data", *CONFIG)
    assert result.code == 0 and "so train.py cannot compare" in result.error
    (scenes / NAME).unlink()
    assert script("nanocnn", "check-data", *CONFIG).code == 0
    content = (scenes / NAME / THUMBNAILS).read_bytes()
    for damaged in (b"", b"junk", content[: len(content) // 2]):
        (scenes / NAME / THUMBNAILS).write_bytes(damaged)
        result = script("train.py", *QUICK, "--dry-run")
        assert result.code == 0 and "copies" not in result.error
