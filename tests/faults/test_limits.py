"""What a machine may lack: one line that names the cause and the remedy, or it works without."""

import errno
import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from types import ModuleType

import pytest
import torch
from conftest import CPU, PROJECT
from torch.utils.tensorboard import SummaryWriter

from nanocnn.images.stream import MOST_OF_A_SOCKET, start_method
from nanocnn.run.checkpoint import load_checkpoint
from nanocnn.system.errors import exit_code
from nanocnn.training.device import pick_precision

QUICK = ["data.limit=60", "train.epochs=2", "log.every=1", "model={name: mlp, hidden: [8]}"]


class Broken(ModuleType):
    """A package that does not fit to another one."""

    error: BaseException

    def __getattr__(self, name):
        raise self.error


@pytest.mark.parametrize(
    "error",
    [TypeError("Descriptors cannot\nbe created"), ValueError("dtype size changed"), SystemExit(1)],
    ids=repr,
)
def test_a_tensorboard_that_raises_anything_costs_the_curves_alone(script, monkeypatch, error):
    broken = Broken("torch.utils.tensorboard")
    broken.error = error
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", broken)
    done = script("train.py", *QUICK, "--run-dir", "run")
    assert done.code == 0
    (warning,) = [line for line in done.error.splitlines() if "TensorBoard" in line]
    assert "no TensorBoard curves" in warning and type(error).__name__ in warning
    assert load_checkpoint(Path("run/last.pt"))["epoch"] == 2
    assert not list(Path("run").glob("events*"))


