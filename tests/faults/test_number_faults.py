"""Faults in the numbers (15 and 16): what is not finite ends the run and is never saved."""

import json
import re
from pathlib import Path

import pytest
import torch
from conftest import SHORT, STEPS_PER_EPOCH

from nanocnn.images.batches import Batches
from nanocnn.run.checkpoint import load_checkpoint
from nanocnn.training.learner import Learner


def checkpoints_are_finite(run):
    for path in run.glob("*.pt"):
        checkpoint = load_checkpoint(path)
        tensors = list(checkpoint["model"].values())
        for state in checkpoint["optimizer"]["state"].values():
            tensors += [value for value in state.values() if isinstance(value, torch.Tensor)]
        assert all(tensor.isfinite().all() for tensor in tensors)


@pytest.mark.parametrize("every", [[], ["train.checkpoint_every=1"]])
def test_fault_15_a_loss_that_explodes_ends_the_run_within_a_logging_interval(script, every):
    options = ["optimizer.lr=1e20", "log.every=3", *every, "--run-dir", "run"]
    result = script("train.py", *options)
    assert result.code == 3
    assert re.search(
        r"^error: .* became infinite or NaN in epoch 1, by step [123], at lr", result.error
    )
    assert result.error.count("\n") == 1
    checkpoints_are_finite(Path("run"))
    assert json.loads(Path("run/run.json").read_text())["exit_reason"].startswith("NonFiniteError")


def test_fault_15_weights_that_explode_in_the_last_step_are_not_saved(script):
    """The loss is that before the update, so it cannot tell."""
    options = [
        "train.epochs=1",
        "data.limit=60",
        "train.batch_size=64",
        "schedule={name: constant}",
    ]
    result = script("train.py", *options, "optimizer.lr=1e38", "--run-dir", "run")
    assert result.code == 3 and "by step 1, at lr 1e+38" in result.error
    assert not list(Path("run").glob("*.pt"))


def test_fault_16_a_pixel_that_is_no_number_ends_the_run(script, monkeypatch):
    """In the second epoch, so that there is a good checkpoint to keep."""
    normalise, calls = Batches.normalise, []

    def spoilt(self, images):
        calls.append(None)
        images = normalise(self, images)
        images[0, 0, 0, 0] = float("nan") if len(calls) == 2 * STEPS_PER_EPOCH else 0.0
        return images

    monkeypatch.setattr(Batches, "normalise", spoilt)
    result = script("train.py", *SHORT, "--run-dir", "run")
    assert result.code == 3 and "in epoch 2, by step 12" in result.error
    assert load_checkpoint(Path("run/last.pt"))["epoch"] == 1
    checkpoints_are_finite(Path("run"))


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_fault_16_a_validation_loss_that_is_no_number_is_never_best(script, monkeypatch, value):
    evaluate, calls = Learner.judge, []

    def spoilt(*arguments):
        calls.append(None)
        evaluation = evaluate(*arguments)
        return evaluation._replace(loss=value, accuracy=1.0) if len(calls) == 2 else evaluation

    monkeypatch.setattr(Learner, "judge", spoilt)
    result = script("train.py", *SHORT, "--run-dir", "run")
    assert (
        result.code == 3 and "the validation loss became infinite or NaN in epoch 2" in result.error
    )
    assert load_checkpoint(Path("run/best.pt"))["epoch"] == 1
    assert len(Path("run/metrics.jsonl").read_text().splitlines()) == 1
