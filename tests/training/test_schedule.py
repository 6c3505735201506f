"""The learning rate of each step, against torch's own schedulers and by value."""

import json
import signal
from itertools import pairwise

import pytest
import torch
from conftest import after, go_on, load_config, train
from hypothesis import given, settings
from hypothesis import strategies as st

from nanocnn.config.schema import Constant, Cosine, Exponential, MultiStep, OneCycle, Plateau, Step
from nanocnn.run.checkpoint import load_checkpoint
from nanocnn.run.run import Run
from nanocnn.system.errors import UserError
from nanocnn.system.signals import Stopped
from nanocnn.training.schedule import RateSchedule

PER_EPOCH, EPOCHS, STEPS = 4, 12, 48


def rates(schedule, val_losses=(), peak=0.5):
    rates = RateSchedule(schedule, peak, EPOCHS, PER_EPOCH)
    return [rates.lr_at(step, val_losses) for step in range(STEPS)]


def of_torch(scheduler, count, **arguments):
    """The rates that a scheduler of torch gives when it is asked `count` times."""
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.5)
    scheduler = scheduler(optimizer, **arguments)
    found = []
    for _ in range(count):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


@pytest.mark.parametrize(
    "schedule, scheduler, arguments",
    [
        (Step(step_size=5, gamma=0.3), "StepLR", {"step_size": 5, "gamma": 0.3}),
        (MultiStep(milestones=[2, 7, 8]), "MultiStepLR", {"milestones": [2, 7, 8]}),
        (Exponential(gamma=0.8), "ExponentialLR", {"gamma": 0.8}),
    ],
)
def test_schedules_of_epochs_are_those_of_torch(schedule, scheduler, arguments):
    expected = of_torch(getattr(torch.optim.lr_scheduler, scheduler), EPOCHS, **arguments)
    assert rates(schedule) == pytest.approx([rate for rate in expected for _ in range(PER_EPOCH)])
    assert len(set(expected)) > 2


def test_cosine_is_that_of_torch_step_by_step():
    annealing = torch.optim.lr_scheduler.CosineAnnealingLR
    expected = of_torch(annealing, STEPS, T_max=STEPS, eta_min=0.02)
    assert rates(Cosine(min_lr=0.02)) == pytest.approx(expected)
    assert rates(Cosine())[STEPS // 2] == pytest.approx(0.25)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.floats(0.1, 2), min_size=EPOCHS, max_size=EPOCHS),
    st.integers(0, 4),
    st.sampled_from([0.0, 1e-4, 0.2]),
)
def test_plateau_is_that_of_torch_for_any_losses(val_losses, patience, threshold):
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.5)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, factor=0.5, patience=patience, threshold=threshold
    )
    expected = []
    for loss in val_losses:
        expected += PER_EPOCH * [optimizer.param_groups[0]["lr"]]
        scheduler.step(loss)
    schedule = Plateau(factor=0.5, patience=patience, threshold=threshold)
    assert rates(schedule, val_losses) == pytest.approx(expected)


def test_plateau_cuts_after_patience_is_over_and_knows_no_later_loss():
    losses = [1.0, 0.9, 0.95, 0.9, 0.9, 0.9, 0.5, *[1.0] * 5]
    expected = [0.5] * 5 + [0.05] * 5 + [0.005] * 2  # bad are the epochs 3, 4, 5; 6; 8, 9, 10
    assert rates(Plateau(patience=2), losses)[::PER_EPOCH] == pytest.approx(expected)
    rate = RateSchedule(Plateau(patience=0), 0.5, EPOCHS, PER_EPOCH).lr_at(
        PER_EPOCH, [1.0, 1.0, 1.0]
    )
    assert rate == 0.5


def test_one_cycle_rises_linearly_peaks_and_falls_to_almost_zero():
    found = [RateSchedule(OneCycle(warmup=0.2), 0.5, 10, 10).lr_at(step) for step in range(100)]
    assert found[:3] == pytest.approx([0.5 * k / 21 for k in (1, 2, 3)])
    assert max(found) == found[20] == 0.5
    assert found[60] == pytest.approx(0.25)
    assert found[99] == pytest.approx(0.5 / 80)
    rises = [after - before for before, after in pairwise(found)]
    assert all(rise > 0 for rise in rises[:20]) and all(rise < 0 for rise in rises[20:])


@pytest.mark.parametrize("steps, peak", [(430 * 5, 0.1), (21 * 15, 0.05), (7, 0.3)])
def test_one_cycle_keeps_its_very_bits(steps, peak):
    warmup = 0.2 * steps
    for step in range(steps):
        rise, fall = peak * (step + 1) / (warmup + 1), peak * (steps - step) / (steps - warmup)
        expected = rise if step < warmup else fall
        assert RateSchedule(OneCycle(warmup=0.2), peak, 1, steps).lr_at(step) == expected


def test_schedules_without_warmup_and_constant():
    assert RateSchedule(OneCycle(warmup=0), 0.5, 1, 10).lr_at(0) == 0.5
    assert RateSchedule(OneCycle(warmup=0.99), 0.5, 1, 1).lr_at(0) > 0
    assert set(rates(Constant())) == {0.5}


