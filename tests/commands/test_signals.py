"""A signal ends a script with 128 + its number, whenever it comes; of runs see tests/faults."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from conftest import PROJECT, after, heed_signals

from nanocnn.run import together
from nanocnn.run.run import Run
from nanocnn.system import signals
from nanocnn.system.files import Sealed
from nanocnn.system.signals import NAMES, StopRequest, handled, held_back

# As code of others does now and then: whatever is raised in it, it catches.
DEAF = """
import time
print("in", flush=True)
while True:
    try:
        time.sleep(60)
    except BaseException:
        pass
"""
SCRIPTS = {
    "train.py": [str(PROJECT / "train.py")],
    "test.py": [str(PROJECT / "test.py"), "--ckpt", "best.pt"],
    "model.py": [str(PROJECT / "model.py")],
    "find-lr": ["-m", "nanocnn", "find-lr"],
}
QUICK = ["data.limit=60", "train.epochs=1", "model={name: mlp, hidden: [8]}"]


def started(tmp_path, arguments):
    """A process that is in an import of torch, which takes whatever is raised in it."""
    (tmp_path / "torch.py").write_text(DEAF)
    (tmp_path / "best.pt").touch()
    process = subprocess.Popen(
        [sys.executable, *arguments],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{PROJECT}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heed_signals,  # noqa: PLW1509
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "in\n", process.communicate()
    return process


@pytest.mark.parametrize(
    "script, name", [*((script, "SIGINT") for script in SCRIPTS), *(("train.py", n) for n in NAMES)]
)
def test_a_signal_while_something_is_imported_raises_nothing(tmp_path, script, name):
    number = getattr(signal, name)
    process = started(tmp_path, SCRIPTS[script])
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    assert (process.returncode, error) == (128 + number, f"stopped by {name}\n")


def test_a_signal_that_is_ignored_stays_so_from_the_first_statement(tmp_path):
    code = (
        "import runpy, signal, sys\n"
        "signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        f"sys.path.insert(0, {str(PROJECT)!r})\n"
        f"runpy.run_path({str(PROJECT / 'train.py')!r}, run_name='__main__')"
    )
    process = started(tmp_path, ["-c", code])
    process.send_signal(signal.SIGHUP)
    time.sleep(0.2)
    process.send_signal(signal.SIGUSR1)
    assert process.wait(timeout=60) == 128 + signal.SIGUSR1


def test_a_process_that_ends_at_once_leaves_no_half_file(tmp_path):
    """Of whatever is being written: a report, a picture, a file from elsewhere."""
    code = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from nanocnn.system.files import replacing\n"
        "from nanocnn.system.signals import exit_on_signal\n"
        "exit_on_signal()\n"
        "with replacing(Path(sys.argv[1], 'report')) as file:\n"
        "    file.write(b'half')\n"
        "    os.kill(os.getpid(), signal.SIGTERM)"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path], check=False, cwd=PROJECT)
    assert done.returncode == 143 and not list(tmp_path.iterdir())


def test_a_dry_run_that_ends_at_once_leaves_no_folder(tmp_path):
    code = (
        "import os, signal, sys, train\n"
        "from nanocnn.images import training_data\n"
        "from nanocnn.system.errors import exit_code\n"
        "from nanocnn.system.signals import exit_on_signal\n"
        "exit_on_signal()\n"
        "training_data.load_splits = lambda *_: os.kill(os.getpid(), signal.SIGUSR2)\n"
        "sys.exit(exit_code(lambda: train.main(['--dry-run'])))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        check=False,
        cwd=PROJECT,
        env=os.environ | {"TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (128 + signal.SIGUSR2, "stopped by SIGUSR2\n")
    assert not list(tmp_path.iterdir())


def terminate():
    os.kill(os.getpid(), signal.SIGTERM)


def test_a_run_whose_folder_is_made_has_a_checkpoint_too(script, monkeypatch):
    after(monkeypatch, together, "announce_place", 1, terminate)
    stopped = script("train.py", *QUICK, "--run-dir", "run")
    assert stopped.code == 143 and Path("run/last.pt").exists()
    assert script("train.py", "--resume", "run").code == 0


def test_the_same_wish_twice_is_no_second_one(script, monkeypatch):
    """timeout sends SIGTERM to its child, and then to their group."""
    after(monkeypatch, Run, "after_step", 1, lambda: [terminate() for _ in range(3)])
    stopped = script("train.py", *QUICK, "--run-dir", "run")
    assert stopped.code == 143 and "--resume run goes on" in stopped.error


def test_a_limit_of_time_is_a_single_wish_however_often_it_is_sent(script, monkeypatch):
    """The kernel sends it once a second, and a checkpoint may take longer."""
    monkeypatch.setattr(signals, "ECHO", -1)
    for call in (1, 1, 1):
        after(monkeypatch, Run, "after_step", call, lambda: os.kill(os.getpid(), signal.SIGXCPU))
    stopped = script("train.py", *QUICK, "--run-dir", "run")
    assert stopped.code == 128 + signal.SIGXCPU and "--resume run goes on" in stopped.error
    assert script("train.py", "--resume", "run").code == 0


def test_a_signal_that_comes_too_late_for_a_run_is_not_lost(script, monkeypatch):
    """The last checkpoint is being written: the run is finished, but with --seeds more follow."""
    with monkeypatch.context() as patch:
        after(patch, Sealed, "write", 2, terminate)
        done = script("train.py", *QUICK, "--run-dir", "run")
    assert (done.code, "the run is finished" in done.error) == (0, True), done.error
    assert json.loads(Path("run/run.json").read_text())["exit_reason"] == "finished"
    with monkeypatch.context() as patch:
        after(patch, Sealed, "write", 2, terminate)
        stopped = script("train.py", *QUICK, "--seeds", "2", "--run-dir", "all")
    assert stopped.code == 143 and "--run-dir all --resume auto goes on" in stopped.error
    assert [path.name for path in Path("all").iterdir()] == ["seed_0"]


def test_a_signal_waits_while_processes_start_and_never_reaches_them():
    """A closed terminal sends SIGHUP to all; the servers of multiprocessing died of it."""
    request = StopRequest()
    with handled(request):
        with held_back():
            child = subprocess.Popen(["sleep", "0.3"])
            # to this thread: another one, of a library, would take it at once
            signal.pthread_kill(threading.get_ident(), signal.SIGTERM)
            assert request.number is None
        assert request.number == signal.SIGTERM
    for name in NAMES:
        child.send_signal(getattr(signal, name))
    assert child.wait(timeout=60) == 0


@pytest.mark.slow
def test_signals_at_random_moments():
    command = [sys.executable, "-m", "benchmarks.signals", "--count", "3"]
    done = subprocess.run(command, cwd=PROJECT, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["signals"] == 3 and report["wrong"] == 0
