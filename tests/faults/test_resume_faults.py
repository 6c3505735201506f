"""Going on: bit for bit, after signals, after crashes (24 to 27), and with what a test report needs
(29, 30).
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import PROJECT, SHORT, STEPS_PER_EPOCH, after, differences_of_runs
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from nanocnn.images import batches
from nanocnn.images.batches import Batches
from nanocnn.run import run as run_module
from nanocnn.run.checkpoint import load_checkpoint
from nanocnn.run.record import Record
from nanocnn.run.run import Run
from nanocnn.system.files import Sealed
from nanocnn.system.signals import NAMES
from nanocnn.training.learner import Learner
from nanocnn.training.optimizer import OPTIMIZERS

pytestmark = pytest.mark.slow

ALL_STEPS = 3 * STEPS_PER_EPOCH


class Crash(Exception):
    pass


def crash():
    raise Crash


@pytest.mark.parametrize(
    "step, every, precision",
    [(step, every, "fp32") for step in (1, 5, 6, 7, 16, 17) for every in (1, 4)] + [(9, 4, "bf16")],
)
def test_fault_24_a_resumed_run_is_the_undisturbed_one_bit_for_bit(
    undisturbed, script, monkeypatch, step, every, precision
):
    """With dropout, batch normalisation, momentum, augmentation and schedule, from every kind of
    place.
    """
    if precision == "bf16":
        options = [*SHORT, "precision=bf16"]
        assert script("train.py", *options, "--run-dir", "whole").code == 0
        undisturbed = Path("whole")
    options = [*SHORT, f"precision={precision}", f"train.checkpoint_every={every}"]
    with monkeypatch.context() as patch:
        after(patch, Run, "after_step", step + 1, crash)
        with pytest.raises(Crash):
            script("train.py", *options, "--run-dir", "run")
    resumed = script("train.py", "--resume", "run")
    if step < every:  # it never wrote one
        assert resumed.code == 2 and "no checkpoint" in resumed.error
        return
    assert f"resuming after step {step // every * every} of" in resumed.out
    found = differences_of_runs(undisturbed, Path("run"))
    same = ["config.train.checkpoint_every", "config.precision"]
    assert [key for key in found if key.partition("pt.")[2] not in same] == []


def interrupted(script, monkeypatch, options=SHORT):
    """The short run, cut off in the middle of its second epoch with a checkpoint."""
    with monkeypatch.context() as patch:
        after(patch, Run, "after_step", 9, lambda: os.kill(os.getpid(), signal.SIGTERM))
        assert script("train.py", *options, "--run-dir", "run").code == 143


def test_fault_24_the_comparison_fails_where_a_part_of_the_state_is_lost(
    undisturbed, script, monkeypatch
):
    """The negative controls: without one of these the test above could not fail."""

    def from_the_start(self, seed, epoch, augment, start=0, sampling="natural"):
        return shuffled(self, seed, epoch, augment, 0, sampling)

    shuffled = Batches.shuffled
    losses = {
        "the order": lambda patch: patch.setattr(batches, "ORDER", 7),
        "dropout and augmentation": lambda patch: patch.setattr(batches, "STEP", 7),
        "the place in the epoch": lambda patch: patch.setattr(Batches, "shuffled", from_the_start),
        "the optimizer": lambda patch: patch.setattr(
            OPTIMIZERS["sgd"], "load_state_dict", lambda *state: None
        ),
        "the sums": lambda patch: patch.setattr(
            Record, "start_epoch", lambda self, epoch, partial=None: start_epoch(self, epoch)
        ),
    }
    start_epoch = Record.start_epoch
    interrupted(script, monkeypatch)
    Path("run").rename("cut")
    for name, lose in losses.items():
        shutil.copytree("cut", "run")
        with monkeypatch.context() as patch:
            lose(patch)
            assert script("train.py", "--resume", "run").code == 0
        assert differences_of_runs(undisturbed, Path("run")) != [], name
        shutil.rmtree("run")
    shutil.copytree("cut", "run")
    assert script("train.py", "--resume", "run").code == 0
    assert differences_of_runs(undisturbed, Path("run")) == []


def test_fault_24_the_curves_have_no_doubled_steps(undisturbed, script, monkeypatch):
    """Killed some steps after its checkpoint, a run leaves points that it will draw again."""
    with monkeypatch.context() as patch:
        after(patch, Run, "after_step", 17, crash)
        with pytest.raises(Crash):
            script("train.py", *SHORT, "train.checkpoint_every=8", "--run-dir", "run")
    assert load_checkpoint(Path("run/last.pt"))["step"] == 16
    with Path("run/metrics.jsonl").open("a") as file:
        file.write('{"epoch": 3, "half a li')
    Path("run/last.pt").unlink()
    assert load_checkpoint(Path("run/previous.pt"))["step"] == 8
    assert script("train.py", "--resume", "run").code == 0
    events = EventAccumulator(str(Path("run")), size_guidance={"scalars": 0})
    events.Reload()
    steps = [point.step for point in events.Scalars("loss/train")]
    assert steps == [4, 6, 8, 12, 16, 18]
    assert [point.step for point in events.Scalars("loss/val")] == [6, 12, 18]
    rows = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2, 3]


MOMENTS = {
    "training": (Run, "after_step", 9),
    "the last step of an epoch": (Run, "after_step", 6),
    "before the first step": (Run, "epochs", 1),
    "evaluation": (Learner, "judge", 2),
    "saving": (Sealed, "write", 4),
    "writing the metrics": (Run, "after_epoch", 2),
}


@pytest.mark.parametrize(
    "moment, number",
    [*((moment, signal.SIGTERM) for moment in MOMENTS)]
    + [("training", getattr(signal, name)) for name in NAMES if name != "SIGTERM"],
)
def test_fault_25_a_signal_leaves_a_checkpoint_from_which_nothing_is_lost(
    undisturbed, script, monkeypatch, moment, number
):
    before = signal.signal(number, signal.SIG_DFL)  # nohup, for one, lets SIGHUP be ignored
    with monkeypatch.context() as patch:
        after(patch, *MOMENTS[moment], lambda: os.kill(os.getpid(), number))
        stopped = script("train.py", *SHORT, "--run-dir", "run")
    signal.signal(number, before)
    name = signal.Signals(number).name
    assert stopped.code == 128 + number
    assert stopped.error == f"stopped by {name}; python train.py --resume run goes on\n"
    facts = json.loads(Path("run/run.json").read_text())
    assert facts["exit_reason"].startswith(f"Stopped: {name}") and facts["seconds"]["training"] > 0
    checkpoint = load_checkpoint(Path("run/last.pt"))
    assert (facts["epoch"], facts["step"]) == (checkpoint["epoch"], checkpoint["step"])
    expected = {"training": 9, "before the first step": 0, "the last step of an epoch": 6}
    assert checkpoint["step"] == expected.get(moment, 12)
    if moment == "evaluation":
        assert checkpoint["epoch"] == 1, "it did not wait for the rest of the images"
    resumed = script("train.py", "--resume", "run")
    assert resumed.code == 0, resumed.error
    assert differences_of_runs(undisturbed, Path("run")) == []
    facts = json.loads(Path("run/run.json").read_text())
    assert facts["exit_reason"] == "finished" and len(facts["resumed"]) == 1


def test_fault_25_a_signal_while_the_data_are_read_stops_at_once_and_writes_nothing(tmp_path):
    code = (
        "import os, signal, sys, train\n"
        "from nanocnn.images import training_data\n"
        "from nanocnn.system.errors import exit_code\n"
        "from nanocnn.system.signals import exit_on_signal\n"
        "exit_on_signal()\n"
        "training_data.load_splits = lambda *_: os.kill(os.getpid(), signal.SIGTERM)\n"
        "sys.exit(exit_code(lambda: train.main([])))"
    )
    stopped = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(PROJECT)},
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert (stopped.returncode, stopped.stderr) == (143, "stopped by SIGTERM\n")
    assert not list(tmp_path.iterdir())


def test_fault_25_the_handlers_are_given_back(script):
    before = [signal.getsignal(getattr(signal, name)) for name in NAMES]
    assert script("train.py", *SHORT, "train.epochs=1").code == 0
    assert [signal.getsignal(getattr(signal, name)) for name in NAMES] == before


def test_fault_25_a_second_signal_ends_the_process_at_once(tmp_path):
    """The first one finds a step that takes a minute."""
    code = (
        "import sys, time, train\n"
        "from nanocnn.system.errors import exit_code\n"
        "from nanocnn.training.learner import Learner\n"
        "def slow(*arguments):\n    print('in', flush=True); time.sleep(60)\n"
        "Learner.step = slow\n"
        "arguments = ['--run-dir', 'run', 'data.limit=50']\n"
        "sys.exit(exit_code(lambda: train.main(arguments)))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(PROJECT)},
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    while process.stdout.readline() != "in\n":
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=1)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 143


def test_fault_26_a_run_without_a_checkpoint_cannot_go_on(script, monkeypatch):
    with monkeypatch.context() as patch:
        after(patch, Run, "after_step", 2, crash)
        with pytest.raises(Crash):
            script("train.py", *SHORT, "--run-dir", "run")
    assert "Crash" in json.loads(Path("run/run.json").read_text())["exit_reason"]
    for target, part in (("run", "no checkpoint"), ("nowhere", "no such run"), (".", "no run")):
        result = script("train.py", "--resume", target)
        assert result.code == 2 and result.error.count("\n") == 1
        assert f"{target}: " in result.error and part in result.error
    result = script("train.py", "--resume", "run", "--run-dir", "other")
    assert result.code == 2 and "--run-dir" in result.error


def test_fault_26_a_finished_run_says_so_and_nothing_changes(undisturbed, script):
    shutil.copytree(undisturbed, "run")
    before = {path: path.read_bytes() for path in Path("run").iterdir()}
    result = script("train.py", "--resume", "run")
    assert (result.code, result.out) == (0, "run: finished, 3 epochs; nothing to do\n")
    assert {path: path.read_bytes() for path in Path("run").iterdir()} == before


@pytest.mark.parametrize("folder", [[], ["--run-dir", "run"]])
def test_fault_26_the_same_command_after_every_crash_comes_to_the_end(
    undisturbed, script, monkeypatch, folder
):
    """The first crashes come before the first checkpoint; each life after that does one step."""
    command = [
        "train.py",
        *SHORT,
        "name=looped",
        "train.checkpoint_every=1",
        "--resume",
        "auto",
        *folder,
    ]
    crashes = 0
    with monkeypatch.context() as patch:
        after(patch, run_module, "save_checkpoint", 1, crash)
        with pytest.raises(Crash):
            script(*command)
    while crashes < 30:
        with monkeypatch.context() as patch:
            after(patch, Run, "after_step", 2, crash)
            try:
                assert script(*command).code == 0
                break
            except Crash:
                crashes += 1
    assert crashes >= 10
    runs = [path.parent for path in Path().rglob("last.pt")]
    found = differences_of_runs(undisturbed, runs[0])
    assert len(runs) == 1 and {key.partition("pt.")[2] for key in found} <= {
        "config.train.checkpoint_every",
        "config.name",
    }
    again = script(*command)
    assert again.code == 0
    if folder:
        assert "nothing to do" in again.out
    else:
        assert "resuming" not in again.out and len(list(Path().rglob("last.pt"))) == 2


def test_fault_26_auto_goes_on_with_the_newest_unfinished_run_of_this_config(script, monkeypatch):
    for options in ([], ["seed=1"], ["optimizer.lr=0.02"]):
        interrupted(script, monkeypatch, [*SHORT, *options])
        run = load_checkpoint(Path("run/last.pt"))["config"]
        Path("runs/digits").mkdir(parents=True, exist_ok=True)
        Path("run").rename(f"runs/digits/{run['seed']}_{run['optimizer']['lr']}")
    Path("runs/digits/empty").mkdir()
    result = script("train.py", *SHORT, "seed=1", "--resume", "auto")
    assert result.code == 0 and "writing to runs/digits/1_0.05\nresuming after step 9" in result.out
    result = script("train.py", *SHORT, "seed=1", "--resume", "auto")
    assert result.code == 0 and "resuming" not in result.out, "that one is finished"
    # and test.py passes over runs that have nothing to judge
    assert script("test.py").code == 0


def test_fault_27_the_same_config_gives_the_same_bits_whatever_is_logged(undisturbed, script):
    assert script("train.py", *SHORT, "log.every=1000", "--run-dir", "quiet").code == 0
    found = differences_of_runs(undisturbed, Path("quiet"))
    assert [key for key in found if "model" in key or "optimizer" in key] == []
    assert script("train.py", *SHORT, "seed=1", "--run-dir", "other").code == 0
    found = differences_of_runs(undisturbed, Path("other"))
    assert [key for key in found if "last.pt.model" in key]


def test_fault_29_a_report_changes_nothing_but_its_file(undisturbed, script):
    shutil.copytree(undisturbed, "run")
    before = {path.name: path.read_bytes() for path in Path("run").iterdir()}
    reports = []
    for options in (
        [],
        [],
        ["--batch-size", 1],
        ["--batch-size", 7],
        ["--batch-size", 1000],
        ["--no-fold"],
    ):
        assert script("test.py", "--ckpt", "run", *options).code == 0
        reports.append(json.loads(Path("run/test.json").read_text()))
    for report in reports[1:]:
        assert report["confusion"] == reports[0]["confusion"]
        assert report["loss"] == pytest.approx(reports[0]["loss"], rel=1e-4)
    files = {path.name: path.read_bytes() for path in Path("run").iterdir()}
    assert files.pop("test.json") and files == before


def test_fault_29_an_empty_test_split_is_refused(small_mnist, script):
    raw = small_mnist / "MNIST" / "raw"
    options = [
        "--config",
        "mnist_smoke.yaml",
        "data.limit=null",
        "data.validation=0",
        "train.epochs=1",
    ]
    net = "model={name: mlp, hidden: [8]}"
    assert (
        script("train.py", *options, net, f"data.root={small_mnist}", "--run-dir", "run").code == 0
    )
    for kind, header in (
        ("images-idx3", b"\0\0\x08\x03" + bytes(4) + b"\0\0\0\x1c" * 2),
        ("labels-idx1", b"\0\0\x08\x01" + bytes(4)),
    ):
        (raw / f"t10k-{kind}-ubyte").write_bytes(header)
    result = script("test.py", "--ckpt", "run")
    assert result.code == 2 and "t10k-images" in result.error and "N from 1" in result.error
    assert not Path("run/test.json").exists()


def test_fault_30_without_tensorboard_the_run_goes_on(undisturbed, script, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    result = script("train.py", *SHORT, "--run-dir", "run")
    assert result.code == 0 and result.error.startswith("warning: no TensorBoard curves")
    assert result.error.count("\n") == 1
    assert not list(Path("run").glob("events*"))
    metrics = [
        re.sub(r'"images_per.*', "", (run / "metrics.jsonl").read_text())
        for run in (undisturbed, Path("run"))
    ]
    assert metrics[0] == metrics[1]


def test_fault_30_curves_that_cannot_be_written_do_not_end_the_run(script, monkeypatch):
    from tensorboard.summary.writer.record_writer import RecordWriter

    def full(self, data):
        raise OSError(28, "No space left on device")

    after(
        monkeypatch,
        Run,
        "after_step",
        7,
        lambda: monkeypatch.setattr(RecordWriter, "write", full),
    )
    monkeypatch.setattr("threading.excepthook", lambda failure: None)  # of the writer's thread
    result = script("train.py", *SHORT, "--run-dir", "run")
    assert result.code == 0 and result.error.count("warning: no TensorBoard curves") == 1
    assert len(Path("run/metrics.jsonl").read_text().splitlines()) == 3


@pytest.mark.parametrize("net", ["{name: mlp}", "{name: convnet}"])
def test_fault_26_auto_knows_a_run_whose_config_has_lists(script, monkeypatch, net):
    """Read back from YAML a list is a list; a default may be a tuple."""
    options = ["data.limit=60", "train.batch_size=20", "train.epochs=2", f"model={net}"]
    interrupted(script, monkeypatch, [*options, "train.batch_size=4"])
    Path("runs/digits").mkdir(parents=True)
    Path("run").rename("runs/digits/cut")
    result = script("train.py", *options, "train.batch_size=4", "--resume", "auto")
    assert result.code == 0 and "writing to runs/digits/cut\nresuming after step 9" in result.out


@pytest.mark.parametrize(
    "options",
    [
        ["data.limit=100", "train.batch_size=128"],
        ["data.limit=200", "train.batch_size=32", "train.accumulate=2"],
        ["schedule={name: multistep, milestones: [2, 3]}", "train.epochs=5", "train.patience=3"],
    ],
)
def test_a_dry_run_takes_any_config_and_keeps_nothing(script, options):
    result = script("train.py", "--dry-run", "model={name: mlp, hidden: [8]}", *options)
    assert result.code == 0 and "epoch 1/1" in result.out and "nothing was kept" in result.out
    assert not list(Path().iterdir())


def test_a_dry_run_takes_streams_and_signals_and_no_other_flag(script, digit_pictures, monkeypatch):
    own = [
        "data.dataset=folder",
        f"data.root={digit_pictures({'train': 60})}",
        "data.memory_limit=100",
    ]
    files = sorted(Path().rglob("*"))
    net = ["model={name: mlp, hidden: [8]}", "train.batch_size=8"]
    result = script("train.py", "--dry-run", *net, *own)
    assert result.code == 0, result.error
    for flags in (["--resume", "auto"], ["--seeds", "2"], ["--run-dir", "x"]):
        refused = script("train.py", "--dry-run", *net, *flags)
        assert refused.code == 2 and "--dry-run" in refused.error
    after(monkeypatch, Run, "after_step", 1, lambda: os.kill(os.getpid(), signal.SIGTERM))
    stopped = script("train.py", "--dry-run", *net)
    assert (stopped.code, stopped.error) == (143, "stopped by SIGTERM; nothing was kept\n")
    assert sorted(Path().rglob("*")) == files


def test_a_signal_that_the_process_was_told_to_ignore_is_ignored(script, monkeypatch):
    """As under nohup, when the terminal is closed."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    after(monkeypatch, Run, "after_step", 9, lambda: os.kill(os.getpid(), signal.SIGHUP))
    assert script("train.py", *SHORT, "--run-dir", "run").code == 0
    signal.signal(signal.SIGHUP, before)
