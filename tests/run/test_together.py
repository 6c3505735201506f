"""Runs of several processes: one folder, resumed to the bit, stopped together."""

import json
import os
import signal
import time
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from conftest import SHORT, differences_of_runs, restore
from several import Several, run

from nanocnn.evaluation.evaluate import evaluate
from nanocnn.images.training_data import TrainingData
from nanocnn.networks.fast_view import fast_view
from nanocnn.run import progress
from nanocnn.run.checkpoint import load_checkpoint
from nanocnn.training.loss import build_loss

RUN = ["--config", "digits.yaml", *SHORT, "data.augment.mixup=0.4", "train.checkpoint_every=2"]


def train(size, arguments, act=None, seconds=60, **environment):
    return Several(size, partial(run, [*RUN, *arguments], act), **environment).wait(seconds)


def send(number, rank, at, mine, step, _):
    if (mine, step) == (rank, at):
        os.kill(os.getpid(), number)


def codes(children):
    return [child.code for child in children]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of a run that nothing disturbed, by number of processes."""
    made = {}

    def of(size):
        if size not in made:
            made[size] = tmp_path_factory.mktemp("whole") / "run"
            assert codes(train(size, ["--run-dir", made[size]])) == [0] * size
        return made[size]

    return of


def test_the_first_process_alone_writes_and_speaks(tmp_path, whole):
    folder = whole(3)
    facts = json.loads((folder / "run.json").read_text())
    assert facts["processes"] == 3 and len(facts["hosts"]) == 1 and facts["torchrun_id"] is None
    assert len([*folder.glob("events*")]) == 1
    children = Several(3, partial(run, [*RUN, "--run-dir", tmp_path / "run"], None))
    assert codes(children.wait()) == [0] * 3
    said = [(children.folder / f"out{rank}").read_text() for rank in range(3)]
    assert "next: python test.py" in said[0] and said[1:] == ["", ""]
    assert differences_of_runs(folder, tmp_path / "run") == [], "the same bits again"


def test_a_checkpoint_shows_no_trace_of_them(whole):
    one, several = (load_checkpoint(whole(size) / "last.pt") for size in (1, 2))
    assert one.keys() == several.keys()
    assert [*one["model"]] == [*several["model"]] and one["config"] == several["config"]


@pytest.mark.parametrize("synchronised", ["auto", "false"])
def test_a_checkpoint_of_several_processes_is_judged_by_one(tmp_path, synchronised):
    """To the very accuracy and loss of its validation, which two processes have shared."""
    folder = tmp_path / "run"
    options = [f"train.sync_batch_norm={synchronised}", "train.ema=0.5", "data.validation=40"]
    assert codes(train(2, ["--run-dir", folder, *options])) == [0, 0]
    model, config, info, checkpoint, _ = restore(folder / "last.pt")
    data = TrainingData(config)
    loss = build_loss(config.loss, info)
    found = evaluate(fast_view(model, info.image_shape), data.val, loss)
    assert found.accuracy == checkpoint["validation"]["accuracy"]
    assert found.loss == pytest.approx(checkpoint["validation"]["loss"], rel=1e-6)


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("rank", [0, 1])
def test_one_that_is_signalled_alone_stops_all_and_they_go_on_to_the_bit(
    tmp_path, whole, size, rank
):
    folder = tmp_path / "run"
    act = partial(send, signal.SIGTERM, rank, 9)
    assert codes(train(size, ["--run-dir", folder], act)) == [143] * size
    assert load_checkpoint(folder / "last.pt")["step"] == 9, "the step that it came in"
    assert json.loads((folder / "run.json").read_text())["exit_reason"].startswith("Stopped")
    children = Several(size, partial(run, ["--resume", folder], None)).wait()
    assert codes(children) == [0] * size, children
    assert differences_of_runs(folder, whole(size)) == []


def test_a_signal_to_each_of_them_counts_once(tmp_path):
    def act(mine, step, _):
        if step == 4 + mine:  # in different steps
            os.kill(os.getpid(), signal.SIGUSR1)

    children = train(3, ["--run-dir", tmp_path / "run"], act)
    assert codes(children) == [128 + signal.SIGUSR1] * 3
    said = [child.error for child in children]
    assert said[0].startswith("stopped by SIGUSR1") and said[1:] == ["", ""]


KILLS = {"the second in a step": (1, 8), "the first in a step": (0, 11)}


@pytest.mark.parametrize("kill", KILLS.values(), ids=KILLS)
def test_a_kill_and_the_same_command_again(tmp_path, monkeypatch, whole, kill):
    """As torchrun does it: the others end, and all begin again under the same id."""
    monkeypatch.chdir(tmp_path)
    identity = {"TORCHELASTIC_RUN_ID": "seven"}
    act = partial(send, signal.SIGKILL, *kill)
    ended = codes(train(2, ["name=mine"], act, **identity))
    assert ended[kill[0]] == -signal.SIGKILL and ended[1 - kill[0]] == 2
    (folder,) = (tmp_path / "runs/mine").iterdir()
    assert codes(train(2, ["name=mine"], **identity)) == [0, 0]
    assert [*(tmp_path / "runs/mine").iterdir()] == [folder], "no second one"
    found = differences_of_runs(folder, whole(2))
    assert {each for each in found if not each.endswith(".config.name")} == set()
    assert json.loads((folder / "run.json").read_text())["torchrun_id"] == "seven"
    # finished under this id: the same command is a new run
    assert codes(train(2, ["name=mine", "train.epochs=1"], **identity)) == [0, 0]
    assert len([*(tmp_path / "runs/mine").iterdir()]) == 2


def test_without_an_id_the_same_command_is_another_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    act = partial(send, signal.SIGTERM, 0, 2)
    for _ in range(2):
        train(2, ["name=mine"], act, TORCHELASTIC_RUN_ID="none")
    assert len([*(tmp_path / "runs/mine").iterdir()]) == 2


def test_another_number_of_processes_has_the_same_batches_and_says_so(tmp_path):
    folder = tmp_path / "run"
    options = ["model.dropout=0", "--run-dir", folder]
    train(3, options, partial(send, signal.SIGTERM, 0, 7))
    several = Several(2, partial(run, ["--resume", folder], None))
    assert codes(several.wait()) == [0, 0]
    assert "processes was 3 before and is 2 now" in several.child(0, 0).error
    other = tmp_path / "other"
    assert codes(train(1, ["model.dropout=0", "--run-dir", other])) == [0]
    one, two = (load_checkpoint(each / "last.pt") for each in (folder, other))
    assert one["step"] == two["step"] and one["val_losses"] == pytest.approx(
        two["val_losses"], rel=1e-2
    )


def test_a_disk_that_is_full_ends_all_with_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr("nanocnn.run.run.save_checkpoint", refuse)
    children = train(2, ["--run-dir", tmp_path / "run"])
    assert codes(children) == [2, 2]
    assert "".join(child.error for child in children) == "error: [Errno 28] disk full\n"


def refuse(*_):
    raise OSError(28, "disk full")


@pytest.mark.parametrize(
    "arguments",
    [["optimizer.lr=-1"], ["optimzer.lr=1"], ["data.root=nowhere", "data.dataset=folder"]],
)
def test_a_mistake_is_one_line_of_one_of_them(tmp_path, arguments):
    children = train(3, ["--run-dir", tmp_path / "run", *arguments])
    assert codes(children) == [2] * 3
    said = "".join(child.error for child in children)
    assert said.startswith("error:") and said.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_loss_that_is_no_number_ends_all(tmp_path):
    children = train(2, ["--run-dir", tmp_path / "run", "optimizer={name: sgd, lr: 1e20}"])
    assert codes(children) == [3, 3]
    assert "".join(child.error for child in children).count("error:") == 1


def rows_of(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_patience_is_decided_once(tmp_path):
    """Without learning nothing gets better than in the first epoch."""
    options = ["train.patience=1", "optimizer.lr=1e-30"]
    assert codes(train(2, ["--run-dir", tmp_path / "run", *options])) == [0, 0]
    assert len(rows_of(tmp_path / "run")) == 2


def test_a_plateau_is_seen_by_all(tmp_path):
    def act(mine, step, lr):
        with (tmp_path / f"rates{mine}").open("a") as file:
            file.write(f"{lr}\n")

    options = ["schedule={name: plateau, patience: 0, threshold: 0.9}"]
    assert codes(train(2, ["--run-dir", tmp_path / "run", *options], act)) == [0, 0]
    rates = [(tmp_path / f"rates{rank}").read_text().split() for rank in range(2)]
    assert rates[0] == rates[1] and float(rates[0][-1]) < float(rates[0][0])


def test_a_checkpoint_by_the_clock_is_due_when_that_of_the_first_says_so(tmp_path, monkeypatch):
    def act(mine, step, _):
        stands_still = SimpleNamespace(monotonic=lambda: 0.0)
        if mine == 1:
            progress.time = stands_still
        time.sleep(0.1)

    monkeypatch.setattr(progress, "time", progress.time)
    options = ["train.checkpoint_every=1s", "train.epochs=3"]
    children = train(2, ["--run-dir", tmp_path / "run", *options], act, 20)
    assert codes(children) == [0, 0]


def test_seeds_are_trained_by_all_of_them(tmp_path):
    children = train(2, ["--seeds", "2", "--run-dir", tmp_path / "runs", "train.epochs=1"])
    assert codes(children) == [0, 0], children
    for seed in (0, 1):
        assert load_checkpoint(tmp_path / f"runs/seed_{seed}/last.pt")["config"]["seed"] == seed


def test_a_head_is_fitted_to_the_images_of_all(tmp_path):
    found = []
    for size in (1, 2):
        folder = tmp_path / str(size)
        options = ["train.fit_head=true", "train.epochs=0", "model={name: mlp, hidden: [8]}"]
        assert codes(train(size, ["--run-dir", folder, *options])) == [0] * size
        found.append(load_checkpoint(folder / "last.pt")["model"])
    assert all(torch.equal(found[0][key], found[1][key]) for key in found[0])


def test_a_trial_of_one_step_keeps_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert codes(train(2, ["--dry-run"])) == [0, 0] and [*tmp_path.iterdir()] == []


def test_own_pictures_are_decoded_once_and_streamed_by_all(digit_pictures, tmp_path):
    root = digit_pictures({"train": 60})
    options = ["data.dataset=folder", f"data.root={root}", "data.image_size=16", "data.test=0"]
    options += ["data.memory_limit=1KB", "data.validation=9", "data.limit=null"]
    several = Several(2, partial(run, [*RUN, "--run-dir", tmp_path / "run", *options], None))
    assert codes(several.wait()) == [0, 0], several.child(0, 0).error
    assert len([*(root / ".nanocnn-cache").glob("*.pixels")]) == 1
