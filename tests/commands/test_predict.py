"""nanocnn predict: what it prints and writes, in which order, and how it ends."""

import csv
import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nanocnn.commands import predict
from nanocnn.images.finding import Finder

KEYS = ["file", "label", "probability", "top", "unlike", "inverted"]


@pytest.fixture
def pictures(tmp_path, test_digits):
    """A folder of ten digits, as new/0.png to new/9.png."""
    folder = tmp_path / "new"
    folder.mkdir()
    for place, image in enumerate(test_digits[0][:10]):
        Image.fromarray(image).save(folder / f"{place}.png")
    return folder


def rows_of(text):
    return [json.loads(line) for line in text.splitlines()]


def test_json_and_csv_say_the_same_in_the_order_of_the_pictures(script, judging_run, pictures):
    (pictures / "10.png").write_bytes((pictures / "0.png").read_bytes())
    (pictures / "inner").mkdir()
    Image.new("L", (9, 9), 130).save(pictures / "inner" / "0.png")
    done = script(
        "nanocnn", "predict", "--ckpt", judging_run, "new", "--json", "--csv", "out.csv",
        "--batch-size", 4,
    )  # fmt: skip
    assert done.code == 0, done.error
    rows = rows_of(done.out)
    assert [list(row) for row in rows] == [KEYS] * 12
    assert [row["file"] for row in rows] == [
        *(f"new/{number}.png" for number in range(11)), "new/inner/0.png",
    ]  # fmt: skip
    assert all(
        len(row["top"]) == 3 and row["top"][0] == [row["label"], row["probability"]] for row in rows
    )
    assert rows[-1]["unlike"] == ["size", "contrast", "features"] and rows[-1]["inverted"] is False
    text = Path("out.csv").read_bytes().decode()
    assert text.splitlines()[0] == ",".join(KEYS)
    for row, cells in zip(rows, csv.DictReader(io.StringIO(text)), strict=True):
        assert [cells["file"], cells["label"]] == [row["file"], row["label"]]
        assert float(cells["probability"]) == row["probability"]
        assert [json.loads(cells[key]) for key in KEYS[3:]] == [row[key] for key in KEYS[3:]]


def test_lines_are_for_people_and_below_the_threshold_it_is_none_of_these(
    script, judging_run, pictures
):
    picture = pictures / "0.png"
    Image.fromarray(255 - np.asarray(Image.open(picture))).save(picture)
    done = script("nanocnn", "predict", "--ckpt", judging_run, picture, "--top", 2)
    assert done.code == 0 and done.out.endswith("%); inverted\n"), done
    label, first, _ = done.out.split(": ")[1].split(" ", 2)
    assert label in "0123456789" and first.endswith("%")
    words = ["nanocnn", "predict", "--ckpt", judging_run, picture, "--top", 2, "--threshold", 1]
    assert f": none of these ({label} {first}, " in script(*words).out
    assert rows_of(script(*words, "--json").out)[0]["label"] is None
    assert script(*words, "--csv", "out.csv").out == "1 picture: out.csv\n"
    assert Path("out.csv").read_text().splitlines()[1].split(",")[1] == ""
    plain = script("nanocnn", "predict", "--ckpt", judging_run, picture, "--invert", "never")
    assert "unlike the training images: contrast, features" in plain.out


def test_a_list_of_paths_on_standard_input(script, judging_run, pictures, monkeypatch):
    odd = "new/\N{SNOWMAN} \udcff\x1b.png"  # no UTF-8, and a control character
    Path("new/1.png").rename(odd)
    lines = b"new/0.png\r\n\n" + odd.encode(errors="surrogateescape") + b"\nnew/0.png"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines)))
    words = ["nanocnn", "predict", "--ckpt", judging_run, "-"]
    done = script(*words, "--json", "--csv", "out.csv")
    assert done.code == 0, done.error
    assert [row["file"] for row in rows_of(done.out)] == ["new/0.png", odd, "new/0.png"]
    assert done.out.isascii()
    assert odd.encode(errors="surrogateescape") in Path("out.csv").read_bytes()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines)))
    assert "\\udcff\\x1b.png: " in script(*words).out


def test_what_is_not_called_as_a_picture_is_passed_over_in_folders_alone(
    script, judging_run, pictures
):
    (pictures / "notes.txt").write_text("mine")
    (pictures / ".hidden.png").write_text("mine")
    (pictures / "0.png").rename(pictures / "digit")
    done = script("nanocnn", "predict", "--ckpt", judging_run, "new", "new/digit", "--json")
    assert done.code == 0 and len(rows_of(done.out)) == 10
    assert "passed over: new/digit, new/notes.txt, which are not called as" in done.error


def test_links_that_lead_back_end_somewhere(pictures):
    (pictures / "back").symlink_to(pictures)
    *found, last = Finder([str(pictures)])
    assert len(found) == 10 and "leads back" in last.reason


def test_nothing_goes_on_once_the_reader_has_gone(script, judging_run, pictures, monkeypatch):
    told = []
    monkeypatch.setattr(predict, "in_words", lambda each: told.append(each) or "")
    monkeypatch.setattr(predict, "reader_has_gone", lambda: len(told) == 3)
    done = script("nanocnn", "predict", "--ckpt", judging_run, "new")
    assert (done.code, len(told)) == (0, 3)


def test_a_checkpoint_without_a_judgement_says_so_once(script, digits_run, pictures):
    done = script("nanocnn", "predict", "--ckpt", digits_run, "new", "--json")
    assert done.code == 0 and done.error.count("warning:") == 1
    assert "keeps nothing by which" in done.error
    assert {row["unlike"] for row in rows_of(done.out)} == {None}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "no pictures: type their paths"),
        (["new", "--top", "0"], "--top 0: should be at least 1"),
        (["new", "--threshold", "1.5"], "--threshold 1.5: should be a probability"),
        (["new", "--threshold", "nan"], "--threshold nan: should be a probability"),
        (["new", "--batch-size", "0"], "--batch-size 0: should be at least 1"),
        (["new", "--csv", "no/out.csv"], "--csv no/out.csv: should name a file in a folder"),
        (["new", "--csv", "-"], "--csv -: should name a file; type --csv /dev/stdout"),
        (["new", "--invert", "yes"], "should be one of auto, never, always"),
        (["empty"], "no pictures in empty"),
        (["new", "--map", "maps", "--top", "2"], "--top: cannot act with --map"),
    ],
)
def test_mistakes_are_one_line(script, judging_run, pictures, options, said):
    Path("empty").mkdir()
    done = script("nanocnn", "predict", "--ckpt", judging_run, *options)
    assert done.code == 2 and said in done.error.splitlines()[-1], done.error
    assert done.out == "" and not Path("out.csv").exists()
