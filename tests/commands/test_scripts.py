"""What the scripts make of a command line and of the process that they run in."""

import pytest


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
