"""Pictures in whatever folders they lie: what is a split and what a class, and what is held out for
test.py, which training never opens.
"""

import json
import os
import re
import shutil
from pathlib import Path
from zlib import crc32

import pytest
from test_lists import FAST, folder, options, picture, pictures

from nanocnn.config.schema import Data
from nanocnn.images.carving import hold_out_test, list_training
from nanocnn.images.listing import list_split
from nanocnn.images.splits import load_splits
from nanocnn.system.errors import UserError


def class_folders(root, counts, start=0):
    """root/class/n.png, `counts` of each class."""
    for name, count in counts.items():
        for number in range(start, start + count):
            picture(root / name / f"{number}.png", crc32(f"{name} {number}".encode()))
    return root


def held_out(data):
    return hold_out_test(data, list_split(data, "train")).held_out


# class folders without train/


def test_of_class_folders_a_fifth_of_each_class_is_held_out_whatever_the_seed(tmp_path):
    root = class_folders(tmp_path, {"a": 40, "b": 20, "c": 5})
    (root / "LICENSE.txt").touch()
    found = [list_training(folder(root), seed, None) for seed in (0, 1)]
    test = found[0]["train"].held_out
    assert [label for _, label in test] == ["a"] * 8 + ["b"] * 4 + ["c"]
    assert all(path.split("/")[0] == label for path, label in test)
    assert test == found[1]["train"].held_out
    assert found[0]["val"].paths != found[1]["val"].paths
    for splits in found:
        parts = [set(splits["train"].paths), set(splits["val"].paths), {path for path, _ in test}]
        assert sum(map(len, parts)) == len(set.union(*parts)) == 65
    moved = shutil.copytree(root, tmp_path.parent / f"{tmp_path.name} moved")
    assert held_out(folder(moved)) == test


def test_a_picture_that_is_added_moves_few_others(tmp_path):
    root = class_folders(tmp_path, {"a": 40, "b": 40})
    before = set(held_out(folder(root)))
    class_folders(root, {"a": 5}, start=40)
    after = set(held_out(folder(root)))
    assert len(after) == 17 and len(before - after) <= 2


def test_test_py_judges_exactly_the_files_that_were_held_out(tmp_path, script):
    root = class_folders(tmp_path / "my", {"a": 10, "b": 10})
    assert script("train.py", *options(root, "--seeds", "2", "--run-dir", "runs")).code == 0
    lists = [Path(f"runs/seed_{seed}/test_files.csv").read_text() for seed in (0, 1)]
    assert lists[0] == lists[1] and lists[0].count("\n") == 5
    files = [line.split(",")[0] for line in lists[0].splitlines()[1:]]
    run = "runs/seed_0"

    class_folders(root, {"a": 30, "c": 3}, start=10)
    done = script("test.py", "--ckpt", run)
    assert done.code == 0 and json.loads(Path(run, "test.json").read_text())["n"] == 4
    assert "trained on" not in done.error

    (root / files[0]).unlink()
    gone = script("test.py", "--ckpt", run)
    assert gone.code == 2 and f"{files[0]} (No such file or directory)" in gone.error
    assert "bring them back, or leave them out with --skip-unreadable" in gone.error
    done = script("test.py", "--ckpt", run, "--skip-unreadable")
    assert done.code == 0 and "cannot be read: 1\n" in done.out

    # another root with a test split of its own
    pictures(tmp_path / "others", {"a": 3, "b": 2}, "test")
    done = script("test.py", "--ckpt", run, "--data-root", tmp_path / "others")
    assert done.code == 0 and "judged are those in" in done.error
    assert json.loads(Path(run, "test.json").read_text())["n"] == 5

    Path(run, "test_files.csv").write_text(lists[0].replace(files[0], "a/20.png"))
    damaged = script("test.py", "--ckpt", run)
    assert damaged.code == 2 and "test_files.csv: damaged, or of another run" in damaged.error
    Path(run, "test_files.csv").unlink()
    lost = script("test.py", "--ckpt", run)
    assert lost.code == 2 and "test_files.csv: no such file" in lost.error


def test_a_list_that_was_held_out_can_name_any_file(tmp_path, script):
    root = class_folders(tmp_path / "my", {"a": 1, "b": 1})
    for number in range(12):
        picture(root / '~a, "b"' / f'x "{number}", ü\n.png', number)
        picture(root / "b" / f"-{number}.png", 50 + number)
        os.rename(root / "b" / f"-{number}.png", os.fsencode(root / "b") + b"/\xe9%d" % number)
    done = script("train.py", *options(root, "data.test=0.5", "--run-dir", "run"))
    assert done.code == 0, done.error
    done = script("test.py", "--ckpt", "run")
    assert done.code == 0 and json.loads(Path("run/test.json").read_text())["n"] == 13


