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


SIZES = ["WORLD_SIZE", "SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE"]


@pytest.mark.parametrize("name", SIZES)
def test_one_of_several_processes_is_refused(script, monkeypatch, tmp_path, name):
    """They would all train the same run."""
    monkeypatch.setenv(name, "2")
    done = script("train.py", "--run-dir", "run")
    assert done.code == 2 and f"{name} = 2: each of" in done.error
    assert f"env -u {name}" in done.error and not (tmp_path / "run").exists()
    monkeypatch.setenv(name, "1")
    assert script("train.py", "--print-config").code == 0


@pytest.mark.parametrize("value", ["0", "two", "-1", "1.0", "²"])
def test_a_number_of_processes_that_is_none_is_refused(script, monkeypatch, value):
    monkeypatch.setenv("WORLD_SIZE", value)
    done = script("train.py", "--print-config")
    assert done.code == 2 and f"WORLD_SIZE = {value!r}: should be 1 or not set" in done.error


def test_a_batch_script_of_several_tasks_is_a_single_process(script, monkeypatch):
    for name, value in {"SLURM_NTASKS": "4", "SLURM_PROCID": "0", "WORLD_SIZE": " 1 "}.items():
        monkeypatch.setenv(name, value)
    assert script("train.py", "--print-config").code == 0