@pytest.mark.parametrize(
    "kind, arguments",
    [
        (Constant, {}),
        (Step, {"step_size": 2}),
        (MultiStep, {"milestones": [1, 4]}),
        (Exponential, {}),
        (Cosine, {"min_lr": 0.01}),
        (Plateau, {"patience": 0}),
    ],
)
def test_the_warm_up_is_a_linear_share_of_all_steps(kind, arguments):
    losses = [1.0] * EPOCHS
    plain, warm = (
        rates(kind(**arguments), losses),
        rates(kind(**arguments, warmup=0.25), losses),
    )
    ramp = [(step + 1) / 13 for step in range(12)]
    if kind is Cosine:  # it falls from the peak over what the warm-up leaves
        assert warm[:12] == pytest.approx([0.5 * share for share in ramp])
        assert warm[12] == 0.5 and warm[30] == pytest.approx(0.255)
    else:
        assert warm[:12] == pytest.approx(
            [share * rate for share, rate in zip(ramp, plain, strict=False)]
        )
        assert warm[12:] == plain[12:]


REFUSED = {
    "schedule={name: constant, gamma: 0.5}": r"unknown key 'schedule\.gamma'",
    "schedule={name: step, step_size: 15}": r"schedule\.step_size = 15: acts after 15 .* = 15$",
    "schedule={name: step, gamma: 1}": r"schedule\.gamma = 1: should be less than 1",
    "schedule={name: step, step_size: 0}": r"schedule\.step_size = 0",
    "schedule={name: multistep, milestones: [3, 15]}": r"schedule\.milestones = \[3, 15\]: acts",
    "schedule={name: multistep, milestones: [3, 3]}": r"schedule\.milestones = \[3, 3\]: each",
    "schedule={name: multistep, milestones: [0]}": r"schedule\.milestones\.0 = 0",
    "schedule={name: multistep, milestones: []}": r"schedule\.milestones = \[\]",
    "schedule={name: cosine, min_lr: 0.05}": r"schedule\.min_lr = 0\.05: .*optimizer\.lr = 0\.05",
    "schedule={name: plateau, patience: 13}": r"schedule\.patience = 13: acts after 15",
    "schedule={name: plateau, factor: 1.5}": r"schedule\.factor = 1\.5",
    "schedule={name: one_cycle, warmup: 1}": r"schedule\.warmup = 1: should be less than 1",
}


@pytest.mark.parametrize("override", REFUSED)
def test_a_key_that_cannot_act_is_refused_with_its_place(override):
    with pytest.raises(UserError, match=f"^command line: {REFUSED[override]}"):
        load_config("digits.yaml", [override])


def test_what_needs_more_epochs_or_validation_images_is_refused():
    with pytest.raises(UserError, match=r"schedule\.gamma = 0\.9: acts after 1 "):
        load_config("digits.yaml", ["schedule={name: exponential}", "train.epochs=1"])
    with pytest.raises(UserError, match=r"schedule\.name = plateau .*data\.validation = 0"):
        load_config("digits.yaml", ["schedule={name: plateau}", "data.validation=0"])
    for schedule in ("{name: step, step_size: 14}", "{name: plateau, patience: 12}"):
        load_config("digits.yaml", [f"schedule={schedule}"])


@pytest.mark.parametrize("stop_at", [4, 8, 10], ids=["first epoch's end", "second's", "mid-epoch"])
def test_a_run_with_adam_and_plateau_resumes_to_the_very_bits(stop_at, tmp_path, monkeypatch):
    config = load_config(
        "digits.yaml",
        [
            "model={name: mlp, hidden: [16]}",
            "data.limit=200",
            "data.validation=40",
            "train.batch_size=40",
            "train.epochs=4",
            "optimizer={name: adam, lr: 1e-3, amsgrad: true}",
            "schedule={name: plateau, patience: 0, threshold: 0.9, warmup: 0.1}",
        ],
    )
    whole = train(config, tmp_path / "whole")

    with monkeypatch.context() as patch:
        after(patch, Run, "after_step", stop_at, lambda: signal.raise_signal(signal.SIGTERM))
        with pytest.raises(Stopped):
            train(config, tmp_path / "parts")
    assert load_checkpoint(tmp_path / "parts" / "last.pt")["step"] == stop_at
    go_on(config, tmp_path / "parts")

    first, second = (load_checkpoint(tmp_path / run / "last.pt") for run in ("whole", "parts"))
    assert first["val_losses"] == second["val_losses"] and len(first["val_losses"]) == 4
    for key, tensor in first["model"].items():
        assert torch.equal(tensor, second["model"][key]), key
    for key, state in first["optimizer"]["state"].items():
        for name, tensor in state.items():
            assert torch.equal(tensor, second["optimizer"]["state"][key][name]), name
    rows = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    assert [row["lr"] for row in rows] == pytest.approx([1e-3, 1e-3, 1e-4, 1e-5])
    again = [
        json.loads(line) for line in (tmp_path / "parts/metrics.jsonl").read_text().splitlines()
    ]
    for row, other in zip(rows, again, strict=True):
        assert all(row[key] == other[key] for key in ("lr", "train_loss", "val_loss", "step"))
    assert first["val_losses"] == [row["val_loss"] for row in rows]
