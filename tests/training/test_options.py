"""The options of the training loop: each acts as it says, and a run with it goes on bit for bit."""

import json
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch
from conftest import SHORT, after, differences_of_runs, load_config, made_up_learner, restore, train
from torch import nn

from nanocnn.config.schema import Train
from nanocnn.images.batches import Batches
from nanocnn.images.splits import data_info, load_splits
from nanocnn.images.training_data import TrainingData
from nanocnn.networks.layers import WhiteningConv2d
from nanocnn.run.checkpoint import load_checkpoint
from nanocnn.run.run import Run
from nanocnn.system.errors import UserError
from nanocnn.training.learner import Learner

pytestmark = pytest.mark.slow

MLP = ["model={name: mlp, hidden: [16]}", "data.limit=150", "data.validation=20", "train.epochs=2"]


def weights(run, part="model"):
    return load_checkpoint(run / "last.pt")[part]


def test_accumulated_batches_make_the_step_of_a_large_one(tmp_path):
    """130 images: four steps of 32, and one of 2, whose parts are smaller than the others'."""
    whole = train(load_config("digits.yaml", [*MLP, "train.batch_size=32"]), tmp_path / "whole")
    options = ["train.batch_size=8", "train.accumulate=4"]
    parts = train(load_config("digits.yaml", [*MLP, *options]), tmp_path / "parts")
    assert load_checkpoint(parts / "last.pt")["step"] == 10
    torch.testing.assert_close(weights(parts), weights(whole), atol=1e-6, rtol=1e-5)
    rows = [(run / "metrics.jsonl").read_text().splitlines()[-1] for run in (whole, parts)]
    first, second = (json.loads(row)["train_loss"] for row in rows)
    assert first == pytest.approx(second, rel=1e-5)


@pytest.mark.parametrize(
    "images, accumulate, sizes",
    [(10, 4, [4, 3, 3]), (11, 4, [3, 3, 3, 2]), (3, 4, [3]), (8, 1, [8])],
)
def test_the_parts_of_a_step_are_of_nearly_equal_size(images, accumulate, sizes):
    seen = []
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    model[0].register_forward_hook(lambda layer, inputs, output: seen.append(len(output)))
    learner = made_up_learner(model, train=Train(batch_size=3, accumulate=accumulate))
    seen.clear()  # of the trial of what is computed faster
    learner.step(torch.randn(images, 1, 2, 2), torch.zeros(images, dtype=torch.long), 0.1)
    assert seen == sizes


def test_the_norm_of_the_gradient_is_clipped():
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    before = torch.cat([parameter.detach().clone().flatten() for parameter in model.parameters()])
    learner = made_up_learner(model, train=Train(clip_norm=0.01))
    learner.step(100 * torch.randn(8, 1, 2, 2), torch.zeros(8, dtype=torch.long), 0.5)
    moved = torch.cat([parameter.detach().flatten() for parameter in model.parameters()]) - before
    assert moved.norm().item() == pytest.approx(0.5 * 0.01, rel=1e-3)


def test_the_mean_of_the_weights_is_kept_and_judged(tmp_path, monkeypatch):
    seen, step = [], Learner.step

    def watched(learner, *batch):
        result = step(learner, *batch)
        seen.append({key: value.clone() for key, value in learner.model.state_dict().items()})
        return result

    monkeypatch.setattr(Learner, "step", watched)
    run = train(load_config("digits.yaml", [*SHORT, "train.ema=0.9"]), tmp_path / "run")
    monkeypatch.undo()
    expected = seen[0]
    for steps, state in enumerate(seen[1:], start=1):
        kept = min(0.9, (1 + steps) / (10 + steps))
        for key, value in state.items():
            mean = kept * expected[key] + (1 - kept) * value
            expected[key] = mean if value.is_floating_point() else mean.to(value.dtype)
    averaged = weights(run, "ema")
    for key, value in expected.items():
        if value.is_floating_point():  # weights, and the statistics of batch normalisation
            torch.testing.assert_close(averaged[key], value)
    assert "features.1.running_mean" in averaged
    assert not torch.equal(averaged["features.0.weight"], weights(run)["features.0.weight"])
    judged = restore(run / "last.pt").model.state_dict()
    assert all(torch.equal(judged[key], averaged[key]) for key in averaged)


def test_a_share_too_long_for_the_run_does_not_judge_the_first_weights(script):
    assert script("train.py", "train.epochs=5", "train.ema=0.9999", "--run-dir", "run").code == 0
    assert load_checkpoint(Path("run/last.pt"))["validation"]["accuracy"] > 0.8


@pytest.mark.parametrize(
    "options",
    [
        ["train.ema=0.9"],
        ["precision=fp16"],
        ["train.accumulate=3", "train.clip_norm=1.0"],
        ["train.channels_last=true"],
    ],
    ids=["ema", "fp16", "accumulate", "channels_last"],
)
def test_a_run_with_options_goes_on_bit_for_bit(script, monkeypatch, options):
    assert script("train.py", *SHORT, *options, "--run-dir", "whole").code == 0
    with monkeypatch.context() as patch:
        after(patch, Run, "after_step", 3, lambda: os.kill(os.getpid(), signal.SIGTERM))
        assert script("train.py", *SHORT, *options, "--run-dir", "run").code == 143
    assert script("train.py", "--resume", "run").code == 0
    assert differences_of_runs(Path("whole"), Path("run")) == []


