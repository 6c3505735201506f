"""Ask train.py to stop at random moments, from the first one on, and see that it does as it says.

    python -m benchmarks.signals                # 300 signals
    python -m benchmarks.signals --count 6

Each is a real `python train.py` of a short run on digits, or on pictures that worker processes
read, which is sent SIGINT, SIGTERM, SIGHUP, SIGUSR1, SIGUSR2 or SIGXCPU: while it starts, from the
first moment on; in the run, with a checkpoint every few steps; or as it ends. Half of the signals
go to its children too, as those of a terminal do. It has to end in 128 + the signal, or in 0 where
it had finished. Before its first statement, when Python has the signals, it may die of one. In no
case may a process be left, or a traceback shown. If there is a run folder, its checkpoints have to
be whole, and the run has to go on from there to the very weights of one that nobody disturbed. The
last line is the result as JSON; exit code 1 if anything was wrong.
"""

import argparse
import contextlib
import io
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_digits

from benchmarks.kill import values
from model import MODELS
from nanocnn.config.load import load_config
from nanocnn.networks.build import catalogue
from nanocnn.run.checkpoint import load_checkpoint
from nanocnn.run.resume import Place, how_it_ended, resume_newest
from nanocnn.system.signals import NAMES
from train import train

PROJECT = Path(__file__).parent.parent
NUMBERS = [getattr(signal, name) for name in NAMES]
SHORT = ["train.epochs=3", "train.batch_size=16", "train.checkpoint_every=5"]
# what is printed when a phase begins; then it takes at most so many times as long as that of a run
# that nobody disturbs
PHASES = {"start": "", "run": "; writing to", "end": "best.pt:"}


class Child(NamedTuple):
    """A training process in a session of its own, and how it ended."""

    number: int  # of the signal that it was sent
    was_asked: bool  # it had taken the signals by then
    code: int
    error: str
    orphans: int

    @property
    def ending(self) -> str:
        names = {0: "finished", 128 + self.number: "128 + signal", -self.number: "by the signal"}
        return names.get(self.code, f"exit {self.code}")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--count", type=int, default=300, help="of signals")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    args = parser.parse_args()

    for number in NUMBERS:  # a shell lets what is in the background ignore SIGINT, nohup SIGHUP
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    moments = random.Random(args.seed)
    endings: Counter[tuple[str, str]] = Counter()
    wrong = 0
    began = time.perf_counter()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        kinds = {"digits": [*SHORT, "data.limit=300"], "pictures": [*SHORT, *pictures(folder)]}
        lengths = {kind: measure(options, folder / kind) for kind, options in kinds.items()}
        for i in range(args.count):
            kind, phase = "pictures" if i % 4 == 3 else "digits", [*PHASES][i % 3]
            number, wait = moments.choice(NUMBERS), moments.uniform(0, lengths[kind][phase])
            run_dir = folder / f"run{i}"
            child = disturb(start(kinds[kind], run_dir), number, phase, wait, moments)
            endings[phase, child.ending] += 1
            problems = judge(child) + look_into(run_dir, kinds[kind], folder / kind, child)
            wrong += bool(problems)
            for problem in problems:
                print(f"{kind}, {number.name} {wait:.3f} s into {phase}: {problem}", flush=True)
            if (i + 1) % 20 == 0:
                print(f"{i + 1} signals, {wrong} wrong", flush=True)
    found = sorted({ending for _, ending in endings})
    print(f"{'phase':8}", *(f"{ending:>14}" for ending in found))
    for phase in PHASES:
        print(f"{phase:8}", *(f"{endings[phase, ending]:14}" for ending in found))
    report = {"signals": args.count, "wrong": wrong}
    report |= {ending: sum(endings[phase, ending] for phase in PHASES) for ending in found}
    print(json.dumps(report | {"seconds": round(time.perf_counter() - began)}))
    return 1 if wrong else 0


def pictures(folder: Path) -> list[str]:
    """Options that train on pictures in `folder`, which are written here and read by workers."""
    digits = load_digits(n_class=3)
    for number in range(60):
        path = folder / "data" / "train" / str(digits.target[number]) / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((digits.images[number] * 15).astype(np.uint8)).resize((28, 28)).save(path)
    return [
        "data.dataset=folder",
        f"data.root={folder / 'data'}",
        "data.memory_limit=100",
        "data.cache=false",
    ]


