"""Checkpoints: whole or not there, found by folder, and never a way to run somebody's code."""

import os
import pickle
import shutil

import pytest
import torch

from checkpoint import find_checkpoint, load_checkpoint, save_checkpoint
from errors import UserError


def test_a_checkpoint_holds_tensors_and_plain_values_only(digits_run):
    checkpoint = load_checkpoint(digits_run / "best.pt")
    assert checkpoint["config"]["model"] == {"name": "lenet", "init": None}
    assert checkpoint["data"]["classes"] == list("0123456789")
    assert checkpoint["step"] == 42 and checkpoint["epoch"] == 2
    assert sum(tensor.numel() for tensor in checkpoint["model"].values()) > 1_425_139
    assert checkpoint["optimizer"]["state"][0]["momentum_buffer"].shape == (25, 1, 3, 3)


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(digits_run, tmp_path, monkeypatch):
    path = tmp_path / "last.pt"
    checkpoint = load_checkpoint(digits_run / "last.pt")
    save_checkpoint(path, checkpoint)
    before = path.read_bytes()

    def full(value, file):
        file.write(b"half of it")
        raise OSError("No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="No space"):
        save_checkpoint(path, checkpoint)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["last.pt"]


class Malicious:
    def __reduce__(self):
        return os.mkdir, ("canary",)


@pytest.mark.parametrize(
    "kind", ["pickle", "torch", "truncated", "empty", "text", "foreign", "newer"]
)
def test_a_file_that_is_no_checkpoint_is_refused_and_not_run(
    kind, digits_run, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "evil.pt"
    good = load_checkpoint(digits_run / "best.pt")
    match kind:
        case "pickle":
            path.write_bytes(pickle.dumps(Malicious()))
        case "torch":
            torch.save(good | {"config": Malicious()}, path)
        case "truncated":
            path.write_bytes((digits_run / "best.pt").read_bytes()[:100_000])
        case "empty":
            path.touch()
        case "text":
            path.write_text("not a checkpoint")
        case "foreign":
            torch.save({"state_dict": good["model"]}, path)
        case "newer":
            torch.save(good | {"format": 99}, path)
    with pytest.raises(UserError, match=r"evil\.pt"):
        load_checkpoint(path)
    assert not (tmp_path / "canary").exists()


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
