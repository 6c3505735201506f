"""Corrected labels: which lists are read, which refused, and that the run knows of them."""

import json

import pytest
from conftest import load_config

from nanocnn.config.schema import Data
from nanocnn.images.carving import list_training
from nanocnn.images.relabel import read_corrections, write_corrections
from nanocnn.images.splits import class_names
from nanocnn.run.checkpoint import load_checkpoint
from nanocnn.system.errors import UserError

OPTIONS = ["--config", "folder.yaml", "data.image_size=28", "model=lenet5", "train.epochs=1"]


@pytest.fixture
def folder(digit_pictures):
    """Data of pictures of digits, with a test split of their own, and its labels by path."""
    root = digit_pictures({"train": 30, "test": 6})

    def labels(**keys):
        data = Data(dataset="folder", root=str(root), validation=6, **keys)
        listings = list_training(data, 0, None)
        return {
            (name, path): listings[name].classes[label]
            for name in listings
            for path, label in zip(
                listings[name].paths, listings[name].labels.tolist(), strict=True
            )
        }

    return root, labels


def write(path, text, encoding="utf-8"):
    path.write_text(text, encoding=encoding)
    return str(path)


def test_labels_change_by_path_and_splits_do_not(tmp_path, folder):
    _, labels = folder
    before = labels()
    (split, path), _ = next(iter(before.items()))
    for text in (
        f"path,new_label\n{path},digit 2\n",
        f"path;label;suggested;new_label\n{path};digit 0;digit 1; digit 2 \n",
        f"\ufeffnew_label\tpath\ndigit 2\t{path}\n\t{path}\n",
    ):
        after = labels(relabel=write(tmp_path / "corrections.csv", text))
        assert list(after) == list(before)
        assert {key for key in before if before[key] != after[key]} == {(split, path)}
        assert after[split, path] == "digit 2"


def test_no_path_in_a_list_of_corrections_is_a_formula(tmp_path, digit_pictures):
    root = digit_pictures({"train": 30})
    for number, folder in enumerate(sorted((root / "train").iterdir())):
        folder.rename(root / f"{'=+-@'[number % 4]}{folder.name}")
    (root / "train").rmdir()
    data = Data(dataset="folder", root=str(root), validation=6, test=0.2)
    path = list_training(data, 0, None)["train"].paths[0]
    file = tmp_path / "corrections.csv"
    write_corrections(file, [(path, "train", path.split("/")[0], "", "")])
    text = file.read_text()
    assert f"\n./{path}," in text
    write(file, text.rstrip("\n") + "-digit 2\n")
    assert read_corrections(data.model_copy(update={"relabel": str(file)})).keys() == {path}


def test_a_line_without_a_new_label_says_nothing(tmp_path, folder):
    _, labels = folder
    file = write(tmp_path / "corrections.csv", "path,new_label\nno/such.png,\n")
    assert labels(relabel=file) == labels()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,label\nx,y\n", "has no column 'new_label'; needed are path, new_label"),
        ("path,new_label\nno/such.png,digit 0\n", "line 2: 'no/such.png' is no picture that"),
        ("path,new_label\nPATH,digit O\n", "line 2: 'digit O' is no class; did you mean 'digit "),
        ("path,new_label\nPATH,digit 1\nPATH,digit 2\n", "line 3: 'PATH' is in FILE, line 2 too"),
        ("path,new_label\nPATH\n", "line 2: has not as many cells"),
        ("path,label,new_label\nPATH,digit 2,digit 1\n", "line 2: the label of 'PATH' was 'digit"),
        ("path,new_label\n../x.png,digit 1\n", "line 2: '../x.png' leaves data.root"),
    ],
)
def test_what_cannot_be_is_refused_with_its_line(tmp_path, folder, text, message):
    _, labels = folder
    path = next(path for split, path in labels())
    file = write(tmp_path / "corrections.csv", text.replace("PATH", path))
    with pytest.raises(UserError) as caught:
        labels(relabel=file)
    assert message.replace("PATH", path).replace("FILE", file) in str(caught.value)


def test_no_file_and_other_data_sets_are_refused(tmp_path, folder):
    _, labels = folder
    with pytest.raises(UserError, match=r"data\.relabel = nowhere\.csv: no such file"):
        labels(relabel="nowhere.csv")
    with pytest.raises(UserError, match=r"relabel = a\.csv: cannot act on digits"):
        load_config("digits.yaml", ["data.relabel=a.csv"])


def test_a_changed_list_is_not_gone_on_with(tmp_path, folder, script):
    root, labels = folder
    path = next(path for split, path in labels() if split == "train")
    file = write(tmp_path / "corrections.csv", f"path,new_label\n{path},digit 2\n")
    options = [*OPTIONS, f"data.root={root}", f"data.relabel={file}", "data.validation=6"]
    assert script("train.py", *options, "--run-dir", "run").code == 0
    sha256 = load_checkpoint(tmp_path / "run" / "last.pt")["data"]["relabel_sha256"]
    assert len(sha256) == 64
    assert script("test.py", "--ckpt", "run", "--split", "train").error == ""
    write(tmp_path / "corrections.csv", f"path,new_label\n{path},digit 1\n")
    result = script("train.py", "--resume", "run", "train.epochs=2")
    assert result.code == 2 and "their checksum differs" in result.error
    assert "has changed since the training" in script("test.py", "--ckpt", "run").error


def test_labels_of_the_test_change_by_a_line_of_their_own_alone(tmp_path, folder, script):
    root, _ = folder
    file = tmp_path / "corrections.csv"
    write(file, "path,new_label\n")
    options = [*OPTIONS, f"data.root={root}", f"data.relabel={file}"]
    assert script("train.py", *options, "--run-dir", "run").code == 0

    def support():
        assert script("test.py", "--ckpt", "run").code == 0
        rows = json.loads((tmp_path / "run" / "test.json").read_text())["per_class"]
        return {row["name"]: row["support"] for row in rows}

    before = support()
    assert sum(before.values()) == 6
    picture = next((root / "test" / "digit 0").iterdir()).relative_to(root)
    write(file, f"path,new_label\n{picture},digit 1\n")
    changed = {name: before[f"digit {name}"] for name in (0, 1)}
    assert support() == before | {"digit 0": changed[0] - 1, "digit 1": changed[1] + 1}


def test_held_out_pictures_keep_their_corrected_labels_in_the_run(tmp_path, folder, script):
    root, _ = folder
    (root / "test").rename(tmp_path / "elsewhere")
    for each in (root / "train").iterdir():
        each.rename(root / each.name)
    (root / "train").rmdir()
    data = Data(dataset="folder", root=str(root))
    held_out = list_training(data, 0, None)["train"].held_out
    path, label = held_out[0]
    other = next(name for name in class_names(data) if name != label)
    file = write(tmp_path / "corrections.csv", f"path,new_label\n{path},{other}\n")
    again = list_training(data.model_copy(update={"relabel": file}), 0, None)["train"].held_out
    assert again == ((path, other), *held_out[1:])
