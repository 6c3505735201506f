"""What is printed ends no run, and nothing in it acts on the terminal."""

import errno
import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import PROJECT

from nanocnn.evaluation.evaluate import Evaluation
from nanocnn.evaluation.tables import figures, print_report
from nanocnn.run.checkpoint import load_checkpoint
from nanocnn.system.errors import UserError, exit_code
from nanocnn.system.output import Output, deliver, escaped, in_shell, printable

QUICK = ["data.limit=60", "train.epochs=1", "model={name: mlp, hidden: [8]}"]

LINES = """
import os, sys
from nanocnn.system.errors import exit_code
def main():
    print("猫 ±")
    os._exit(7)  # nothing is flushed at the end
sys.exit(exit_code(main))
"""


def test_a_log_has_each_line_at_once_in_whatever_encoding():
    """A redirected output was empty until the end, and a name it could not show ended the run."""
    done = subprocess.run(
        [sys.executable, "-c", LINES],
        check=False,
        cwd=PROJECT,
        capture_output=True,
        env={"PYTHONIOENCODING": "ascii", "PYTHONPATH": str(PROJECT)},
        timeout=60,
    )
    assert done.returncode == 7 and done.stdout == b"\\u732b \\xb1\n"


PRINTING = """
import os, sys
from contextlib import suppress
from tqdm import tqdm
from nanocnn.system.errors import UserError, exit_code
def main():
    with open("file", "w") as file:  # while a stream is closed this could be given its number
        for _ in tqdm(range(3), disable=False):
            print("out")
        for number in (1, 2):
            with suppress(OSError):
                os.write(number, b"as a library in C does")
        print("warning: error", file=sys.stderr)
        file.write("whole")
    if sys.argv[1:]:
        raise UserError("no")
sys.exit(exit_code(main))
"""


@pytest.mark.parametrize(
    "streams",
    [
        ">&-",
        "2>&-",
        "<&- >&- 2>&-",
        "> /dev/full",
        "2> /dev/full",
        "> /dev/full 2>&1",
        "| true",
        "2>&1 | true",
        "> /dev/null 2>&1",
        "1< file.py 2>&-",
    ],
)
def test_output_that_cannot_be_written_ends_nothing(tmp_path, streams):
    (tmp_path / "file.py").write_text(PRINTING)
    # without PYTHONUNBUFFERED, with which the end of the process has nothing left to write
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(PROJECT)}
    for argument, code in (("", 0), ("no", 2)):
        command = f"{shlex.quote(sys.executable)} file.py {argument}; echo $? > code"
        subprocess.run(
            ["sh", "-c", f"{{ {command}; }} {streams}"],
            check=False,
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            timeout=60,
        )
        assert (tmp_path / "code").read_text() == f"{code}\n"
        assert (tmp_path / "file").read_text() == "whole"


def test_a_full_disk_under_the_log_ends_no_run(script, monkeypatch):
    with Path("/dev/full").open("w") as out, Path("/dev/full").open("w") as error:
        monkeypatch.setattr(sys, "stdout", out)
        monkeypatch.setattr(sys, "stderr", error)
        assert script("train.py", *QUICK, "--run-dir", "run").code == 0
        assert script("test.py", "--ckpt", "run", "--json", "copy.json").code == 0
        assert script("train.py", "nonsense=1").code == 2
        assert (sys.stdout, sys.stderr) == (out, error)
    assert load_checkpoint(Path("run/last.pt"))["epoch"] == 1
    assert len(Path("run/metrics.jsonl").read_text().splitlines()) == 1
    report = json.loads(Path("run/test.json").read_text())
    assert report["n"] == 359 and json.loads(Path("copy.json").read_text()) == report


@pytest.mark.parametrize(
    "command",
    [
        ("train.py", "--print-config"),
        ("model.py",),
        ("test.py", "--json", "-"),
        ("test.py",),
        ("nanocnn", "layers"),
        ("nanocnn", "--help"),
        ("nanocnn", "--version"),
        ("nanocnn", "find-lr", *QUICK, "data.limit=200", "--from", "1e-3", "--steps", "30"),
    ],
    ids=str,
)
def test_a_full_disk_under_what_was_asked_for_is_an_error(
    script, digits_run, monkeypatch, capsys, command
):
    own = ["--ckpt", digits_run] if command[0] == "test.py" else []
    with Path("/dev/full").open("w") as out:
        monkeypatch.setattr(sys, "stdout", out)
        done = script(*command, *own)
    assert done.code == 2 and "standard output" in done.error


def test_help_is_what_was_asked_for_too(script, monkeypatch):
    with Path("/dev/full").open("w") as out:
        monkeypatch.setattr(sys, "stdout", out)
        done = script("train.py", "--help")
    assert done.code == 2 and "standard output" in done.error


def test_the_report_is_kept_before_it_is_printed(script, digits_run, monkeypatch, tmp_path):
    def fail(_):
        raise RuntimeError

    monkeypatch.setattr("nanocnn.evaluation.tables.print_report", fail)
    with pytest.raises(RuntimeError):
        script("test.py", "--ckpt", digits_run / "last.pt", "--json", "copy.json")
    assert Path("copy.json").read_bytes().strip() == (
        (digits_run / "test_last.json").read_bytes().strip()
    )