def start(options: list[str], run_dir: Path) -> subprocess.Popen[str]:
    command = [sys.executable, str(PROJECT / "train.py"), *options, "--run-dir", str(run_dir)]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=run_dir.parent,
        env=os.environ | {"OMP_NUM_THREADS": "1"},  # as this process: the weights are compared
        start_new_session=True,
    )


def measure(options: list[str], run_dir: Path) -> dict[str, float]:
    """Seconds that each phase takes of a run that nobody disturbs."""
    began = [time.perf_counter()]
    with start(options, run_dir) as child:
        assert child.stdout is not None
        for line in child.stdout:
            if any(mark and mark in line for mark in PHASES.values()):
                began.append(time.perf_counter())
    began.append(time.perf_counter())
    if child.returncode:
        raise SystemExit("the run that nobody disturbs failed")
    return {phase: began[i + 1] - began[i] for i, phase in enumerate(PHASES)}


def disturb(
    child: subprocess.Popen[str],
    number: signal.Signals,
    phase: str,
    wait: float,
    moments: random.Random,
) -> Child:
    """Send the signal so many seconds after the phase has begun, and wait for the end."""
    assert child.stdout is not None
    while phase != "start" and (line := child.stdout.readline()) and PHASES[phase] not in line:
        pass
    time.sleep(wait)
    was_asked = has_handler(child.pid)
    with contextlib.suppress(ProcessLookupError):
        send = os.killpg if moments.random() < 0.5 else os.kill
        send(child.pid, number)
    _, error = child.communicate(timeout=120)
    deadline = time.monotonic() + 10
    while (orphans := processes_of(child.pid)) and time.monotonic() < deadline:
        time.sleep(0.02)
    return Child(number, was_asked, child.returncode, error, orphans)


def has_handler(process: int) -> bool:
    """Whether the process has a handler of SIGTERM of its own."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:  # it has ended
        return False
    caught = int(status.partition("SigCgt:")[2].split()[0], 16)
    return bool(caught >> (signal.SIGTERM - 1) & 1)


def processes_of(leader: int) -> int:
    """How many of the processes are left that `leader`, which called setsid, has begun."""
    found = 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, _, its_leader = path.read_text().rpartition(")")[2].split()[:4]
            found += int(its_leader) == leader and state != "Z"
    return found


def judge(child: Child) -> list[str]:
    """What is wrong with how a process ended."""
    wrong = []
    if child.code not in (0, 128 + child.number, -child.number):
        wrong.append(f"exit {child.code}: {child.error[-500:]}")
    if child.was_asked and child.code == -child.number:
        wrong.append("it died of a signal that it had taken")
    if child.was_asked and ("Traceback" in child.error or "Error" in child.error):
        wrong.append(f"a traceback: {child.error[-2000:]}")
    if child.orphans:
        wrong.append(f"{child.orphans} processes are left")
    return wrong


def look_into(run_dir: Path, options: list[str], undisturbed: Path, child: Child) -> list[str]:
    """What is wrong with the run folder, if there is one, and with the run that goes on from it."""
    if not run_dir.exists():
        return ["no run folder, but exit 0"] if child.code == 0 else []
    networks = catalogue(MODELS)
    config = load_config("digits.yaml", options, networks=networks)
    try:
        for path in run_dir.glob("*.pt"):
            load_checkpoint(path)
        json.loads((run_dir / "run.json").read_bytes())
        place = resume_newest(config, run_dir, networks) or Place(run_dir)
    except (ValueError, OSError) as error:
        return [f"{type(error).__name__}: {error}"]
    wrong = [f".{path.name} is left" for path in run_dir.glob(".*.tmp")]
    if child.code == 0 and not how_it_ended(place, config):
        wrong.append("exit 0, but not finished")
    if not how_it_ended(place, config):
        with contextlib.redirect_stdout(io.StringIO()):
            train(config, place)
    pair = [load_checkpoint(run / "last.pt")["model"] for run in (run_dir, undisturbed)]
    if list(values(pair[0])) != list(values(pair[1])):
        wrong.append("it went on to other weights")
    return wrong


if __name__ == "__main__":
    sys.exit(main())
