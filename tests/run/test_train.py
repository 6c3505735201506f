"""Whole runs through train.py and test.py, and what they leave behind."""

import hashlib
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.request import urlopen

import pytest
import torch
from conftest import PROJECT, build_model, heed_signals, load_config, train
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from nanocnn.evaluation.metrics import wilson_interval
from nanocnn.images.augment import shift
from nanocnn.images.randomness import ORDER, STEP, derived_seed, generator
from nanocnn.images.splits import load_splits
from nanocnn.run.checkpoint import load_checkpoint
from nanocnn.run.folder import create_run_dir
from nanocnn.training.schedule import RateSchedule

pytestmark = pytest.mark.slow

TAGS = ["accuracy/train", "accuracy/val", "images_per_second", "loss/train", "loss/val", "lr"]


def test_the_default_run_needs_no_download_and_learns_digits(script):
    trained = script("train.py")
    assert trained.code == 0, trained.error
    (run,) = Path("runs/digits").iterdir()
    assert re.fullmatch(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d", run.name)
    assert (
        f"python test.py --ckpt {run}" in trained.out and "tensorboard --logdir runs" in trained.out
    )
    tested = script("test.py", "--json", "result.json")
    assert tested.code == 0, tested.error
    report = json.loads(Path("result.json").read_text())
    assert report == json.loads((run / "test.json").read_text())
    assert (report["dataset"], report["split"], report["n"]) == ("digits", "test", 359)
    assert report["accuracy"] == report["correct"] / 359 >= 0.97
    low, high = report["ci95"]
    assert 0 < low < report["accuracy"] <= high
    assert sum(map(sum, report["confusion"])) == 359
    assert sum(row[i] for i, row in enumerate(report["confusion"])) == report["correct"]
    assert [sum(row) for row in report["confusion"]] == [c["support"] for c in report["per_class"]]
    assert [c["name"] for c in report["per_class"]] == list("0123456789")
    assert f"{report['accuracy']:.2%}" in tested.out


def test_a_run_folder_holds_what_it_promises(digits_run):
    names = {re.sub(r"tfevents\..*", "tfevents", path.name) for path in digits_run.iterdir()}
    assert names >= {
        "config.yaml",
        "run.json",
        "metrics.jsonl",
        "events.out.tfevents",
        "last.pt",
        "best.pt",
    }
    assert not [name for name in names if name.endswith(".tmp")]
    rows = [json.loads(line) for line in (digits_run / "metrics.jsonl").read_text().splitlines()]
    assert [(row["epoch"], row["step"]) for row in rows] == [(1, 21), (2, 42)]
    assert set(rows[0]) == {
        "epoch", "step", "lr", "train_loss", "train_accuracy", "val_loss", "val_accuracy",
        "images_per_second", "seconds",
    }  # fmt: skip
    facts = json.loads((digits_run / "run.json").read_text())
    assert facts["exit_reason"] == "finished"
    assert facts["versions"]["torch"] == torch.__version__
    phases = "import data build training validation saving pictures"
    assert set(facts["seconds"]) == {*phases.split()}
    assert re.fullmatch(r"[0-9a-f]{64}", facts["data_sha256"])
    assert {"git", "device", "threads", "precision"} <= set(facts)


def test_best_is_the_epoch_of_the_best_validation_accuracy(tmp_path):
    run = train(
        load_config("digits.yaml", ["train.epochs=4", "optimizer.lr=0.2"]), tmp_path / "run"
    )
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    best = max(rows, key=lambda row: (row["val_accuracy"], -row["val_loss"]))
    assert load_checkpoint(run / "best.pt")["epoch"] == best["epoch"]
    assert load_checkpoint(run / "best.pt")["validation"]["accuracy"] == best["val_accuracy"]
    assert load_checkpoint(run / "last.pt")["epoch"] == 4


def test_tensorboard_reads_the_curves(digits_run):
    events = EventAccumulator(str(digits_run))
    events.Reload()
    assert sorted(events.Tags()["scalars"]) == TAGS
    rows = [json.loads(line) for line in (digits_run / "metrics.jsonl").read_text().splitlines()]
    for tag, key in (("loss/val", "val_loss"), ("accuracy/val", "val_accuracy")):
        points = events.Scalars(tag)
        assert [point.step for point in points] == [21, 42]
        assert [point.value for point in points] == pytest.approx([row[key] for row in rows])
    steps = [point.step for point in events.Scalars("loss/train")]
    assert steps == [5, 10, 15, 20, 21, 25, 30, 35, 40, 42]
    assert events.Scalars("lr")[-1].value == pytest.approx(rows[-1]["lr"])


def test_tensorboard_serves_the_curves(digits_run):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        "tensorboard.main",
        "--logdir",
        digits_run.parent,
        "--port",
        port,
        "--host",
        "127.0.0.1",
    ]
    server = subprocess.Popen(
        [sys.executable, "-m", *map(str, command)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}/data/plugin/scalars/tags"
    try:
        served = {}
        deadline = time.monotonic() + 60
        while not served and time.monotonic() < deadline and server.poll() is None:
            try:
                served = json.load(urlopen(url))
            except OSError:
                time.sleep(0.5)
        assert sorted(served[digits_run.name]) == TAGS
    finally:
        server.terminate()
        server.wait()


def test_the_written_config_repeats_the_run_bit_for_bit(digits_run, tmp_path):
    again = train(load_config(digits_run / "config.yaml"), tmp_path / "again")
    other = train(load_config(digits_run / "config.yaml", ["seed=1"]), tmp_path / "other")
    unseen = load_config(digits_run / "config.yaml", ["log.every=1", "name=elsewhere"])
    logged = train(unseen, tmp_path / "logged")
    first, second, third, fourth = (
        load_checkpoint(run / "last.pt")["model"] for run in (digits_run, again, other, logged)
    )
    for key in first:
        assert torch.equal(first[key], second[key]) and torch.equal(first[key], fourth[key]), key
    assert not torch.equal(first["features.0.weight"], third["features.0.weight"])


def test_without_validation_the_last_epoch_counts_as_the_best(script):
    options = ["train.epochs=2", "data.validation=0", "data.limit=200", "--run-dir", "run"]
    assert script("train.py", *options).code == 0
    assert load_checkpoint(Path("run/best.pt"))["epoch"] == 2
    rows = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    assert rows[0]["val_loss"] is rows[0]["val_accuracy"] is None
    tested = script("test.py", "--ckpt", "run", "--split", "val")
    assert tested.code == 2 and "data.validation = 0" in tested.error
    assert script("test.py", "--ckpt", "run", "--split", "train").code == 0
    assert json.loads(Path("run/train.json").read_text())["n"] == 200


def test_test_py_agrees_with_the_validation_of_the_run_whatever_the_batch(digits_run, script):
    validation = load_checkpoint(digits_run / "best.pt")["validation"]
    for batch_size in (1, 7, 1000):
        options = [
            "--ckpt",
            digits_run,
            "--split",
            "val",
            "--json",
            "-",
            "--batch-size",
            batch_size,
        ]
        tested = script("test.py", *options)
        report = json.loads(tested.out)
        assert report["accuracy"] == validation["accuracy"]
        assert report["loss"] == pytest.approx(validation["loss"], rel=1e-5)


def by_hand(config, train_split, val_split):
    """What train.py should do, written out: plain loops, our orders of randomness, torch's own loss
    and SGD.
    """
    val_images = (val_split.images / 255 - 0.3057) / 0.3248
    count = len(train_split.labels)
    torch.manual_seed(config.seed)
    model = build_model("lenet", (1, 28, 28), 10)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=0.1, momentum=0.8, nesterov=True, weight_decay=1e-3
    )
    rows, step = [], 0
    schedule = RateSchedule(config.schedule, 0.05, 2, 4)
    for epoch in range(2):
        order = torch.randperm(count, generator=generator(config.seed, ORDER, epoch))
        losses, correct = 0.0, 0
        for chosen in order.split(50):
            torch.manual_seed(derived_seed(config.seed, STEP, step))
            optimizer.param_groups[0]["lr"] = schedule.lr_at(step)
            batch = (shift(train_split.images[chosen], 1) / 255 - 0.3057) / 0.3248
            labels = train_split.labels[chosen]
            logits = model(batch)
            loss = torch.nn.functional.cross_entropy(logits, labels, label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses += loss.item() * len(labels)
            correct += int((logits.argmax(1) == labels).sum())
            step += 1
        model.eval()
        with torch.no_grad():
            val_logits = model(val_images)
        val_loss = torch.nn.functional.cross_entropy(
            val_logits, val_split.labels, label_smoothing=0.1
        )
        rows.append(
            {
                "train_loss": losses / count,
                "train_accuracy": correct / count,
                "val_loss": val_loss.item(),
                "val_accuracy": (val_logits.argmax(1) == val_split.labels).double().mean().item(),
                "lr": optimizer.param_groups[0]["lr"],
            }
        )
        model.train()
    return rows, model


def test_a_run_is_what_its_config_says_down_to_the_figures(tmp_path):
    config = load_config(
        "digits.yaml",
        [
            "seed=5",
            "data.limit=230",
            "data.validation=30",
            "data.augment.shift=1",
            "train.epochs=2",
            "train.batch_size=50",
            "loss.label_smoothing=0.1",
            "schedule.warmup=0.5",
            "precision=fp32",
            "optimizer={lr: 0.05, momentum: 0.8, nesterov: true, weight_decay: 1e-3}",
            "log.every=1000",
        ],
    )
    run = train(config, tmp_path / "run")
    splits = load_splits(config.data, seed=5)
    expected, model = by_hand(config, splits["train"], splits["val"])
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for row, figures in zip(rows, expected, strict=True):
        assert {key: row[key] for key in figures} == pytest.approx(figures, rel=1e-3)
        assert row["images_per_second"] > 0 and row["seconds"] > 0
    weights = load_checkpoint(run / "last.pt")["model"]
    for key, tensor in model.state_dict().items():
        torch.testing.assert_close(weights[key], tensor, atol=1e-3, rtol=1e-2)

    events = EventAccumulator(str(run))
    events.Reload()
    for tag, key in (
        ("loss/train", "train_loss"),
        ("accuracy/train", "train_accuracy"),
        ("lr", "lr"),
    ):
        assert [p.value for p in events.Scalars(tag)] == pytest.approx([row[key] for row in rows])
    facts = json.loads((run / "run.json").read_text())
    content = b""
    for split in splits.values():
        for image in split.images:
            content += hashlib.blake2b(image.numpy().tobytes(), digest_size=16).digest()
        content += split.labels.numpy().tobytes()
    assert facts["data_sha256"] == hashlib.sha256(content).hexdigest()
    assert facts["images"] == {"train": 200, "val": 30}


def test_bf16_is_what_a_run_in_bf16_computes_in(tmp_path):
    options = ["train.epochs=1", "data.limit=200"]
    runs = [
        train(
            load_config("digits.yaml", [*options, f"precision={precision}"]), tmp_path / precision
        )
        for precision in ("fp32", "bf16")
    ]
    losses = [json.loads((run / "metrics.jsonl").read_text())["train_loss"] for run in runs]
    assert losses[0] != losses[1] and losses[0] == pytest.approx(losses[1], rel=0.1)
    assert json.loads((runs[1] / "run.json").read_text())["precision"] == "bfloat16"


def test_training_leaves_garbage_in_the_place_of_the_test_files_alone(mnist_root, script):
    raw = Path("data/MNIST/raw")
    raw.mkdir(parents=True)
    for path in (mnist_root / "MNIST" / "raw").glob("train-*.gz"):
        shutil.copy(path, raw)
    for kind in ("images-idx3", "labels-idx1"):
        (raw / f"t10k-{kind}-ubyte.gz").write_bytes(b"garbage")
    trained = script(
        "train.py", "--config", "mnist_smoke.yaml", "train.epochs=1", "--run-dir", "run"
    )
    assert trained.code == 0, trained.error
    assert script("test.py", "--ckpt", "run", "--split", "val").code == 0
    tested = script("test.py", "--ckpt", "run")
    assert tested.code == 2 and "t10k-images" in tested.error
    # the images may have moved since
    moved = script("test.py", "--ckpt", "run", "--data-root", mnist_root)
    assert moved.code == 0, moved.error


def test_ctrl_c_leaves_a_run_that_goes_on(tmp_path):
    """A process of its own, as a user has it; tests/faults has every moment and every signal."""
    command = [sys.executable, str(PROJECT / "train.py"), "train.epochs=1000", "--run-dir", "run"]
    process = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=heed_signals,  # noqa: PLW1509
    )  # fmt: skip
    assert process.stdout is not None
    while "epoch    2" not in process.stdout.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert error == "stopped by SIGINT; python train.py --resume run goes on\n"
    assert load_checkpoint(tmp_path / "run" / "last.pt")["epoch"] >= 2