@pytest.mark.parametrize("method", ["add_scalar", "flush", "close"])
@pytest.mark.parametrize("error", [RuntimeError("queue"), OSError(errno.ESTALE, "stale")], ids=repr)
def test_curves_that_fail_midway_end_no_run(script, monkeypatch, method, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(SummaryWriter, method, fail)
    done = script("train.py", *QUICK, "--run-dir", "run")
    assert done.code == 0 and done.error.count("no TensorBoard curves") == 1
    assert len(Path("run/metrics.jsonl").read_text().splitlines()) == 2
    assert json.loads(Path("run/run.json").read_text())["exit_reason"] == "finished"


@pytest.mark.parametrize(
    "name, instructions, is_slow",
    [
        ("fp32", False, False),
        ("auto", False, False),
        ("fp16", False, True),
        ("bf16", False, True),
        ("fp16", True, False),
        ("bf16", True, False),
    ],
)
def test_a_precision_that_the_cpu_has_no_instructions_for_is_slow(
    monkeypatch, capsys, name, instructions, is_slow
):
    for function in ("_is_amx_fp16_supported", "_is_avx512_bf16_supported"):
        monkeypatch.setattr(torch.cpu, function, lambda: instructions)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    pick_precision(name, CPU)
    error = capsys.readouterr().err
    assert ("warning: precision" in error and "slow on this CPU" in error) == is_slow


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL])
def test_a_file_system_without_locks_is_no_reason_not_to_train(script, monkeypatch, number):
    def fail(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", fail)
    done = script("train.py", *QUICK, "--run-dir", "run")
    assert done.code == 0, done.error
    # where there is no flock at all, filelock takes a file as the lock
    assert ("has no locks" in done.error) == (number != errno.ENOSYS)
    assert script("train.py", "--resume", "run", "train.epochs=3").code == 0


def test_a_lock_that_fails_otherwise_says_where(script, monkeypatch):
    def fail(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(fcntl, "flock", fail)
    done = script("train.py", *QUICK, "--run-dir", "run")
    assert done.code == 2 and "run: cannot be locked" in done.error and "output error" in done.error


@pytest.mark.parametrize(
    "option, script", [("-v", "train.py"), ("-v", "test.py"), ("-d", "train.py")]
)
def test_too_little_memory_for_torch_is_said_before_it_aborts(tmp_path, option, script):
    (tmp_path / "best.pt").touch()
    own = "--ckpt best.pt" if script == "test.py" else "--run-dir run"
    command = f"ulimit {option} 300000; exec {sys.executable} {PROJECT / script} {own}"
    done = subprocess.run(
        ["sh", "-c", command], check=False, cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert f"ulimit {option} 300000: too little memory" in done.stderr
    assert f"the hard limit, {option} 300000, is too low as well" in done.stderr
    assert not (tmp_path / "run").exists()


def test_a_soft_limit_on_memory_is_raised_by_what_is_told(tmp_path):
    check = f"{sys.executable} -c 'from nanocnn.system.startup import *; check_memory_limits()'"

    def shell(*commands):
        line = "; ".join(["ulimit -S -v 300000", *commands, check])
        return subprocess.run(["sh", "-c", line], check=False, capture_output=True, text=True)

    told = shell().stderr.strip().partition("to start; type ")[2]
    assert told.startswith("ulimit -S -v ")
    assert shell(told).returncode == 0


@pytest.mark.parametrize(
    "error, remedy",
    [
        (OSError(errno.EMFILE, "Too many open files", "a.png"), "ulimit -n"),
        (OSError(errno.EFBIG, "File too large", "run/last.pt"), "ulimit -f"),
        (RuntimeError("can't start new thread"), "ulimit -u"),
        (MemoryError(), "ulimit -v"),
        (OSError(errno.EDQUOT, "Disk quota exceeded", "run/last.pt"), "--run-dir"),
    ],
    ids=repr,
)
def test_a_limit_that_is_met_later_has_its_remedy(capsys, error, remedy):
    def main():
        raise error

    assert exit_code(main) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1 and str(error) in line and remedy in line


@pytest.mark.skipif(sys.platform != "linux", reason="a limit of bash")
def test_a_file_that_may_not_be_so_large_names_its_limit(tmp_path):
    command = f"ulimit -f 100; exec {sys.executable} {PROJECT / 'train.py'} train.epochs=1"
    done = subprocess.run(
        ["bash", "-c", f"{command} data.limit=60 --run-dir run"],
        check=False,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2 and "ulimit -f" in done.stderr, done.stderr
    assert "Traceback" not in done.stderr


def test_a_temporary_folder_that_is_too_long_for_a_socket(monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", "/tmp")
    assert start_method() == "forkserver"
    monkeypatch.setattr(tempfile, "tempdir", "/" + "x" * MOST_OF_A_SOCKET)
    assert start_method() == "spawn"


def stream(tmp_path, root, *before, **environment):
    """A run that reads pictures by processes of their own, in a process of its own."""
    options = [
        "data.dataset=folder",
        f"data.root={root}",
        "data.memory_limit=100",
        "data.cache=false",
    ]
    command = [*before, sys.executable, PROJECT / "train.py", *QUICK, *options, "data.limit=null"]
    return subprocess.run(
        list(map(str, [*command, "--run-dir", tmp_path / "run"])),
        check=False,
        cwd=tmp_path,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.slow
def test_a_run_that_streams_where_no_socket_has_room(tmp_path, digit_pictures):
    folder = tmp_path / ("x" * 100)
    folder.mkdir()
    done = stream(tmp_path, digit_pictures({"train": 40}), TMPDIR=str(folder))
    assert done.returncode == 0 and "read batch by batch" in done.stdout, done.stderr


@pytest.mark.slow
def test_a_run_that_streams_without_shared_memory(tmp_path, digit_pictures):
    mounted = 'mount -t tmpfs -o ro none /dev/shm && exec "$@"'
    apart = ["unshare", "-m", "sh", "-c", mounted, "sh"]
    if not shutil.which("unshare") or subprocess.run([*apart, "true"], check=False).returncode:
        pytest.skip("only root may mount")
    done = stream(tmp_path, digit_pictures({"train": 40}), *apart)
    assert done.returncode == 0 and "read batch by batch" in done.stdout, done.stderr