def test_data_test_says_how_many_are_held_out_and_is_refused_where_it_cannot_act(tmp_path, script):
    root = class_folders(tmp_path / "my", {"a": 10, "b": 10, "c": 1})
    assert len(held_out(folder(root, test=8))) in (7, 8)  # c has but one
    assert held_out(folder(root, test=0)) == ()
    for share, message in {21: "leaves nothing of 21", 0.02: "less than one of 21"}.items():
        with pytest.raises(UserError, match=rf"data\.test = {share}: {message}"):
            held_out(folder(root, test=share))
    assert "c" not in [label for _, label in held_out(folder(root, test=0.5))]
    assert script("train.py", *options(root, "data.test=0", "--run-dir", "run")).code == 0
    done = script("test.py", "--ckpt", "run")
    assert done.code == 2 and "held none out (data.test = 0)" in done.error

    # a train/ with no test split beside it: only if asked
    split = pictures(tmp_path / "split", {"a": 10, "b": 10})
    assert held_out(folder(split)) == ()
    assert len(held_out(folder(split, test=0.25))) == 5
    pictures(split, {"a": 1}, "Test")
    with pytest.raises(UserError, match=r"data\.test = 0\.25: cannot act, for .*/Test has a test"):
        held_out(folder(split, test=0.25))


def test_class_folders_may_have_a_test_and_a_validation_split_beside_them(tmp_path, script):
    root = class_folders(tmp_path / "my", {"a": 10, "b": 10})
    pictures(pictures(root, {"a": 2}, "test"), {"a": 1, "b": 2}, "Valid")
    splits = list_training(folder(root), 0, None)
    assert {name: len(part.paths) for name, part in splits.items()} == {"train": 20, "val": 3}
    assert splits["train"].held_out == () and splits["train"].classes == ["a", "b"]
    assert script("train.py", *options(root, "--run-dir", "run")).code == 0
    assert not Path("run/test_files.csv").exists()
    done = script("test.py", "--ckpt", "run")
    assert done.code == 0 and json.loads(Path("run/test.json").read_text())["n"] == 2


@pytest.mark.parametrize("name", ["train", "TEST", "val"])
@pytest.mark.parametrize("nested", ["", "2020/"])
def test_a_class_with_the_name_of_a_split_is_not_passed_over(tmp_path, name, nested):
    """A train among other vehicles."""
    root = class_folders(tmp_path / "my", {"bus": 3, "car": 3})
    picture(root / name / f"{nested}1.png", 1)
    message = "belong into one" if (name, nested) == ("train", "") else "if it is a class"
    if (name, nested) == ("train", "2020/"):
        assert list_split(folder(root), "train").classes == ["2020"]  # as ever: beside train/
    else:
        with pytest.raises(UserError, match=message):
            load_splits(folder(root), 0)


def test_runs_that_are_started_in_the_folder_of_the_classes_are_no_class(tmp_path, script):
    class_folders(tmp_path, {"a": 10, "b": 10})
    for _ in range(2):
        done = script("train.py", *options("."))
        assert done.code == 0 and "train: a 7, b 7" in done.out, done.error
    assert script("test.py").code == 0


# a level too deep or too high


@pytest.mark.parametrize(
    "root, message",
    [
        ("signs", "holds one folder, Dataset; if the folders in that are the classes"),
        ("signs/Dataset/0", "holds pictures; if it is one of the classes, with others beside it"),
    ],
)
def test_class_folders_a_level_too_deep_or_too_high_are_told(tmp_path, root, message):
    signs = tmp_path / "signs"
    class_folders(signs / "Dataset", {"0": 2, "1": 2})
    with pytest.raises(UserError, match=rf"{message}: data\.root={signs}/Dataset$"):
        load_splits(folder(tmp_path / root), 0)


@pytest.mark.parametrize(
    "layout", ["pets/{split}/{name}", "{name}/{split}", "train/{name}/{split}"]
)
def test_splits_below_class_folders_are_not_mixed(tmp_path, layout):
    for split in ("train", "test"):
        for name in ("a", "b"):
            picture(tmp_path / layout.format(split=split, name=name) / "1.png", 1)
    (tmp_path / "other").mkdir()
    if "train/" in layout:
        shutil.rmtree(tmp_path / "other")
    with pytest.raises(UserError, match=r"has the name of a split|pets has it"):
        load_splits(folder(tmp_path), 0)
    if layout.startswith("pets"):
        picture(tmp_path / "other" / "x" / "1.png", 1)
        with pytest.raises(UserError, match=r"if .*/pets is what holds the splits: data\.root="):
            load_splits(folder(tmp_path), 0)