def test_folding_is_the_default_and_changes_no_prediction(digits_run, script):
    reports = [
        json.loads(script("test.py", "--ckpt", digits_run, "--json", "-", *options).out)
        for options in ([], ["--no-fold"])
    ]
    assert reports[0]["folding"] == {"layers": 2, "exact": True}
    assert reports[1]["folding"] == {"layers": 0, "exact": True}
    assert reports[0]["confusion"] == reports[1]["confusion"]
    assert reports[0]["loss"] == pytest.approx(reports[1]["loss"], rel=1e-4)
    low, high = wilson_interval(reports[0]["correct"], 359)
    assert reports[0]["ci95"] == [low, high]
    assert "batch normalisation folded: 2 layers" in script("test.py", "--ckpt", digits_run).out


def test_the_report_goes_where_it_is_told_and_a_bare_file_gets_no_neighbours(digits_run, script):
    Path("loose").mkdir()
    shutil.copy(digits_run / "best.pt", "loose/best.pt")
    assert script("test.py", "--ckpt", "loose/best.pt", "--json", "/dev/null").code == 0
    assert [path.name for path in Path("loose").iterdir()] == ["best.pt"]
    assert Path("/dev/null").is_char_device()
    for target in ("", ".", "nowhere/result.json"):
        tested = script("test.py", "--ckpt", "loose/best.pt", "--json", target)
        assert tested.code == 2 and "--json" in tested.error and not tested.out


