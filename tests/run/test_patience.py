"""Runs that end by themselves: what goes on, what is finished, and what is said of it."""

import json
from pathlib import Path

import pytest
import torch
from conftest import differences_of_runs

from nanocnn.training.learner import Learner

# validation gets worse from epoch 2 to 4: a patience of 2 ends there
SHORT = [
    "data.limit=160", "data.validation=40", "train.epochs=8", "train.batch_size=32", "log.every=2",
    "name=short", "data.augment.shift=1",
    "model={name: convnet, channels: [[4]], norm: batch, dropout: 0.3}",
]  # fmt: skip
ACCURACIES = [0.5, 0.4, 0.4, 0.45, 0.6, 0.5, 0.5, 0.5]


@pytest.fixture
def made_up_validation(monkeypatch):
    """Each epoch of a run has its accuracy of ACCURACIES; a new run begins with the first."""
    judge = Learner.judge

    def judged(self, batches):
        self.epoch = getattr(self, "epoch", 0) + 1
        return judge(self, batches)._replace(accuracy=ACCURACIES[self.epoch - 1])

    def load(self, states, load=Learner.load):
        load(self, states)
        self.epoch = states["epoch"]

    monkeypatch.setattr(Learner, "judge", judged)
    monkeypatch.setattr(Learner, "load", load)


def rows(run):
    return len(Path(run, "metrics.jsonl").read_text().splitlines())


@pytest.mark.parametrize("patience", ["train.patience=6", "train.patience=null"])
def test_more_patience_goes_on_as_if_it_had_been_so_from_the_start(
    script, made_up_validation, patience
):
    whole = script("train.py", *SHORT, patience, "--run-dir", "whole")
    assert whole.code == 0 and rows("whole") == 8
    assert script("train.py", *SHORT, "train.patience=2", "--run-dir", "run").code == 0
    assert rows("run") == 3
    resumed = script("train.py", "--resume", "run", patience)
    assert resumed.code == 0 and "resuming after step" in resumed.out, resumed.error
    assert differences_of_runs(Path("whole"), Path("run")) == []


def test_less_patience_is_refused(script, made_up_validation):
    """A run that had it from the start might have ended before."""
    assert script("train.py", *SHORT, "train.patience=2", "--run-dir", "run").code == 0
    done = script("train.py", "--resume", "run", "train.patience=1")
    assert done.code == 2 and "train.patience (2 there, 1 here)" in done.error
    assert "a larger train.patience" in done.error
    assert script("train.py", *SHORT, "train.epochs=2", "--run-dir", "other").code == 0
    done = script("train.py", "--resume", "other", "train.epochs=4", "train.patience=1")
    assert done.code == 2 and "train.patience (None there, 1 here)" in done.error


def test_a_run_out_of_patience_is_finished(script, made_up_validation):
    options = [*SHORT, "train.patience=2"]
    assert script("train.py", *options, "--run-dir", "run").code == 0
    before = {path: path.read_bytes() for path in Path("run").iterdir()}
    for command in (["--resume", "run"], [*options, "--run-dir", "run", "--resume", "auto"]):
        again = script("train.py", *command)
        assert (again.code, again.error) == (0, "")
        assert again.out == (
            "run: finished, no better validation for 2 epochs after epoch 1 of 8; nothing to do "
            "(python train.py --resume run train.patience=4 goes on)\n"
        )
    assert {path: path.read_bytes() for path in Path("run").iterdir()} == before
    # without a folder the next one begins
    for _ in range(2):
        assert "resuming" not in script("train.py", *options, "--resume", "auto").out
    assert len(list(Path("runs/short").iterdir())) == 2


def test_seeds_that_ran_out_of_patience_stay(script, made_up_validation):
    command = [*SHORT, "train.patience=2", "--seeds", "2", "--run-dir", "five", "--resume", "auto"]
    assert script("train.py", *command).code == 0
    again = script("train.py", *command)
    assert again.code == 0 and "writing to" not in again.out and "2 seeds" in again.out


def test_another_number_of_threads_is_warned_of(script):
    options = [*SHORT, "train.epochs=1", "--run-dir", "run"]
    assert script("train.py", *options).code == 0
    facts = json.loads(Path("run/run.json").read_text())
    resumed = script("train.py", "--resume", "run", "train.epochs=2")
    assert (resumed.code, resumed.error) == (0, "")
    changed = facts | {"threads": 63, "precision": "float16"}
    changed["versions"] = facts["versions"] | {"torch": "1.0"}
    Path("run/run.json").write_text(json.dumps(changed))
    resumed = script("train.py", "--resume", "run", "train.epochs=3")
    assert resumed.code == 0
    for part in (
        f"trained with 63 threads before, with {torch.get_num_threads()} now",
        "OMP_NUM_THREADS=63 python train.py --resume run",
        "precision was 'float16' before and is",
        "torch was '1.0' before and is",
    ):
        assert part in resumed.error
    assert resumed.error.count("\n") == 3


def test_a_rate_that_is_too_high_is_halved(script):
    done = script("train.py", *SHORT, "optimizer.lr=1e30", "--run-dir", "run")
    assert done.code == 3 and done.error.count("\n") == 1
    assert done.error.strip().endswith(
        "begin anew with optimizer.lr=5e+29, half of it, or with what nanocnn find-lr --config "
        "run/config.yaml says"
    )
