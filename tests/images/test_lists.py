"""What folders and lists of one's own pictures hold, and what is said where it is not meant so."""

import json
import os
import shutil
from pathlib import Path
from zlib import crc32

import numpy as np
import pytest
from conftest import load_config
from PIL import Image

from nanocnn.config.schema import Data
from nanocnn.images.listing import list_split
from nanocnn.images.names import look_alikes
from nanocnn.images.report import print_data_report
from nanocnn.images.splits import load_splits
from nanocnn.images.stream import Stream
from nanocnn.images.training_data import TrainingData
from nanocnn.run.checkpoint import load_checkpoint, save_checkpoint
from nanocnn.system.errors import UserError, complain

NFC, NFD = "M\xfcll", "Mu\u0308ll"
FAST = ("train.epochs=1", "model={name: convnet, channels: [[2]], hidden: []}")


def picture(path, seed, mode="L", size=(12, 12)):
    """A picture of noise at `path`, always the same for a seed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (size[1], size[0]) if mode == "L" else (size[1], size[0], 3)
    pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def broken(path, seed=99, **kind):
    """A picture that says what it is and ends in the middle."""
    picture(path, seed, **kind)
    path.write_bytes(path.read_bytes()[:-60])


def pictures(root, counts, split="train"):
    """root/split/class/n.png, `counts` of each class, all different."""
    for name, count in counts.items():
        for number in range(count):
            picture(
                root / split / name / f"{number}.png", crc32(f"{split} {name} {number}".encode())
            )
    return root


def folder(root, **changes):
    return Data(dataset="folder", root=str(root), **changes)


def from_csv(root, *lines, split="train"):
    (root / f"{split}.csv").write_text("\n".join(["path,label", *lines, ""]), encoding="utf-8")
    return Data(dataset="csv", root=str(root))


def options(root, *more):
    return ["data.dataset=folder", f"data.root={root}", *FAST, *more]


# which pictures take part


@pytest.mark.parametrize("limit", ["4GB", 1])
@pytest.mark.parametrize("changes", [{"validation": 3}, {"validation": 0, "limit": 9}])
def test_a_file_that_cannot_be_read_takes_no_place_of_one_that_can(tmp_path, limit, changes):
    """Were they chosen before they are read, some seed would find a split of broken files only."""
    pictures(tmp_path, {"a": 6, "b": 6})
    for number in range(6):
        broken(tmp_path / "train" / "b" / f"broken {number}.png")
    data = folder(tmp_path, skip_unreadable=True, memory_limit=limit, cache=False, **changes)
    for seed in range(12):
        splits = load_splits(data, seed)
        sizes = {name: len(split.labels) for name, split in splits.items()}
        assert sizes == ({"train": 9, "val": 3} if "limit" not in changes else {"train": 9})
        assert set(splits["train"].labels.tolist()) == {0, 1}
        assert isinstance(splits["train"].images, Stream) == (limit == 1)
        assert len(splits["train"].files.unreadable) == 6


def test_a_class_with_a_readable_picture_is_never_refused_for_its_broken_ones(tmp_path):
    pictures(tmp_path, {"a": 8, "b": 1})
    broken(tmp_path / "train" / "b" / "1.png")
    for seed in range(12):
        splits = load_splits(folder(tmp_path, skip_unreadable=True, validation=0.5), seed)
        assert splits["train"].labels.tolist().count(1) == 1
    (tmp_path / "train" / "b" / "0.png").unlink()
    with pytest.raises(UserError, match="of a class of train none is left without them: b"):
        load_splits(folder(tmp_path, skip_unreadable=True), 0)


def test_a_file_that_cannot_be_read_says_nothing_of_size_and_colour(tmp_path, script):
    pictures(tmp_path, {"a": 6, "b": 6})
    broken(tmp_path / "train" / "a" / "!.png", mode="RGB", size=(20, 30))
    splits = load_splits(folder(tmp_path, skip_unreadable=True), 0)
    assert splits["train"].images.shape[1:] == (1, 12, 12)
    shown = script("model.py", *options(tmp_path, "data.skip_unreadable=true"))
    assert shown.code == 0 and "1x12x12" in shown.out, shown.error


def test_a_run_on_a_few_images_tells_of_those_left_out_too(tmp_path, script):
    broken(pictures(tmp_path, {"a": 6, "b": 6}) / "train" / "a" / "x.png")
    few = ["train.overfit_batches=1", "train.batch_size=4", "data.skip_unreadable=true"]
    done = script("train.py", *options(tmp_path, *few, "--run-dir", "run"))
    assert done.code == 0 and "cannot be read: 1\n" in done.out, done.error
    assert len(Path("run/unreadable.txt").read_text().splitlines()) == 1


@pytest.mark.slow
def test_a_run_that_held_out_others_before_is_not_gone_on_with(tmp_path, script):
    pictures(tmp_path, {"a": 6, "b": 6})
    begun = options(tmp_path, "data.skip_unreadable=true", "schedule={name: constant}")
    assert script("train.py", *begun, "--run-dir", "run").code == 0
    checkpoint = load_checkpoint(Path("run/last.pt"))
    save_checkpoint(Path("run"), ["last.pt"], checkpoint | {"semantics": 2})
    resumed = script("train.py", "--resume", "run", "train.epochs=2")
    assert resumed.code == 2 and "whose data.skip_unreadable differs" in resumed.error


@pytest.mark.slow
def test_stray_files_in_test_are_left_out_where_test_py_is_told_so(tmp_path, script):
    root = tmp_path / "my"
    pictures(pictures(root, {"a": 6, "b": 6}), {"a": 2, "b": 2}, "test")
    (root / "test" / "a" / "Thumbs.db").write_bytes(b"x")
    assert script("train.py", *options(root, "--seeds", "2", "--run-dir", "runs")).code == 0
    refused = script("test.py", "--ckpt", "runs/seed_0")
    assert refused.code == 2 and "leave them out with --skip-unreadable" in refused.error
    assert "train with" not in refused.error
    tested = script("test.py", "--ckpt", "runs/seed_0", "--skip-unreadable")
    assert tested.code == 0 and "cannot be read: 1\n" in tested.out, tested.error
    report = json.loads(Path("runs/seed_0/test.json").read_text())
    assert report["n"] == 4
    assert report["unreadable"] == [
        "test/a/Thumbs.db (none of BMP, GIF, JPEG, PNG, PPM, TIFF, WEBP, AVIF, JPEG2000)"
    ]
    both = script("test.py", "--ckpt", "runs", "--skip-unreadable")
    assert both.code == 0 and both.out.endswith("cannot be read: 1\n")
    assert json.loads(Path("runs/test.json").read_text())["unreadable"] == report["unreadable"]


@pytest.mark.slow
def test_the_images_of_the_training_are_as_they_were_chosen(tmp_path, script):
    root = pictures(tmp_path / "my", {"a": 9, "b": 9})
    assert script("train.py", *options(root, "--run-dir", "run")).code == 0
    (root / "train" / "a" / "3.png").write_bytes(b"")
    refused = script("test.py", "--ckpt", "run", "--split", "val")
    assert refused.code == 2 and "when the network was trained: bring them back" in refused.error
    refused = script("test.py", "--ckpt", "run", "--split", "val", "--skip-unreadable")
    assert refused.code == 2 and "allowed with --split test" in refused.error
    assert script("train.py", *FAST, "--run-dir", "digits", "data.limit=50").code == 0
    refused = script("test.py", "--ckpt", "digits", "--skip-unreadable")
    assert refused.code == 2 and "cannot act on digits" in refused.error


# what classes are called


@pytest.mark.slow
def test_names_that_are_written_so_in_their_language_are_classes(tmp_path, script):
    names = [
        "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",  # Persian: a zero-width non-joiner
        "👩\u200d🚀",
        "Donau\xaddampf",
        "New\xa0York",
        "\U0001fae8",  # newer than some a Python's tables
    ]
    root = pictures(tmp_path / "my", dict.fromkeys([*names, NFD], 3))
    pictures(root, dict.fromkeys([*names, NFC], 1), "test")
    assert script("train.py", *options(root, "--run-dir", "run")).code == 0
    assert script("test.py", "--ckpt", "run").code == 0
    rows = json.loads(Path("run/test.json").read_text())["per_class"]
    assert {row["name"]: row["support"] for row in rows} == dict.fromkeys([*names, NFC], 1)


@pytest.mark.parametrize(
    "name", ["a\nb", "a\x1b[31m", "a\x85b", "a\u2028b", "a\u202eb", "a\u2066b"]
)
def test_a_name_that_would_disturb_what_is_printed_is_refused(tmp_path, name):
    with pytest.raises(UserError, match="cannot be printed") as error:
        list_split(from_csv(tmp_path, f'a.png,"{name}"'), "train")
    assert str(error.value).isprintable()


def test_a_name_of_bytes_that_are_no_text_is_refused(tmp_path):
    picture(tmp_path / "train" / "caf" / "a.png", 0)
    os.rename(tmp_path / "train" / "caf", os.fsencode(tmp_path / "train") + b"/caf\xe9")
    with pytest.raises(UserError, match=r"'caf\\udce9', which cannot be printed"):
        list_split(folder(tmp_path), "train")


@pytest.mark.parametrize("dataset", ["folder", "csv"])
def test_two_normal_forms_of_a_name_are_no_two_classes(tmp_path, dataset):
    root = pictures(tmp_path, {NFC: 2, NFD: 2, "b": 2})
    names = [path.parent.name for path in root.glob("train/*/*")]
    lines = [f"x/{number}.png,{name}" for number, name in enumerate(names)]
    data = from_csv(root, *lines).model_copy(update={"dataset": dataset})
    with pytest.raises(
        UserError, match=r"'M\\xfcll' and 'Mu\\u0308ll'|'Mu\\u0308ll' and 'M\\xfcll'"
    ):
        list_split(data, "train")


def test_splits_and_checkpoints_are_matched_whatever_the_normal_form(tmp_path):
    pictures(tmp_path, {NFD: 3, "b": 1}, "train")
    pictures(tmp_path, {NFC: 2, "b": 1}, "val")
    splits = load_splits(folder(tmp_path), 0)
    assert splits["val"].labels.tolist() == [0, 0, 1]
    assert list_split(folder(tmp_path), "train").classes == [NFC, "b"]
    # of an earlier version, which took names as they were, even these for two
    assert list_split(folder(tmp_path), "val", ["b", NFD]).labels.tolist() == [0, 1, 1]
    both = list_split(folder(tmp_path), "val", ["b", NFD, NFC])
    assert both.labels.tolist() == [0, 2, 2]


@pytest.mark.parametrize("name", ["cat ", " cat", "cat\xa0", "\u200bcat", "cat\t", "cat\ufeff"])
def test_outer_blanks_of_a_name_are_refused(tmp_path, name):
    data = from_csv(tmp_path, "a.png,cat", f"b.png,{name}")
    with pytest.raises(UserError, match="begins or ends with a blank; should be 'cat'"):
        list_split(data, "train")
    with pytest.raises(UserError, match="begins or ends with a blank; should be 'cat'"):
        list_split(data, "train", ["cat"])
    known = list_split(data, "train", ["cat", name])  # of an earlier version
    assert known.labels.tolist() == [0, 1]
    with pytest.raises(UserError, match="which is blank"):
        list_split(from_csv(tmp_path, "a.png, "), "train")


def test_one_number_written_in_two_ways_is_no_two_classes(tmp_path):
    """As pandas writes whole numbers in a column from which one was missing."""
    with pytest.raises(UserError, match=r"'1' and '1\.0' would be two classes"):
        list_split(from_csv(tmp_path, "a.png,1", "b.png,2", "c.png,1.0"), "train")
    data = from_csv(tmp_path, "a.png,1.0", "b.png,2.0", "c.png,1.01", "d.png,1.1")
    assert list_split(data, "train").classes == ["1.0", "1.01", "1.1", "2.0"]
    with pytest.raises(UserError, match=r"'1\.0' is no class.*did you mean '1'\?"):
        list_split(data, "train", ["1", "2"])


@pytest.mark.parametrize(
    "one, other",
    [
        ("1", "1e0"), ("+1", "1"), ("1.50", "1.5"), ("0", "-0"), ("\uff11", "1"), (".5", "0.5"),
        ("1.", "1"), ("12e1", "120"), ("9" * 400, "9" * 400 + ".0"), ("1E2", "100.00"),
    ],
)  # fmt: skip
def test_a_number_in_a_list_is_one_class_however_it_is_written(tmp_path, one, other):
    for first, second in ((one, other), (other, one)):
        data = from_csv(tmp_path, f"a.png,{first}", f"b.png,{second}")
        with pytest.raises(UserError, match=r"would be two classes; write one number in one way"):
            list_split(data, "train")


def test_names_that_are_no_numbers_or_other_ones_stay(tmp_path):
    names = ["00e1", "00e2", "1_1", "11", "01", "1", "inf", "infinity", "nan", "9" * 400, "1" * 400]
    names += [str(2**53), str(2**53 + 1), "1e", "e1", "1e9999", "1e99999"]
    data = from_csv(tmp_path, *(f"{number}.png,{name}" for number, name in enumerate(names)))
    assert sorted(list_split(data, "train").classes) == sorted(names)
    in_folders = folder(pictures(tmp_path, {"1.1": 1, "1.10": 1, "\uff11": 1, "1": 1}))
    assert len(list_split(in_folders, "train").classes) == 4
    assert look_alikes(["1.1", "1.10", "\uff11", "1", "1_000", "1000", "m²", "m2"]) == [
        ("1.1", "1.10"), ("\uff11", "1"), ("1_000", "1000"), ("m²", "m2"),
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["\u200e", "\xad", "\u2800", "\u3164", "\u0301", "\u2800\ufe0f"])
def test_a_name_that_shows_nothing_is_refused(tmp_path, name):
    data = from_csv(tmp_path, "a.png,cat", f"b.png,{name}")
    with pytest.raises(UserError, match=rf"shows nothing: it is U\+{ord(name[0]):04X}"):
        list_split(data, "train")


def test_names_of_marks_that_are_letters_are_allowed(tmp_path):
    """Vowel signs of Thai and Devanagari, which recognisers of letters have as classes."""
    data = from_csv(tmp_path, "a.png,\u0e34", "b.png,\u0941", "c.png,e\u0301x")
    assert len(list_split(data, "train").classes) == 3


def test_names_that_look_alike_are_told(tmp_path, script):
    assert look_alikes(["Cat", "cat", "7", "07", "a b", "a\xa0b", "so\xadda", "soda"]) == [
        ("Cat", "cat"), ("7", "07"), ("a b", "a\xa0b"), ("so\xadda", "soda"),
    ]  # fmt: skip
    assert look_alikes(["1", "10", "1.5", "15", "a", "b", "ab", "a b", "é", "e"]) == []
    told = script("train.py", *options(pictures(tmp_path, {"Cat": 4, "cat": 4}), "--dry-run"))
    assert told.code == 0 and "1 of 2 class names differ" in told.error
    assert "'cat', as 'Cat'" in told.error


# one picture, two labels


@pytest.mark.parametrize(
    "changes",
    [
        [],
        ["data.memory_limit=1", "data.cache=false"],
        ["data.validation=0"],
        ["data.validation=0", "train.overfit_batches=1", "train.batch_size=12"],
    ],
)
def test_a_picture_with_two_labels_is_told(tmp_path, capsys, changes):
    root = pictures(tmp_path, {"a": 6, "b": 6})
    config = load_config("digits.yaml", ["data.dataset=folder", f"data.root={root}", *changes])
    if "train.overfit_batches=1" not in changes:
        clean = TrainingData(config)
        print_data_report(clean.splits, clean.info, clean.hashes)
        assert "another class" not in capsys.readouterr().err
    shutil.copy(root / "train/a/1.png", root / "train/b/also 1.png")
    data = TrainingData(config)
    print_data_report(data.splits, data.info, data.hashes)
    told = capsys.readouterr().err
    assert "images have the pixels of one of another class" in told and "warning: 1 of " in told
    assert "train/a/1.png (a)" in told and "train/b/also 1.png (b)" in told


@pytest.mark.slow
def test_a_picture_with_another_label_elsewhere_is_told(tmp_path, script):
    root = pictures(pictures(tmp_path / "my", {"a": 6, "b": 6}), {"a": 3, "b": 3}, "val")
    pictures(root, {"a": 3, "b": 3}, "test")
    shutil.copy(root / "train/a/1.png", root / "val/b/1.png")
    shutil.copy(root / "test/a/1.png", root / "test/b/also.png")
    told = script("train.py", *options(root, "--run-dir", "run")).error
    assert "the first is val/b/1.png (b), as train/a/1.png (a)" in told
    told = script("test.py", "--ckpt", "run").error
    assert "the first is test/b/also.png (b), as test/a/1.png (a)" in told


# where the pictures are


@pytest.mark.parametrize(
    "root, messages",
    [
        ("my/train", ["/my has it: data.root=", "/my\n"]),
        ("", ["/my has it: data.root=", "/my\n"]),
        ("nowhere", ["data.root = ", "nowhere: no such folder"]),
        ("my/train/a/0.png", ["0.png is a file"]),
    ],
)
def test_a_root_a_level_too_deep_or_too_high_is_told_the_right_one(
    tmp_path, script, root, messages
):
    my = pictures(pictures(tmp_path / "my", {"a": 6, "b": 6}), {"a": 1, "b": 1}, "test")
    done = script("train.py", *options(tmp_path / root))
    assert done.code == 2 and done.error.count("\n") == 1
    assert all(message in done.error for message in messages), done.error
    if root == "my/train":
        assert script("train.py", *options(my, "--run-dir", "run")).code == 0
        done = script("test.py", "--ckpt", "run", "--data-root", my / "test")
        assert done.code == 2 and f"{my} has it: --data-root {my}\n" in done.error


def test_class_folders_and_lists_in_the_wrong_place_are_told(tmp_path):
    pictures(tmp_path, {"cat": 1, "dog": 1}, "pets")
    (tmp_path / "pets" / "train.csv").write_text("path,label\n")
    with pytest.raises(UserError, match=r"train\.csv, which data\.dataset=csv reads"):
        list_split(folder(tmp_path / "pets"), "train")
    with pytest.raises(UserError, match=r"pets has it: data\.root="):
        list_split(Data(dataset="csv", root=str(tmp_path)), "train")
    pictures(tmp_path, {"cat": 1})
    with pytest.raises(UserError, match=r"there is .*train, which data\.dataset=folder reads"):
        list_split(Data(dataset="csv", root=str(tmp_path)), "train")
    picture(tmp_path / "train" / "a.png", 0)
    with pytest.raises(UserError, match=r"belong into one, as .*train/<class>/a\.png"):
        list_split(folder(tmp_path), "train")


@pytest.mark.parametrize(
    "path, meant",
    [
        ("{root}/train/a.png", "train/a.png"),
        ("{link}/train/a.png", "train/a.png"),
        ("~/my/train/a.png", "train/a.png"),
        ("./train/a.png", "./train/a.png"),
        ("train/a  b.png", "train/a  b.png"),
        ("odd\\name.png", "odd\\name.png"),
        (f"{NFC}.png", f"{NFD}.png"),
    ],
)
def test_a_path_of_a_list_is_taken_wherever_it_is_below_the_root(
    tmp_path, monkeypatch, path, meant
):
    monkeypatch.setenv("HOME", str(tmp_path))
    root = tmp_path / "my"
    root.mkdir()
    for name in ("odd\\name.png", f"{NFD}.png"):
        (root / name).touch()
    (tmp_path / "link").symlink_to("my")
    line = path.format(root=root, link=tmp_path / "link") + ",a"
    assert list_split(from_csv(root, line), "train").paths == [meant]


@pytest.mark.parametrize(
    "path, message",
    [
        ("{root}/../a.png", "leaves data.root"),
        ("/etc/a.png", "leaves data.root"),
        ("~/a.png", "leaves data.root"),
        ("{root}/test/a.png", "training never opens"),
        ("./test/a.png", "training never opens"),
        ("b/../test/a.png", "has '..' in it; should be 'test/a.png'"),
        ("b/../train/a.png", "has '..' in it; should be 'train/a.png'"),
        ("train\\a\\b.png", "has backslashes; should be 'train/a/b.png'"),
        ("..\\a.png", "has backslashes"),
        ("C:\\my\\a.png", "has backslashes; should be a path below"),
    ],
)
def test_a_path_of_a_list_that_cannot_be_is_refused_with_the_right_one(tmp_path, path, message):
    line = path.format(root=tmp_path) + ",a"
    with pytest.raises(UserError) as error:
        list_split(from_csv(tmp_path, line), "train")
    assert message in str(error.value) and "train.csv, line 2" in str(error.value)


@pytest.mark.slow
def test_a_tilde_is_the_home_of_the_user(tmp_path, monkeypatch, script):
    monkeypatch.setenv("HOME", str(tmp_path))
    pictures(pictures(tmp_path / "my", {"a": 6, "b": 6}), {"a": 1, "b": 1}, "test")
    assert script("train.py", *options("~/my", "--run-dir", "run")).code == 0
    assert script("test.py", "--ckpt", "run", "--data-root=~/my").code == 0


def test_blanks_in_a_name_are_shown_as_they_are(capsys):
    complain("my/two  blanks.png (no\n   picture)\nat all")
    assert capsys.readouterr().err == "error: my/two  blanks.png (no picture) at all\n"


def test_a_picture_stands_once_in_a_list_and_in_one_of_train_and_val(tmp_path):
    for name in "abcdef":
        Image.new("L", (4, 4), ord(name)).save(tmp_path / f"{name}.png")
    data = Data(dataset="csv", root=str(tmp_path))
    lines = "path,label\na.png,x\nb.png,y\nc.png,x\nd.png,y\n"
    for again in ("a.png,x", "a.png,y", "./a.png,y"):
        (tmp_path / "train.csv").write_text(f"{lines}{again}\n")
        with pytest.raises(UserError, match=r"line 6: .*stands in line 2 too"):
            load_splits(data, 0)
    (tmp_path / "train.csv").write_text(lines)
    (tmp_path / "val.csv").write_text("path,label\ne.png,x\n./b.png,y\n")
    with pytest.raises(UserError, match=r"train.csv and .*val.csv: both list 'b.png'"):
        load_splits(data, 0)
    (tmp_path / "val.csv").write_text("path,label\ne.png,x\nf.png,y\n")
    assert len(load_splits(data, 0)["val"].labels) == 2
