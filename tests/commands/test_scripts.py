"""What the scripts make of a command line and of the process that they run in."""

import subprocess
import sys

import pytest
from conftest import PROJECT


@pytest.mark.parametrize(
    "command",
    [
        ("train.py", "--seed", "3"),
        ("train.py", "--conf", "digits.yaml"),
        ("test.py", "--spli", "val"),
        ("nanocnn", "find-lr", "--conf", "digits.yaml"),
    ],
    ids=" ".join,
)
def test_an_option_cut_short_is_no_option(script, command):
    """--seed 3 trained three seeds."""
    done = script(*command)
    assert done.code == 2 and "no such option" in done.error


def test_one_of_several_processes_is_refused(script, monkeypatch, tmp_path):
    """They would all train the same run."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    done = script("train.py", "--run-dir", "run")
    assert done.code == 2 and "WORLD_SIZE = 2" in done.error and not (tmp_path / "run").exists()
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert script("train.py", "--print-config").code == 0


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
