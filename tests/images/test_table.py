"""A table of one's own: columns, delimiters and encodings as people have them."""

import csv
import io
import json
import re
from pathlib import Path

import pytest
from test_lists import FAST, picture

from nanocnn.config.schema import Columns, Data
from nanocnn.images.carving import list_training
from nanocnn.images.listing import list_split
from nanocnn.system.errors import UserError

HEADER = ["id", "file", "age", "kind", "part"]


def table_of(root, rows, header=HEADER, delimiter=",", encoding="utf-8", name="meta.csv"):
    """root/meta.csv with a line of each of `rows`."""
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter).writerows([header, *rows])
    (root / name).write_bytes(text.getvalue().encode(encoding))
    return root


def listed(root, **changes):
    columns = {"path": "file", "label": "kind"} | changes.pop("columns", {})
    options = {"dataset": "csv", "root": str(root), "list": "meta.csv"} | changes
    return Data(columns=Columns(**columns), **options)


def animals(root, count=20, path="img/{n}.png", parts=None):
    """Rows of `count` pictures of two kinds, and the pictures."""
    rows = []
    for number in range(count):
        picture(root / "img" / f"{number}.png", number)
        part = parts[number % len(parts)] if parts else ""
        kind = ("Kätzchen", "dog")[number % 2]
        rows.append([number, path.format(n=number, root=root), number / 7, kind, part])
    return rows


def options(root, *more):
    columns = ["data.columns.path=file", "data.columns.label=kind"]
    source = ["data.dataset=csv", f"data.root={root}", "data.list=meta.csv"]
    return [*source, *columns, *FAST, "--run-dir", "run", *more]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_delimiter_and_encoding_are_found(tmp_path, capsys, delimiter, encoding):
    table_of(tmp_path, animals(tmp_path), delimiter=delimiter, encoding=encoding)
    listing = list_split(listed(tmp_path), "train")
    assert listing.classes == ["Kätzchen", "dog"] and len(listing.paths) == 20
    told = capsys.readouterr().err
    assert ("read as Windows-1252" in told) == (encoding == "cp1252")


def test_delimiter_and_encoding_are_taken_as_given(tmp_path):
    table_of(tmp_path, animals(tmp_path), delimiter="~", encoding="mac-roman")
    given = {"delimiter": "~", "encoding": "mac-roman"}
    assert list_split(listed(tmp_path, **given), "train").classes == ["Kätzchen", "dog"]
    with pytest.raises(UserError, match=r"meta\.csv: is not in utf-8"):
        list_split(listed(tmp_path, encoding="utf-8"), "train")
    table_of(tmp_path, animals(tmp_path), encoding="utf-16-le")
    with pytest.raises(UserError, match=r"no text in UTF-8|neither in UTF-8"):
        list_split(listed(tmp_path), "train")


@pytest.mark.parametrize("path", ["img/{n}.png", "{root}/img/{n}.png", "./img/{n}.png", "img/{n}"])
def test_a_table_without_splits_holds_out_a_fifth(tmp_path, script, path):
    root = tmp_path / "my"
    table_of(root, animals(root, path=path))
    more = ["data.extension=.png"] if path == "img/{n}" else []
    done = script("train.py", *options(root, *more))
    assert done.code == 0 and "test: 4 images held out" in done.out, done.error
    (root / "meta.csv").unlink()  # test.py has the list of its own
    done = script("test.py", "--ckpt", "run")
    assert done.code == 0 and json.loads(Path("run/test.json").read_text())["n"] == 4


def test_a_picture_may_lie_outside_the_root_by_an_absolute_path(tmp_path, script):
    root = tmp_path / "my"
    root.mkdir()
    table_of(root, animals(tmp_path / "elsewhere", path="{root}/img/{n}.png"))
    assert script("train.py", *options(root)).code == 0
    assert script("test.py", "--ckpt", "run").code == 0


def test_a_column_of_splits_is_followed(tmp_path, script):
    root = tmp_path / "my"
    parts = ["train", "TRAIN", "training", "train", "train", "validation", "Valid", "test", "test",
             "val"]  # fmt: skip
    table_of(root, animals(root, parts=parts))
    data = listed(root, columns={"split": "part"})
    sizes = {name: len(part.paths) for name, part in list_training(data, 0, None).items()}
    assert sizes == {"train": 10, "val": 6}
    test = list_split(data, "test", ["Kätzchen", "dog"]).paths
    for path in test:
        (root / path).write_bytes(b"no picture")
    done = script("train.py", *options(root, "data.columns.split=part"))
    assert done.code == 0 and not Path("run/test_files.csv").exists(), done.error
    done = script("test.py", "--ckpt", "run")
    assert done.code == 2 and "4 of 4 images cannot be read" in done.error
    with pytest.raises(UserError, match=r"data\.test = 3: cannot act, for .*meta\.csv has a test"):
        list_training(data.model_copy(update={"test": 3}), 0, None)


def test_training_opens_no_picture_that_a_table_has_held_out(tmp_path, script):
    root = tmp_path / "my"
    table_of(root, animals(root))
    held_out = list_training(listed(root), 0, None)["train"].held_out
    for path, _ in held_out:
        (root / path).write_bytes(b"no picture")
    done = script("train.py", *options(root, "data.skip_unreadable=true"))
    assert done.code == 0 and not Path("run/unreadable.txt").exists(), done.error
    assert script("test.py", "--ckpt", "run").code == 2


ROWS = [["1", "a.png", "x"], ["2", "b.png", "y"]]