def test_a_disk_that_takes_nothing_for_now_loses_only_what_was_printed_then(capsys):
    class Full:
        written, is_full = "", False

        def write(self, text):
            if self.is_full:
                raise OSError(errno.ENOSPC, "No space left on device")
            self.written += text

    output = Output(full := Full(), has_bars=False)
    output.write("one ")
    full.is_full = True
    output.write("two ")
    full.is_full = False
    output.write("three")
    assert full.written == "one three" and output.failure.errno == errno.ENOSPC


def test_a_reader_that_has_gone_has_what_it_wanted(monkeypatch, capsys):
    for number, is_raised in ((errno.EPIPE, False), (errno.ENOSPC, True)):
        output = Output(sys.stdout, has_bars=False)
        output.failure = OSError(number, "why")
        monkeypatch.setattr(sys, "stdout", output)
        if is_raised:
            with pytest.raises(OSError, match="standard output"):
                deliver("config")
        else:
            deliver("config")
        monkeypatch.undo()


EVIL = "a\x1b[31m\x9b1m\r\x07\u202eb\udcff"
SHOWN = r"a\x1b[31m\x9b1m\r\x07\u202eb\udcff"


def test_no_name_acts_on_the_terminal(capsys):
    """Whoever prints it, and on whatever stream."""

    def main():
        print(EVIL)
        print("a", EVIL, file=sys.stderr)
        print(f"warning: {EVIL}\nerror: spoofed", file=sys.stderr)
        raise UserError(EVIL)

    assert exit_code(main) == 2
    out, error = capsys.readouterr()
    assert out == f"{SHOWN}\n"
    assert error.splitlines()[:2] == [f"a {SHOWN}", rf"warning: {SHOWN}\nerror: spoofed"]
    assert len(error.splitlines()) == 3 and all(line.isprintable() for line in error.splitlines())


def test_names_of_people_stay_as_they_are():
    for name in ("Müll", "猫", "می‌خواهم", "👩‍👧", "soft\xadhyphen", "no\xa0break", "tab\t"):
        assert printable(name) == name


@pytest.mark.skipif(not shutil.which("bash"), reason="asks bash")
@pytest.mark.parametrize(
    "name",
    [b"runs/mine", b"a b'c", b"run\xff\x1b", "猫\n\u202e\\".encode(), b"\xff'\\n$x`"],
    ids=repr,
)
def test_a_name_to_type_is_that_name_to_a_shell(name):
    word = in_shell(os.fsdecode(name))
    assert printable(word) == word and "\n" not in word
    done = subprocess.run(
        ["bash", "-c", f"printf %s {word}"], check=True, capture_output=True, text=False
    )
    assert done.stdout == name


def test_progress_bars_may_return_to_the_left_and_names_may_not(capsys):
    Output(sys.stderr, has_bars=True).write("\rreading: 10% a\rb")
    Output(sys.stdout, has_bars=False).write("\rname")
    out, error = capsys.readouterr()
    assert error == r"\rreading: 10% a\rb".replace(r"\rr", "\rr") and out == r"\rname"


def test_a_report_on_a_checkpoint_with_evil_names_is_a_table(capsys):
    logits = 9 * torch.eye(2)
    evaluation = Evaluation(1.0, 1.0, torch.arange(2), logits, torch.arange(2))
    report = figures(evaluation, [f"{EVIL}\nx", "b"]) | {
        "checkpoint": f"{EVIL}/best.pt",
        "epoch": 1,
        "dataset": f"folder\n{EVIL}",
        "split": "test",
        "evaluation_seconds": 1.0,
        "average_flips": False,
        "unreadable": [],
        "folding": {"layers": 0, "exact": True},
    }
    assert exit_code(lambda: print_report(report)) == 0
    out = capsys.readouterr().out
    lines = out.split("\n")
    assert all(line.isprintable() for line in lines)
    row = next(i for i, line in enumerate(lines) if line.startswith("class ")) + 1
    assert len({len(line) for line in lines[row : row + 2]}) == 1, (
        "the columns stay below each other"
    )


def test_a_file_name_is_one_line_of_unreadable_txt_and_can_be_had_back(script, digit_pictures):
    root = digit_pictures({"train": 40, "val": 8})
    names = ["a\nb.png", r"a\nb.png", os.fsdecode(b"a\xff\x1b.png")]
    for name in names:
        (root / "train" / "digit 0" / name).write_bytes(b"no picture")
    own = ["data.dataset=folder", f"data.root={root}", "data.skip_unreadable=true"]
    done = script("train.py", *own, *QUICK, "data.limit=null", "--run-dir", "run")
    assert done.code == 0, done.error
    lines = Path("run/unreadable.txt").read_text().splitlines()
    assert len(lines) == 3
    found = {line.rpartition(" (")[0].rpartition("/")[2] for line in lines}
    assert found == {escaped(name) for name in names}
    assert {line.encode("latin-1").decode("unicode_escape") for line in found} == set(names)


def test_a_run_folder_that_is_no_utf_8(script):
    run = os.fsdecode(b"run\xff\x1b")
    trained = script("train.py", *QUICK, "--run-dir", run)
    assert trained.code == 0 and r"writing to run\udcff\x1b" in trained.out, trained.error
    (line,) = [line for line in trained.out.splitlines() if line.startswith("next:")]
    assert line == r"next: python test.py --ckpt $'run\377\033'"
    assert script("test.py", "--ckpt", run).code == 0
    assert script("train.py", "--resume", run, "train.epochs=2").code == 0
    assert load_checkpoint(Path(run, "last.pt"))["epoch"] == 2