BAD_TRAIN = {
    "optimzer.lr=1": "did you mean 'optimizer.lr'",
    "optimizer.lr=-1": "optimizer.lr = -1",
    "train.epochs=yes": "train.epochs = yes",
    "model.name=lenett": "did you mean 'lenet'",
    "data.dataset=mnits": "did you mean 'mnist'",
    "data.image_size=6": "features.4 = Conv2d",
    "data.validation=5000": "data.validation = 5000",
    "data.validation=1e-5": "less than one of 1438 images",
    "data.augment.shift=28": "data.augment.shift = 28",
    f"--config={'x' * 300}": "too long",
    "lr": "key=value",
    "--config=nope.yaml": "known: alexnet",
    "--confg=mnist.yaml": "--confg",
    "--run-dir=/dev/null/run": "cannot create the run folder",
}


@pytest.mark.parametrize("argument", BAD_TRAIN)
def test_a_mistake_ends_training_with_code_2_one_line_and_nothing_written(script, argument):
    result = script("train.py", argument)
    assert result.code == 2
    assert result.error.count("\n") == 1 and result.error.startswith("error: ")
    assert BAD_TRAIN[argument] in result.error
    assert not list(Path().iterdir())


@pytest.mark.parametrize(
    "options, message",
    [
        ([], "no run with a checkpoint"),
        (["--ckpt", "nowhere"], "nowhere: no such"),
        (["--ckpt", PROJECT / "train.py"], "no checkpoint of this project"),
        (["--split", "tset"], "tset"),
        (["--ckpt", "x" * 300], "too long"),
        (["--device", "gpu"], "--device"),
        (["--batch-size", "0"], "--batch-size 0"),
    ],
)
def test_a_mistake_ends_testing_with_code_2_one_line_and_nothing_written(script, options, message):
    result = script("test.py", *options)
    assert result.code == 2
    assert result.error.count("\n") == 1 and message in result.error
    assert not list(Path().iterdir())