@pytest.mark.parametrize(
    "rows, changes, message",
    [
        (ROWS, {"columns": {"label": "kin"}}, "has no column 'kin'; did you mean 'kind'"),
        (ROWS, {"list": "other.csv"}, "other.csv: no such file; data.list is a path from"),
        ([["1", "a.png"]], {}, "line 2: has 2 cells, the first line has 3"),
        ([["1", "a.png", " "]], {}, "line 2: has no label ('kind')"),
        ([*ROWS, ["3", "./a.png", "y"]], {}, "line 4: './a.png' stands in line 2 too"),
        ([["1", "../a.png", "x"]], {}, "line 2: '../a.png' leaves data.root"),
        ([["1", "x\\a.png", "x"]], {}, "line 2: 'x\\\\a.png' has backslashes"),
        (ROWS, {"columns": {"split": "kind"}}, "line 2: the split 'x' is unknown (known: train"),
        ([["1", "a.png", "test"]], {"columns": {"split": "kind"}}, "lists no images to train on"),
        ([["1", "c", "x"]], {}, "line 2: 'c' is not there, but c.jpeg is: data.extension=.jpeg"),
        ([["1", "Train/a", "x"], ["1", "test/a", "x"]], {}, "names no column that tells the spl"),
        ([], {}, "lists no images to train on"),
    ],
)
def test_a_table_that_cannot_be_is_refused_with_the_line(tmp_path, rows, changes, message):
    picture(tmp_path / "c.jpeg", 1)
    table_of(tmp_path, rows, header=["id", "file", "kind"])
    with pytest.raises(UserError, match=re.escape(message)):
        list_training(listed(tmp_path, **changes), 0, None)


def test_a_column_that_stands_twice_is_refused_where_it_is_needed(tmp_path):
    table_of(tmp_path, [["a.png", "x", "y"]], header=["file", "kind", "kind"])
    with pytest.raises(UserError, match="has 2 columns 'kind'"):
        list_training(listed(tmp_path), 0, None)


@pytest.mark.parametrize("name", ["train.csv", "meta.csv"])
@pytest.mark.parametrize(
    "path, message",
    [
        ("img/0.png ", "begins or ends with a blank; should be 'img/0.png'"),
        (" img/0.png", "begins or ends with a blank; should be 'img/0.png'"),
        ("$MY/img/0.png", "begins with a variable, $MY, which is not looked up; should be 'img/0."),
        ("${MY}/img/0.png", "begins with a variable, ${MY}, which is not looked up; should be 'i"),
        ("%USERPROFILE%\\img\\0.png", "begins with a variable, %USERPROFILE%, which is not looked"),
        ("file://{root}/img/0.png", "is an address; should be 'img/0.png'"),
        ("https://example.org/0.png", "is an address; images are read from files: download them"),
        ("s3://bucket/0.png", "is an address; images are read from files: download them"),
        ("my/img/0.png", "on; paths are relative to data.root ({root}), it should be 'img/0.png'"),
    ],
)
def test_what_is_no_path_is_refused_with_what_to_write(tmp_path, monkeypatch, name, path, message):
    root = tmp_path / "my"
    rows = animals(root)
    monkeypatch.setenv("MY", str(root))
    monkeypatch.chdir(tmp_path)
    lines = [(path.replace("{root}", str(root)), "x"), *((row[1], row[3]) for row in rows[1:])]
    table_of(root, lines, header=["path", "label"], name=name)
    data = Data(dataset="csv", root=str(root), list=None if name == "train.csv" else name)
    with pytest.raises(UserError) as refused:
        list_split(data, "train")
    assert f"{name}, line 2: " in str(refused.value)
    assert message.replace("{root}", str(root)) in str(refused.value)


def test_files_that_are_called_so_are_read(tmp_path):
    for name in ("a.png ", "$x.png", "http:/a.png"):
        picture(tmp_path / "a.png", 1)
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / "a.png").rename(tmp_path / name)
        table_of(tmp_path, [(name, "x")], header=["path", "label"], name="train.csv")
        assert list_split(Data(dataset="csv", root=str(tmp_path)), "train").paths == [name]


@pytest.mark.parametrize("name", ["train.csv", "meta.csv"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lines_may_end_as_on_any_system(tmp_path, name, end):
    text = end.join(["\ufeffpath,label", "a.png,x", "b.png,y", "", ""])
    (tmp_path / name).write_bytes(text.encode())
    data = Data(dataset="csv", root=str(tmp_path), list=None if name == "train.csv" else name)
    listing = list_split(data, "train")
    assert listing.classes == ["x", "y"] and listing.paths == ["a.png", "b.png"]


@pytest.mark.parametrize("group", [[], ["data.columns.group=age"]])
def test_a_table_that_lists_no_test_images_says_so(tmp_path, script, group):
    root = tmp_path / "my"
    table_of(root, animals(root, count=24, parts=["train", "train", "train", "val", "val"]))
    more = ["data.columns.split=part", *group]
    done = script("train.py", *options(root, *more))
    assert done.code == 0 and "there is no test split: test.py can judge --split val" in done.out
    refused = script("test.py", "--ckpt", "run")
    assert refused.code == 2 and "meta.csv: lists no test images; where there" in refused.error
    done = script("test.py", "--ckpt", "run", "--split", "val")
    assert done.code == 0 and json.loads(Path("run/val.json").read_text())["n"] == 9
    done = script("train.py", *options(root, *more, "data.test=0.2", "--run-dir", "with test"))
    assert done.code == 0 and "test: 3 images held out" in done.out and "no test" not in done.out
    done = script("test.py", "--ckpt", "with test")
    assert done.code == 0 and json.loads(Path("with test/test.json").read_text())["n"] == 3
