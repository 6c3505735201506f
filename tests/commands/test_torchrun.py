"""torchrun itself: signals to it, a process that is killed, a machine that is lost."""

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from uuid import uuid4

import pytest
from conftest import PROJECT, SHORT, differences_of_runs, heed_signals
from several import Several, run

from benchmarks.kill_together import of_launch, workers
from nanocnn.run.checkpoint import load_checkpoint
from nanocnn.run.folder import read_facts

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="processes are found in /proc"),
]

RUN = ["--config", "digits.yaml", "name=mine", *SHORT]
RUN += ["train.checkpoint_every=2", "log.pictures=never", "precision=fp32"]


def two_processors():
    """So that each of two processes has one thread, on any machine."""
    heed_signals()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])


class Torchrun:
    def __init__(self, folder, *arguments, run_id):
        self.log, self.run_id = Path(folder, f"{uuid4().hex}.log"), run_id
        command = [sys.executable, "-m", "torch.distributed.run", "--rdzv-backend", "c10d"]
        command += ["--rdzv-id", run_id, "--signals-to-handle=SIGTERM,SIGINT,SIGUSR1", *arguments]
        environment = {key: os.environ[key] for key in os.environ if key != "OMP_NUM_THREADS"}
        self.process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment | {"PYTHONPATH": str(PROJECT)},
            stdout=self.log.open("w"),
            stderr=subprocess.STDOUT,
            preexec_fn=two_processors,  # noqa: PLW1509  it only sets what the child has
        )

    def workers(self):
        return workers(self.process.pid)

    def text(self):
        return self.log.read_text()

    def left(self):
        """Processes that it, or another with its id, has started and that are still there."""
        return of_launch(self.run_id)


def wait_until(holds, seconds=60):
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.05)


def step_of(folder):
    runs = [*Path(folder, "runs/mine").glob("*/last.pt")]
    return load_checkpoint(runs[0])["step"] if runs else 0


def facts_of(folder):
    (run,) = Path(folder, "runs/mine").iterdir()
    return read_facts(run)


@pytest.fixture
def torchrun(tmp_path):
    """Starts one in this folder; none is left at the end of the test."""
    started = []

    def start(*arguments, run_id):
        started.append(Torchrun(tmp_path, *arguments, run_id=run_id))
        return started[-1]

    yield start
    for each in started:
        each.process.kill()
        each.process.wait()
        for pid in each.left():
            os.kill(pid, signal.SIGKILL)


def test_signals_to_torchrun_and_a_worker_that_is_killed(tmp_path, torchrun):
    command = ["--nproc-per-node", "2", "--max-restarts", "2", "--rdzv-endpoint", "localhost:0"]
    command += [str(PROJECT / "train.py"), *RUN, "train.epochs=20"]
    run_id = uuid4().hex
    first = torchrun(*command, run_id=run_id)
    wait_until(lambda: step_of(tmp_path) >= 12)
    first.process.send_signal(signal.SIGUSR1)
    assert first.process.wait(30) == 1, "torchrun's own, whatever its workers say"
    assert facts_of(tmp_path)["exit_reason"].startswith("Stopped: SIGUSR1") and not first.left()
    stopped = step_of(tmp_path)

    again = torchrun(*command, run_id=run_id)
    wait_until(lambda: step_of(tmp_path) > stopped + 10)
    os.kill(again.workers()[1], signal.SIGTERM)
    wait_until(lambda: again.text().count("resuming after step") == 2)
    assert "stopped by SIGTERM" in again.text(), "the others have stopped with it, and saved"
    os.kill(again.workers()[1], signal.SIGKILL)
    assert again.process.wait(60) == 0, again.text()
    assert again.text().count("resuming after step") == 3 and not again.left()
    facts = facts_of(tmp_path)
    assert facts["exit_reason"] == "finished" and facts["torchrun_id"] == run_id
    assert facts["threads"] == 1 and facts["processes"] == 2

    undisturbed = [*RUN, "train.epochs=20", "--run-dir", tmp_path / "undisturbed"]
    assert [child.code for child in Several(2, partial(run, undisturbed, None)).wait()] == [0, 0]
    (folder,) = (tmp_path / "runs/mine").iterdir()
    assert differences_of_runs(folder, tmp_path / "undisturbed") == []


def test_a_machine_that_is_lost(tmp_path, torchrun):
    """Two agents stand for two machines; the first keeps the store in which all meet."""
    port = 20_000 + os.getpid() % 10_000
    conf = "last_call_timeout=2,keep_alive_interval=2,keep_alive_max_attempt=3"
    command = ["--nnodes", "1:2", "--nproc-per-node", "1", "--max-restarts", "5"]
    command += ["--rdzv-endpoint", f"localhost:{port}", "--rdzv-conf", conf]
    command += [str(PROJECT / "train.py"), *RUN, "train.epochs=9000"]
    run_id = uuid4().hex
    first = torchrun(*command, run_id=run_id)
    time.sleep(1)
    second = torchrun(*command, run_id=run_id)
    wait_until(lambda: step_of(tmp_path) >= 6)
    assert facts_of(tmp_path)["processes"] == 2
    first.process.kill()
    assert second.process.wait(60) != 0, "it has lost the store"
    wait_until(lambda: not second.left())
    stopped = step_of(tmp_path)

    first = torchrun(*command, run_id=run_id)
    time.sleep(1)
    second = torchrun(*command, run_id=run_id)
    wait_until(lambda: step_of(tmp_path) > stopped)
    assert "resuming after step" in first.text() + second.text()
    second.process.kill()
    wait_until(lambda: facts_of(tmp_path).get("processes") == 1)
    stopped = step_of(tmp_path)
    wait_until(lambda: step_of(tmp_path) > stopped + 6)
    first.process.send_signal(signal.SIGTERM)
    assert first.process.wait(30) == 1 and not first.left()
    assert facts_of(tmp_path)["exit_reason"].startswith("Stopped: SIGTERM")