def test_a_run_folder_is_never_shared(script, tmp_path):
    options = ["train.epochs=1", "data.limit=100", "--run-dir", "run"]
    assert script("train.py", *options).code == 0
    before = {path: path.read_bytes() for path in Path("run").iterdir()}
    result = script("train.py", *options)
    assert result.code == 2 and "--run-dir" in result.error
    assert {path: path.read_bytes() for path in Path("run").iterdir()} == before
    config = load_config("digits.yaml")
    assert len({create_run_dir(config) for _ in range(5)}) == 5  # in less than one second


def test_print_config_prints_a_config_and_does_nothing_else(script):
    result = script("train.py", "--config", "mnist.yaml", "optimizer.lr=0.25", "--print-config")
    assert result.code == 0
    assert [path.name for path in Path().iterdir()] == []
    Path("printed.yaml").write_text(result.out)
    assert load_config("printed.yaml") == load_config("mnist.yaml", ["optimizer.lr=0.25"])


@pytest.mark.parametrize("name", ["train.py", "test.py"])
def test_help_waits_for_no_heavy_import(name):
    code = (
        f"import runpy, sys; sys.argv = [{name!r}, '--help']\n"
        "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "except SystemExit as end: print('code', end.code, {'torch', 'pydantic', 'yaml'} & "
        "set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    assert "usage:" in done.stdout and done.stdout.endswith("code 0 set()\n")


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "muon"])
def test_a_run_imports_nothing_that_it_does_not_use(optimizer, tmp_path):
    code = (
        f"import runpy, sys; sys.argv = ['train.py', '--run-dir', {str(tmp_path / 'run')!r}, "
        "'data.limit=40', 'log.pictures=never',"
        f" 'train.epochs=1', 'optimizer={{name: {optimizer}}}',"
        " 'model={name: mlp, hidden: [16, 16]}']\n"
        "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "except SystemExit as end: print('code', end.code, "
        "{'torch._dynamo', 'torchvision', 'matplotlib', 'sympy', 'sklearn.metrics',"
        " 'nanocnn.images.overview'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    assert done.stdout.endswith("code 0 set()\n")


def test_what_a_run_stands_on_imports_no_statistics():
    """They take a second; scikit-learn's digits bring them, but no other images do."""
    code = "import sys, nanocnn.run.run; print({'scipy', 'sklearn', 'jinja2'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "set()\n"


def test_the_smoke_config_learns_real_mnist(mnist_root, script):
    options = ["--config", "mnist_smoke.yaml", f"data.root={mnist_root}", "--run-dir", "run"]
    assert script("train.py", *options).code == 0
    report = json.loads(script("test.py", "--ckpt", "run", "--json", "-").out)
    assert (report["dataset"], report["n"]) == ("mnist", 10_000)
    assert report["accuracy"] >= 0.93
