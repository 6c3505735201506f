"""Checkpoints: whole or not there, found by folder, and never a way to run somebody's code."""

import json
import os
import shutil
from importlib.metadata import PackageNotFoundError, version

import pytest
from conftest import NETWORKS, SHORT, after, load_config, train

from nanocnn.run import checkpoint as checkpoints
from nanocnn.run import start
from nanocnn.run.checkpoint import SEMANTICS, load_checkpoint, save_checkpoint
from nanocnn.run.restore import find_checkpoint
from nanocnn.run.resume import how_it_ended, resume_run
from nanocnn.system.errors import UserError
from nanocnn.system.version import __version__


def test_a_checkpoint_holds_tensors_and_plain_values_only(digits_run):
    checkpoint = load_checkpoint(digits_run / "best.pt")
    assert checkpoint["config"]["model"] == {"name": "lenet", "init": None, "weights": None}
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


def test_best_and_last_of_one_moment_are_serialised_once_and_are_two_files(tmp_path, monkeypatch):
    calls = []
    after(monkeypatch, checkpoints.torch, "save", 1, lambda: calls.append(None))
    train(load_config("digits.yaml", ["train.epochs=1", "data.limit=100"]), tmp_path / "run")
    best, last = (tmp_path / "run" / name for name in ("best.pt", "last.pt"))
    assert len(calls) == 1 and best.read_bytes() == last.read_bytes()
    assert best.stat().st_ino != last.stat().st_ino


def test_a_checkpoint_says_its_version_and_what_its_keys_mean(digits_run):
    checkpoint = load_checkpoint(digits_run / "last.pt")
    assert checkpoint["version"] == __version__ and checkpoint["semantics"] == SEMANTICS
    facts = json.loads((digits_run / "run.json").read_text())
    assert facts["versions"]["nanocnn"] == __version__


@pytest.mark.parametrize(
    "options, semantics, refused",
    [
        ([], 1, ""),
        (["loss.class_weights=balanced"], 1, "0.1.0, whose loss.class_weights differs"),
        (["train.accumulate=2"], 1, "0.1.0, whose train.accumulate differs"),
        (["loss.class_weights=balanced"], 2, ""),
        (["train.ema=0.9"], 2, "0.1.0, whose train.ema differs"),
        (
            ["loss.class_weights=balanced", "data.augment.mixup=0.2", "precision=bf16"],
            2,
            "0.1.0, whose loss.class_weights differs",
        ),
        ([], 99, "whose training differs"),
    ],
)
def test_a_run_of_another_version_goes_on_where_its_config_means_the_same(
    tmp_path, options, semantics, refused
):
    config = load_config("digits.yaml", [*SHORT, *options, "train.epochs=2"])
    run = train(config, tmp_path / "run")
    checkpoint = load_checkpoint(run / "last.pt") | {"semantics": semantics, "version": "0.1.0"}
    save_checkpoint(run, ["last.pt"], checkpoint)
    place = resume_run(run, config, NETWORKS)  # there is nothing to finish
    assert how_it_ended(place, config) == "finished, 2 epochs; nothing to do"
    more = load_config("digits.yaml", [*SHORT, *options, "train.epochs=3"])
    if refused:
        with pytest.raises(UserError, match=refused):
            resume_run(run, more, NETWORKS)
    else:
        assert resume_run(run, more, NETWORKS).checkpoint is not None


def test_how_often_a_run_logs_and_saves_may_change_when_it_goes_on(tmp_path):
    run = train(load_config("digits.yaml", SHORT), tmp_path / "run")
    changed = load_config("digits.yaml", [*SHORT, "log.every=1", "train.checkpoint_every=2"])
    assert resume_run(run, changed, NETWORKS).checkpoint is not None


def test_git_is_told_of_a_clone_of_this_project_alone(tmp_path, monkeypatch):
    assert start.git_state() is None or len(start.git_state()["commit"]) == 40
    monkeypatch.setattr(start, "PROJECT", tmp_path / "site-packages")
    assert start.git_state() is None


def test_a_clone_trains_where_only_its_requirements_are_installed(tmp_path, monkeypatch):
    def of_others(name):
        if name == "nanocnn":
            raise PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr("importlib.metadata.version", of_others)
    monkeypatch.setattr(start, "version", of_others)
    run = train(load_config("digits.yaml", ["train.epochs=1", "data.limit=60"]), tmp_path / "run")
    assert load_checkpoint(run / "last.pt")["version"] == __version__
