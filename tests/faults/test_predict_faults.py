"""Files that are no pictures, or odd ones, given to a trained network."""

import json
import os
import resource
import signal
import subprocess
import sys
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from conftest import NETWORKS, PROJECT
from PIL import Image
from test_image_faults import FAULTS

import nanocnn
from nanocnn.images import finding, new_pictures
from nanocnn.images.new_pictures import Unreadable

pytestmark = pytest.mark.slow


def test_each_has_its_line_and_the_others_go_on(script, judging_run):
    Path("new").mkdir()
    for place, (name, (make, _)) in enumerate(FAULTS.items()):
        make(Path("new") / f"{place:02} {name}")
    for name in ("00 good.png", "99 good.png"):
        Image.new("L", (28, 28)).save(Path("new") / name)
    Path("new/50").mkdir()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    words = ["nanocnn", "predict", "--ckpt", judging_run, "new", "nothing.png", "/dev/zero"]
    done = script(*words, "--json", "--csv", "out.csv")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000, "100 MB"
    assert done.code == 2
    assert [json.loads(line)["file"] for line in done.out.splitlines()] == [
        "new/00 good.png", "new/99 good.png",
    ]  # fmt: skip
    assert len(Path("out.csv").read_text().splitlines()) == 3
    *lines, last = [line for line in done.error.splitlines() if "networks:" not in line]
    assert last == f"error: {len(FAULTS) + 2} of {len(FAULTS) + 4} pictures cannot be read"
    for place, (name, (_, reason)) in enumerate(FAULTS.items()):
        (line,) = [line for line in lines if f"new/{place:02} {name}: " in line]
        assert line.startswith("warning: ") and reason in line
    assert "warning: nothing.png: No such file or directory" in lines
    assert "warning: /dev/zero: not a file" in lines


def test_a_folder_that_cannot_be_read_has_its_line(script, judging_run, monkeypatch):
    Path("new/shut").mkdir(parents=True)
    Image.new("L", (28, 28)).save("new/0.png")
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("shut"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(finding.os, "scandir", refuse)
    done = script("nanocnn", "predict", "--ckpt", judging_run, "new")
    assert done.code == 2 and done.out.count("\n") == 1
    assert "warning: new/shut: Permission denied" in done.error


def test_files_that_change_and_vanish_meanwhile(script, judging_run, monkeypatch):
    Path("new").mkdir()
    for number in range(9):
        Image.new("L", (28, 28)).save(f"new/{number}.png")
    read = new_pictures.read

    def meanwhile(picture, form):
        Path("new/3.png").unlink(missing_ok=True)
        Path("new/5.png").write_bytes(Path("new/8.png").read_bytes()[:45])
        return read(picture, form)

    monkeypatch.setattr(new_pictures, "read", meanwhile)
    done = script("nanocnn", "predict", "--ckpt", judging_run, "new", "--json")
    assert done.code == 2 and "2 of 9 pictures cannot be read" in done.error
    assert "new/3.png: No such file" in done.error and "new/5.png: " in done.error


def test_of_very_many_files_a_few_are_in_memory(judging_run, tmp_path, monkeypatch):
    """They are listed, and read as they are asked for."""
    path = tmp_path / "one.png"
    Image.fromarray(np.zeros((28, 28), np.uint8)).save(path)
    names = [f"{number}.png" for number in range(200_000)]
    for name in names[:50]:
        os.link(path, tmp_path / name)
    classifier = nanocnn.load(judging_run, device="cpu", networks=NETWORKS)
    listed = [f"{tmp_path / name}\n".encode() for name in names]
    found = classifier.stream(finding.Finder(["-"], listed))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    readable = [each for each in islice(found, 20_000) if not isinstance(each, Unreadable)]
    assert len(readable) == 50
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 30_000, "30 MB"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a disk that is always full")
@pytest.mark.parametrize(
    "words",
    [
        ["nanocnn", "predict", "one.png", "--csv", "/dev/full"],
        ["test.py", "--predictions", "/dev/full"],
        ["test.py", "--json", "/dev/full"],
    ],
    ids=lambda words: " ".join(words[:2]),
)
def test_a_device_that_takes_no_more_is_named(script, judging_run, words):
    Image.new("L", (28, 28)).save("one.png")
    done = script(*words, "--ckpt", judging_run)
    assert done.code == 2 and "No space left on device: '/dev/full'" in done.error


def test_a_table_is_whole_or_as_it_was_however_predict_ends(judging_run, tmp_path):
    for number in range(3000):
        (tmp_path / f"{number}.png").symlink_to(tmp_path / "one.png")
    Image.new("L", (28, 28)).save(tmp_path / "one.png")
    table = tmp_path / "table.csv"
    table.write_text("of before\n")
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "nanocnn", "predict", "--ckpt", str(judging_run)),
            *(str(tmp_path), "--csv", str(table), "--json"),
        ],
        cwd=PROJECT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout.readline().startswith(b"{")
    process.send_signal(signal.SIGTERM)
    *_, error = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM and b"stopped by SIGTERM" in error
    assert table.read_text() == "of before\n" and not list(tmp_path.glob(".*"))