def test_a_run_stops_when_it_has_not_become_better_for_some_epochs(script):
    options = [
        *MLP,
        "train.epochs=9",
        "train.patience=2",
        "optimizer.lr=1e-12",
        "schedule={name: constant}",
    ]
    done = script("train.py", *options, "--run-dir", "run")
    assert done.code == 0 and "no better validation for 2 epochs" in done.out
    checkpoint = load_checkpoint(Path("run/last.pt"))
    assert checkpoint["epoch"] == checkpoint["best_epoch"] + 2 < 9
    again = script("train.py", "--resume", "run", "train.epochs=12")
    assert again.code == 0 and load_checkpoint(Path("run/last.pt"))["epoch"] == checkpoint["epoch"]


@pytest.mark.parametrize(
    "options, part",
    [
        (["train.patience=10", "train.epochs=10"], "patience = 10: cannot act in 10 epochs"),
        (
            ["train.patience=2", "data.validation=0"],
            "train.patience: cannot act without validation",
        ),
        (["train.ema=1"], "train.ema = 1"),
        (["train.clip_norm=0"], "train.clip_norm = 0"),
    ],
)
def test_options_that_cannot_act_are_refused(options, part):
    with pytest.raises(UserError, match=part):
        load_config("digits.yaml", options)


def test_a_few_batches_can_be_learnt_by_heart(script):
    options = [
        "train.overfit_batches=2",
        "train.batch_size=20",
        "train.epochs=30",
        "data.augment.shift=0",
    ]
    assert script("train.py", *options, "--run-dir", "run").code == 0
    rows = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["step"] == 60 and rows[-1]["val_accuracy"] == 1
    assert json.loads(Path("run/run.json").read_text())["images"] == {"train": 40, "val": 40}


def test_channels_last_changes_the_layout_and_not_the_results(tmp_path):
    runs = [
        train(
            load_config("digits.yaml", [*SHORT, f"train.channels_last={value}"]), tmp_path / value
        )
        for value in ("false", "true")
    ]
    kernels = [weights(run)["features.4.weight"] for run in runs]
    assert kernels[1].is_contiguous(memory_format=torch.channels_last)
    assert not kernels[0].is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(*kernels, atol=1e-3, rtol=1e-2)


def test_a_dry_run_tries_everything_and_leaves_nothing(script):
    done = script("train.py", "--config", "digits.yaml", "--dry-run")
    assert done.code == 0 and "dry run" in done.out and "epoch 1/1" in done.out
    assert not list(Path().iterdir())
    failed = script("train.py", "--dry-run", "optimizer.lr=1e38", "schedule={name: constant}")
    assert failed.code == 3 and not list(Path().iterdir())


@pytest.mark.skipif(not (shutil.which("c++") or torch.cuda.is_available()), reason="no compiler")
def test_a_compiled_network_learns_the_same_and_is_saved_without_a_prefix(tmp_path):
    options = [*MLP, "train.epochs=1"]
    runs = [
        train(load_config("digits.yaml", [*options, f"train.compile={value}"]), tmp_path / value)
        for value in ("false", "true")
    ]
    plain, compiled = map(weights, runs)
    assert plain.keys() == compiled.keys()
    torch.testing.assert_close(compiled, plain, atol=1e-5, rtol=1e-4)


def test_a_run_with_whitening_and_averaged_flips_is_judged_as_it_was_validated(tmp_path, script):
    options = ["data.limit=200", "train.epochs=2", "train.batch_size=50", "data.average_flips=true"]
    net = "model={name: airbench, widths: [4, 8, 8]}"
    flip = "data.augment.flip=alternating"
    assert script("train.py", *options, net, flip, "train.ema=0.5", "--run-dir", "run").code == 0
    row = json.loads(Path("run/metrics.jsonl").read_text().splitlines()[-1])
    state = load_checkpoint(Path("run/last.pt"))
    filters = state["model"]["whiten.0.weight"]
    config = load_config("digits.yaml", [*options, net])
    split = load_splits(config.data, 0)["train"]
    layer = WhiteningConv2d(1, 2)
    info = data_info(config.data, split)
    layer.fit([next(iter(Batches(split, info, 1000, torch.device("cpu"))))[0]])
    torch.testing.assert_close(filters, layer.weight.detach())
    report = json.loads(
        script("test.py", "--ckpt", "run/last.pt", "--split", "val", "--json", "-").out
    )
    assert report["average_flips"] and report["accuracy"] == row["val_accuracy"]
    assert report["loss"] == pytest.approx(row["val_loss"], rel=1e-5)
    assert script("train.py", "--resume", "run", "train.epochs=3").code == 0
    again = load_checkpoint(Path("run/last.pt"))["model"]["whiten.0.weight"]
    assert torch.equal(again, filters)


def test_balanced_weights_are_those_of_the_few_images_that_are_trained_on():
    options = ["train.overfit_batches=1", "train.batch_size=16", "loss.class_weights=balanced"]
    data = TrainingData(load_config("digits.yaml", options))
    assert sum(data.info.class_counts) == 16
    assert data.info.class_counts == tuple(torch.bincount(data.train.labels, minlength=10).tolist())