# subfolders of a class


def test_pictures_in_subfolders_of_a_class_take_part_in_natural_order(tmp_path, script):
    names = ["2/b.png", "2/a 10.png", "2/a 2.png", "10/deep/er/1.png", "1.png", "3.png"]
    for number, name in enumerate(names):
        picture(tmp_path / "my" / "train" / "dog" / name, number)
        picture(tmp_path / "my" / "train" / "cat" / name, 10 + number)
    picture(tmp_path / "my" / "train" / "dog" / ".hidden" / "1.png", 1)
    listing = list_split(folder(tmp_path / "my"), "train")
    in_order = [
        "1.png", "2/a 2.png", "2/a 10.png", "2/b.png", "3.png", "10/deep/er/1.png",
    ]  # fmt: skip
    assert listing.paths == [f"train/{name}/{path}" for name in ("cat", "dog") for path in in_order]
    assert script("train.py", *options(tmp_path / "my", "--run-dir", "run")).code == 0


def test_a_link_in_a_class_may_lead_elsewhere_but_not_in_a_circle(tmp_path):
    root = pictures(tmp_path / "my", {"a": 2, "b": 2})
    picture(tmp_path / "elsewhere" / "1.png", 1)
    (root / "train" / "a" / "more").symlink_to(tmp_path / "elsewhere")
    assert "train/a/more/1.png" in list_split(folder(root), "train").paths
    (root / "train" / "a" / "back").symlink_to(root / "train" / "a")
    with pytest.raises(UserError, match=r"train/a/back: a link that leads back to .*train/a"):
        list_split(folder(root), "train")


# names of splits


@pytest.mark.parametrize("dataset", ["folder", "csv"])
@pytest.mark.parametrize(
    "names",
    [("Train", "valid", "TEST"), ("training", "Validation", "Testing"), ("TRAIN", "dev", "test")],
)
def test_splits_go_by_what_people_call_them(tmp_path, script, dataset, names):
    root = tmp_path / "my"
    for split, name in zip(("train", "val", "test"), names, strict=True):
        pictures(root, {"a": 6, "b": 6}, split if dataset == "csv" else name)
        if dataset == "csv":
            found = [f"{path.relative_to(root)},{path.parent.name}" for path in
                     sorted(root.glob(f"{split}/*/*"))]  # fmt: skip
            (root / f"{name}.csv").write_text("\n".join(["path,label", *found, ""]))
    run = [f"data.dataset={dataset}", f"data.root={root}", *FAST, "--run-dir", "run"]
    done = script("train.py", *run)
    assert done.code == 0 and f"{dataset}: 12 train and 12 val images" in done.out, done.error
    done = script("test.py", "--ckpt", "run")
    assert done.code == 0 and json.loads(Path("run/test.json").read_text())["n"] == 12


@pytest.mark.parametrize("pair", [("val", "valid"), ("train", "training"), ("test", "Testing")])
@pytest.mark.parametrize("dataset", ["folder", "csv"])
def test_two_names_of_one_split_are_refused_with_both(tmp_path, pair, dataset):
    root = pictures(tmp_path, {"a": 3, "b": 3})
    (root / "train.csv").write_text("path,label\ntrain/a/1.png,a\n")
    for name in pair:
        pictures(root, {"a": 3, "b": 3}, name)
        (root / f"{name}.csv").write_text("path,label\ntrain/a/1.png,a\n")
    suffix = ".csv" if dataset == "csv" else ""
    one, other = sorted(f"{root / name}{suffix}" for name in pair)
    with pytest.raises(UserError, match=re.escape(f"{one} and {other}: both are names of")):
        load_splits(Data(dataset=dataset, root=str(root)), 0)


# the test split stays locked


def in_class_folders(root):
    class_folders(root, {"a": 15, "b": 15})
    return [path for path, _ in held_out(folder(root))]


def in_split_folders(root):
    pictures(pictures(root, {"a": 9, "b": 9}), {"a": 3, "b": 3}, "test")
    return [str(path.relative_to(root)) for path in root.glob("test/*/*")]


