"""Checkpoints: whole or not there, found by folder, and never a way to run somebody's code."""

import os
import shutil

import pytest

from nanocnn.run.checkpoint import load_checkpoint
from nanocnn.run.restore import find_checkpoint
from nanocnn.system.errors import UserError


def test_a_checkpoint_holds_tensors_and_plain_values_only(digits_run):
    checkpoint = load_checkpoint(digits_run / "best.pt")
    assert checkpoint["config"]["model"] == {"name": "lenet", "init": None}
    assert checkpoint["data"]["classes"] == list("0123456789")
    assert checkpoint["step"] == 42 and checkpoint["epoch"] == 2
    assert sum(tensor.numel() for tensor in checkpoint["model"].values()) > 1_425_139
    assert checkpoint["optimizer"]["state"][0]["momentum_buffer"].shape == (25, 1, 3, 3)


def test_checkpoints_are_found_by_file_by_folder_and_by_age(digits_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="no run with a checkpoint"):
        find_checkpoint(None)
    for age, name in enumerate(["newest", "older"]):
        run = tmp_path / "runs" / "digits" / name
        run.mkdir(parents=True)
        shutil.copy(digits_run / "best.pt", run)
        os.utime(run / "best.pt", (1e9 - age, 1e9 - age))
    (tmp_path / "runs" / "digits" / "without").mkdir()
    assert find_checkpoint(None).parent.name == "newest"
    assert find_checkpoint(digits_run) == digits_run / "best.pt"
    assert find_checkpoint(digits_run / "last.pt") == digits_run / "last.pt"
    with pytest.raises(UserError, match="no such"):
        find_checkpoint(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"without.*best\.pt"):
        find_checkpoint(tmp_path / "runs" / "digits" / "without")
