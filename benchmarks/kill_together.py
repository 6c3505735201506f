"""Kill -9 one of several processes of a run, and let torchrun start them again.

    python -m benchmarks.kill_together              # 20 runs of two processes, one kill in each
    python -m benchmarks.kill_together --runs 3 --processes 3

A random worker is killed at a random moment, from its start on. Each run must end well, in the bits
of one that nothing disturbed, and leave no process behind. The last line is the result as JSON;
exit code 1 if anything was lost. Linux alone, where processes are found in /proc.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from uuid import uuid4

from benchmarks.kill import metrics, values
from nanocnn.run.checkpoint import load_checkpoint

PROJECT = Path(__file__).parent.parent
OPTIONS = ["data.limit=400", "train.epochs=40", "train.batch_size=40", "train.checkpoint_every=5"]
OPTIONS += ["data.augment.mixup=0.4", "log.pictures=never"]
OPTIONS += ["model={name: convnet, channels: [[8], [16]], norm: batch, dropout: 0.3}"]
LONGEST = 8.0  # seconds from the launch to the kill


def launch(processes: int, run_dir: Path, run_id: str) -> subprocess.Popen[bytes]:
    """torchrun, which starts its processes anew up to two times."""
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={processes}"]
    command += ["--max-restarts=2", "--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0"]
    command += [f"--rdzv-id={run_id}", "train.py", "--config", "digits.yaml"]
    with run_dir.with_suffix(".log").open("wb") as log:
        return subprocess.Popen(
            [*command, "--run-dir", str(run_dir), *OPTIONS],
            cwd=PROJECT,
            stdout=log,
            stderr=subprocess.STDOUT,
        )


def workers(agent: int) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{agent}/task/{agent}/children").read_text().split()]


def of_launch(run_id: str) -> list[int]:
    """All processes that still have this id in their environment."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            environment = (folder / "environ").read_bytes()
        except OSError:  # it has ended, or is another user's
            continue
        if f"TORCHELASTIC_RUN_ID={run_id}".encode() in environment.split(b"\0"):
            found.append(int(folder.name))
    return found


def is_equal(run_dir: Path, other: Path) -> bool:
    """Whether checkpoints and metrics of two runs are the same to the bit."""
    for name in ("last.pt", "best.pt"):
        one, two = (list(values(load_checkpoint(run / name))) for run in (run_dir, other))
        if one != two:
            return False
    return metrics(run_dir) == metrics(other)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    args = parser.parse_args()

    moments, began = random.Random(args.seed), time.perf_counter()
    killed = failed = different = orphaned = resumed = 0
    with tempfile.TemporaryDirectory() as folder:
        undisturbed = Path(folder, "undisturbed")
        if launch(args.processes, undisturbed, uuid4().hex).wait() != 0:
            raise SystemExit("the undisturbed run failed")
        for number in range(args.runs):
            run_dir, run_id = Path(folder, f"run{number}"), uuid4().hex
            agent = launch(args.processes, run_dir, run_id)
            while not (found := workers(agent.pid)) and agent.poll() is None:
                time.sleep(0.05)
            time.sleep(moments.uniform(0, LONGEST))
            if agent.poll() is None and (found := workers(agent.pid)):
                os.kill(moments.choice(found), signal.SIGKILL)
                killed += 1
            failed += agent.wait() != 0
            orphaned += len(of_launch(run_id))
            resumed += b"resuming after step" in run_dir.with_suffix(".log").read_bytes()
            different += not is_equal(run_dir, undisturbed)
            print(f"run {number + 1}: {killed} kills, {resumed} resumed, {different} different")
    report = {
        "runs": args.runs,
        "processes": args.processes,
        "kills": killed,
        "resumed": resumed,
        "failed": failed,
        "different": different,
        "orphaned": orphaned,
        "seconds": round(time.perf_counter() - began, 1),
    }
    print(json.dumps(report))
    return 1 if failed or different or orphaned else 0


if __name__ == "__main__":
    sys.exit(main())
