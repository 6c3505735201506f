"""Faults in and around checkpoints (17 to 23): killed, full, damaged, hostile, foreign, shared."""

import errno
import json
import math
import os
import pickle
import resource
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from conftest import PROJECT, SHORT, STEPS_PER_EPOCH, differences_of_runs

from nanocnn.run.checkpoint import load_checkpoint, save_checkpoint
from nanocnn.run.folder import locked
from nanocnn.system.files import SEAL, Sealed, is_sealed

pytestmark = pytest.mark.slow


def test_fault_17_a_kill_at_any_moment_loses_nothing():
    """The benchmark itself compares the runs bit for bit, and looks into the folder after each
    kill.
    """
    command = [sys.executable, "-m", "benchmarks.kill", "--kills", "8"]
    done = subprocess.run(command, cwd=PROJECT, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["kills"] >= 8 and report["lost"] == 0
    assert report["inside_a_write"] >= 1 and report["bytes_compared"] > 10_000_000


def test_fault_17_half_written_files_of_a_killed_run_are_removed(undisturbed, script):
    shutil.copytree(undisturbed, "run")
    for name in (".last.pt.tmp", ".previous.pt.tmp", ".run.json.tmp"):
        Path("run", name).write_bytes(b"half")
    Path("run/run.json").unlink()  # as if killed before the end was written
    assert script("train.py", "--resume", "run").code == 0
    assert not list(Path("run").glob(".*.tmp"))
    assert differences_of_runs(undisturbed, Path("run")) == []


@pytest.fixture
def small_files():
    """From now on the operating system refuses to write more than the first 20 kB of a file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_fault_18_a_disk_that_takes_no_more_ends_the_run_and_keeps_the_last_checkpoint(
    undisturbed, script, small_files
):
    options = [option for option in SHORT if not option.startswith("train.epochs")]
    assert script("train.py", *options, "train.epochs=1", "--run-dir", "run").code == 0
    before = {path.name: path.read_bytes() for path in Path("run").glob("*.pt")}
    assert len(before["last.pt"]) > 20_000
    small_files()
    result = script("train.py", "--resume", "run", "train.epochs=3")
    assert result.code == 2 and result.error.count("\n") == 1
    assert "File too large" in result.error and "best.pt" in result.error
    assert {path.name: path.read_bytes() for path in Path("run").glob("*.pt")} == before
    assert not list(Path("run").glob(".*.tmp"))
    assert "File too large" in json.loads(Path("run/run.json").read_text())["exit_reason"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EACCES])
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_fault_18_a_write_that_fails_leaves_every_file_as_it_was(
    undisturbed, tmp_path, monkeypatch, number, call
):
    shutil.copytree(undisturbed, tmp_path / "run")
    before = {path: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    good = load_checkpoint(tmp_path / "run" / "best.pt")

    def fail(*arguments):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(OSError, match=rf"{os.strerror(number)}.*last\.pt"):
        save_checkpoint(tmp_path / "run", ["last.pt"], good)
    assert {path: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before


def test_fault_18_what_the_disk_gives_back_changed_does_not_replace_the_old_file(
    undisturbed, tmp_path, monkeypatch
):
    shutil.copytree(undisturbed, tmp_path / "run")
    before = (tmp_path / "run" / "last.pt").read_bytes()
    good = load_checkpoint(tmp_path / "run" / "best.pt")

    def read(path):
        content = bytearray(path.read_bytes())
        content[1000] ^= 1
        path.write_bytes(content)
        return is_sealed(path)

    monkeypatch.setattr("nanocnn.system.files.is_sealed", read)
    with pytest.raises(OSError, match="something else"):
        save_checkpoint(tmp_path / "run", ["last.pt"], good)
    assert (tmp_path / "run" / "last.pt").read_bytes() == before


def test_fault_18_checkpoints_have_the_permissions_that_the_umask_gives(digits_run, tmp_path):
    before = os.umask(0o027)
    try:
        save_checkpoint(tmp_path, ["last.pt"], load_checkpoint(digits_run / "last.pt"))
    finally:
        os.umask(before)
    assert (tmp_path / "last.pt").stat().st_mode & 0o777 == 0o640


def damages(content):
    size = len(content)
    for part in range(16):
        yield f"cut at {part}/16", content[: size * part // 16]
    yield "cut by a byte", content[:-1]
    yield "a byte more", content + b"\0"
    yield "text", b"not a checkpoint"
    yield "without its checksum", content[:-SEAL]
    for place in (0, 100, size // 3, size // 2, size - SEAL - 5, size - SEAL + 3, size - 1):
        flipped = bytearray(content)
        flipped[place] ^= 0x10
        yield f"a bit of byte {place}", bytes(flipped)


def test_fault_19_any_damage_is_found(undisturbed, script):
    content = (undisturbed / "last.pt").read_bytes()
    for name, damaged in damages(content):
        Path("damaged.pt").write_bytes(damaged)
        result = script("test.py", "--ckpt", "damaged.pt")
        assert result.code == 2, name
        assert result.error.startswith("error: damaged.pt") and result.error.count("\n") == 1, name


def test_fault_19_a_flipped_bit_in_a_weight_would_load_without_the_checksum(undisturbed, tmp_path):
    """Why the checksum is there: torch does not look at those of the zip format."""
    content = bytearray((undisturbed / "last.pt").read_bytes())
    weights = load_checkpoint(undisturbed / "last.pt")["model"]
    largest = max(weights.values(), key=lambda tensor: tensor.numel())
    content[content.index(largest.numpy().tobytes()) + 7] ^= 0x40
    (tmp_path / "last.pt").write_bytes(content)
    loaded = torch.load(tmp_path / "last.pt", weights_only=True)["model"]
    assert any(not torch.equal(loaded[key], weights[key]) for key in weights)
    assert not is_sealed(tmp_path / "last.pt")


def test_fault_19_a_damaged_last_checkpoint_is_reported_and_the_one_before_used(
    undisturbed, script
):
    shutil.copytree(undisturbed, "run")
    facts = json.loads(Path("run/run.json").read_text())
    Path("run/run.json").write_text(json.dumps(facts | {"exit_reason": "running"}))
    content = bytearray(Path("run/last.pt").read_bytes())
    content[len(content) // 2] ^= 1
    Path("run/last.pt").write_bytes(content)
    result = script("train.py", "--resume", "run")
    assert result.code == 0
    assert result.error == (
        "warning: run/last.pt: damaged, or no checkpoint of this project: its content does not "
        "have the "
        "checksum at its end; using run/previous.pt\n"
    )
    assert f"resuming after step {2 * STEPS_PER_EPOCH} of {3 * STEPS_PER_EPOCH}" in result.out
    assert differences_of_runs(undisturbed, Path("run")) == []
    for name in ("last.pt", "previous.pt"):
        Path("run", name).write_bytes(b"")
    result = script("train.py", "--resume", "run")
    assert result.code == 2 and "run/previous.pt: damaged" in result.error
    assert result.error.count("\n") == 1


class Malicious:
    def __reduce__(self):
        return os.mkdir, ("canary",)


def sealed(path, content):
    """Give hostile content the checksum that it should have: it is no signature."""
    Sealed(memoryview(content)).write(path)


@pytest.mark.parametrize(
    "kind", ["pickle", "torch", "legacy", "compressed", "foreign", "newer", "no number"]
)
def test_fault_20_a_hostile_or_foreign_file_is_refused_and_runs_nothing(digits_run, script, kind):
    good = load_checkpoint(digits_run / "best.pt")
    match kind:
        case "pickle":
            Path("x").write_bytes(pickle.dumps(Malicious()))
        case "torch":
            torch.save(good | {"config": Malicious()}, "x")
        case "legacy":
            torch.save(good, "x", _use_new_zipfile_serialization=False)
        case "compressed":
            with (
                zipfile.ZipFile(digits_run / "best.pt") as old,
                zipfile.ZipFile("x", "w", zipfile.ZIP_DEFLATED) as new,
            ):
                for name in old.namelist():
                    new.writestr(name, old.read(name))
        case "foreign":
            torch.save({"state_dict": good["model"]}, "x")
        case "newer":
            torch.save(good | {"format": 99}, "x")
        case "no number":
            torch.save(good | {"format": torch.zeros(0)}, "x")
    sealed(Path("evil.pt"), Path("x").read_bytes())
    result = script("test.py", "--ckpt", "evil.pt")
    assert result.code == 2 and result.error.startswith("error: evil.pt: ")
    assert result.error.count("\n") == 1 and not Path("canary").exists()
    shutil.copytree(digits_run, "run")
    Path("run/previous.pt").unlink()
    shutil.copy("evil.pt", "run/last.pt")
    result = script("train.py", "--resume", "run")
    assert result.code == 2 and not Path("canary").exists()


def test_fault_21_a_checkpoint_that_does_not_fit_the_project_is_refused(digits_run, script):
    checkpoint = load_checkpoint(digits_run / "best.pt")
    weights = dict(checkpoint["model"])
    weights["features.0.weight"] = weights["features.0.weight"][:5]
    data = checkpoint["config"]["data"] | {"image_size": 20}
    changed = {
        "weights do not fit": {"model": weights},
        "a count for each of 2 classes": {"data": checkpoint["data"] | {"classes": ["a", "b"]}},
        "its data.std.0 = nan": {"data": checkpoint["data"] | {"std": [math.nan]}},
        "its config": {"config": [1]},
        "unknown key": {"config": checkpoint["config"] | {"other": 1}},
        "its data": {"data": {"classes": ["a"]}},
        "the classes and sizes of its config": {"config": checkpoint["config"] | {"data": data}},
    }
    for message, change in changed.items():
        save_checkpoint(Path(), ["changed.pt"], checkpoint | change)
        tested = script("test.py", "--ckpt", "changed.pt")
        assert tested.code == 2 and message in tested.error and tested.error.count("\n") == 1


def test_fault_21_another_config_is_refused_with_its_keys_and_more_epochs_are_not(
    undisturbed, script
):
    shutil.copytree(undisturbed, "run")
    before = {path: path.read_bytes() for path in Path("run").iterdir()}
    changes = [
        ["optimizer.lr=0.3", "seed=4"],
        ["train.epochs=2"],
        ["model={name: mlp}"],
        ["data.augment.shift=2"],
        ["--config", "mnist.yaml"],
    ]
    for change in changes:
        result = script("train.py", "--resume", "run", *change)
        assert result.code == 2 and result.error.count("\n") == 1
        for key in ("model.name", "data.dataset") if "--config" in change else change:
            assert key.partition("=")[0].removesuffix("={name") in result.error
    result = script("train.py", "--resume", "run", "optimizer.lr=0.3", "seed=4")
    assert "optimizer.lr (0.05 there, 0.3 here), " not in result.error.partition("seed (0 there")[2]
    assert {path: path.read_bytes() for path in Path("run").iterdir()} == before
    result = script("train.py", "--resume", "run", "train.epochs=4", "device=cpu")
    assert result.code == 0 and load_checkpoint(Path("run/last.pt"))["epoch"] == 4
    assert script("train.py", "--resume", "run").code == 0, "its config.yaml has the epochs"
    assert len(Path("run/metrics.jsonl").read_text().splitlines()) == 4


def test_fault_21_other_images_are_refused_when_a_run_goes_on(mnist_root, script):
    options = [
        "--config",
        "mnist_smoke.yaml",
        "data.limit=60",
        "data.validation=0",
        "train.epochs=1",
    ]
    net = "model={name: mlp, hidden: [8]}"
    assert (
        script("train.py", *options, net, f"data.root={mnist_root}", "--run-dir", "run").code == 0
    )
    raw = Path("data/MNIST/raw")
    raw.mkdir(parents=True)
    for kind in ("images-idx3-ubyte.gz", "labels-idx1-ubyte.gz"):
        shutil.copy(mnist_root / "MNIST" / "raw" / f"train-{kind}", raw)
    moved = script("train.py", "--resume", "run", "train.epochs=2", "data.root=data")
    assert moved.code == 0, "the same images elsewhere"
    for kind in ("images-idx3-ubyte.gz", "labels-idx1-ubyte.gz"):
        shutil.copy(mnist_root / "MNIST" / "raw" / f"t10k-{kind}", raw / f"train-{kind}")
    result = script("train.py", "--resume", "run", "train.epochs=3", "data.root=data")
    assert result.code == 2 and "not those that the run began with" in result.error


def test_fault_22_a_checkpoint_of_another_device_loads_here(undisturbed, tmp_path, monkeypatch):
    """What a GPU writes differs in the tag of each tensor's device."""
    good = load_checkpoint(undisturbed / "last.pt")
    with monkeypatch.context() as patch:
        patch.setattr("torch.serialization.location_tag", lambda storage: "cuda:0")
        save_checkpoint(tmp_path, ["cuda.pt"], good)
    assert b"cuda:0" in (tmp_path / "cuda.pt").read_bytes()
    assert {
        tensor.device.type for tensor in load_checkpoint(tmp_path / "cuda.pt")["model"].values()
    } == {"cpu"}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no GPU")
def test_fault_22_a_run_moves_between_devices(script):
    options = [*SHORT, "precision=fp32", "--run-dir", "run"]
    assert script("train.py", *options, "device=cuda").code == 0
    result = script("train.py", "--resume", "run", "device=cpu", "train.epochs=4")
    assert result.code == 0, result.error
    assert script("train.py", "--resume", "run", "device=cuda", "train.epochs=5").code == 0
    reports = [
        json.loads(script("test.py", "--ckpt", "run", "--json", "-", "--device", device).out)
        for device in ("cpu", "cuda")
    ]
    assert abs(reports[0]["accuracy"] - reports[1]["accuracy"]) <= 1 / 359


def test_fault_23_a_folder_in_which_a_process_trains_is_refused(undisturbed, script):
    shutil.copytree(undisturbed, "run")
    options = ["--resume", "run", "train.epochs=4"]
    with locked(Path("run")):
        before = {path: path.read_bytes() for path in Path("run").iterdir()}
        result = script("train.py", *options)
        assert result.code == 2 and "another process is training" in result.error
        assert {path: path.read_bytes() for path in Path("run").iterdir()} == before
    Path("run/.lock").touch()  # what a crash leaves
    assert script("train.py", *options).code == 0


def test_fault_19_a_damaged_checkpoint_never_takes_the_place_of_the_one_before(undisturbed, script):
    shutil.copytree(undisturbed, "run")
    good = Path("run/previous.pt").read_bytes()
    Path("run/last.pt").write_bytes(Path("run/last.pt").read_bytes()[:-1])
    save_checkpoint(Path("run"), ["last.pt"], load_checkpoint(undisturbed / "last.pt"))
    assert Path("run/previous.pt").read_bytes() == good and is_sealed(Path("run/last.pt"))