def beside_class_folders(root):
    class_folders(root, {"a": 9, "b": 9})
    pictures(root, {"a": 3, "b": 3}, "Testing")
    return [str(path.relative_to(root)) for path in root.glob("Testing/*/*")]


LAYOUTS = [in_class_folders, in_split_folders, beside_class_folders]
SMALL = ["data.memory_limit=1", "data.cache=false"]  # streamed


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("more", [[], ["data.skip_unreadable=true"], SMALL])
def test_training_opens_no_test_picture(tmp_path, script, layout, more):
    root = tmp_path / "my"
    files = layout(root)
    assert len(files) == 6
    for number, path in enumerate(files):
        (root / path).write_bytes(b"no picture")
        if number % 2:
            (root / path).chmod(0)
    done = script("train.py", *options(root, *more, "--run-dir", "run"))
    assert done.code == 0 and not Path("run/unreadable.txt").exists(), done.error
    shown = script("model.py", *options(root, *more))
    assert shown.code == 0, shown.error
    done = script("test.py", "--ckpt", "run")
    assert done.code == 2 and "6 of 6 images cannot be read" in done.error


# what is not read


def test_what_looks_like_a_split_but_is_not_read_is_told(tmp_path, script):
    root = pictures(tmp_path / "my", {"a": 6, "b": 6})
    for name in ("holdout", "valid_set", ".hidden", "unrelated"):
        pictures(root, {"x" if name == "unrelated" else "a": 1}, name)
    (root / "val").write_text("not a folder")
    (root / "holdout.csv").write_text("path,label\n")
    told = script("train.py", *options(root, "data.validation=0", "--dry-run"))
    assert told.code == 0 and told.error.count("warning") == 1
    assert "beside the splits there is holdout, val, valid_set, which is not read" in told.error
    (root / "train.csv").write_text("path,label\ntrain/a/0.png,a\ntrain/b/0.png,b\n")
    of_lists = ["data.dataset=csv", "data.validation=0", "--dry-run"]
    told = script("train.py", *options(root, *of_lists))
    assert told.code == 0 and "there is holdout.csv, which is not read" in told.error


def test_a_split_by_another_name_is_no_class(tmp_path):
    root = class_folders(tmp_path, {"a": 6, "b": 6, "valid_set/a": 2, "valid_set/b": 2})
    with pytest.raises(UserError, match=r"valid_set: lies beside the class.*call it val or test"):
        list_split(folder(root), "train")


def test_an_empty_folder_within_a_class_is_no_picture(tmp_path):
    root = pictures(tmp_path, {"a": 2, "b": 2})
    (root / "train" / "a" / "2020" / "june").mkdir(parents=True)
    assert len(list_split(folder(root), "train").paths) == 4
    (root / "train" / "c" / "2020").mkdir(parents=True)
    with pytest.raises(UserError, match="the class 'c' has no images"):
        list_split(folder(root), "train")


@pytest.mark.parametrize(
    "folders, files, message",
    [
        (["train/a", "train/b", "-val"], [], r"val: holds no images; fill it, or remove it to"),
        (["a", "b", "-val"], [], r"val: holds no images; fill it, or remove it"),
        (["a", "b", "-test"], [], r"test: holds no images; fill it, or remove it"),
        (["val/a", "test/a"], [], r"test and .*val, but nothing to train on"),
        (["val/a"], ["train"], r"train: a file, where a folder should be; .*nothing to train on"),
        ([], [], r"my is empty"),
    ],
)
def test_what_is_missing_is_told_with_what_is_there(tmp_path, folders, files, message):
    root = tmp_path / "my"
    root.mkdir()
    for name in folders:
        (root / name.strip("-")).mkdir(parents=True)
        if name[0] != "-":
            picture(root / name / "0.png", crc32(name.encode()))
            picture(root / name / "1.png", crc32(f"{name}1".encode()))
    for name in files:
        (root / name).touch()
    with pytest.raises(UserError, match=message) as refused:
        load_splits(folder(root), 0)
    assert "two class folders at least" not in str(refused.value)


def test_without_a_test_split_it_is_told_how_to_have_one(tmp_path, script):
    root = pictures(tmp_path / "my", {"a": 6, "b": 6})
    assert script("train.py", *options(root, "--run-dir", "run")).code == 0
    (root / "test").touch()
    refused = script("test.py", "--ckpt", "run")
    assert refused.code == 2 and "test: a file, where a folder should be" in refused.error
    assert "data.test=0.2 holds images of train out for it, and --split val" in refused.error
    assert script("test.py", "--ckpt", "run", "--split", "val").code == 0
