"""From launch to saved checkpoint, whole process, by phase, and what the network is worth then.

python -m benchmarks.time_to_accuracy                    # ten seeds, and the plain loop once
python -m benchmarks.time_to_accuracy --config mnist.yaml --seeds 3 --plain 0

`seconds` is the time from the launch of `python train.py` until last.pt is on disk, `to_exit` until
the process has ended; `of_import` is that divided by what a process takes that imports torch and
does nothing, launched in turn. The phases are those of run.json; what is before the first of them
and between them is `other`. The plain loop (benchmarks/plain.py) is timed from its launch until it
says that an epoch ended at 99 % of the test images.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.measure import report
from nanocnn.evaluation.metrics import mean_of_seeds
from nanocnn.system.errors import exit_code

PROJECT = Path(__file__).parent.parent
BARE = "import gc, os; gc.disable(); import torch; os._exit(0)"


def bare_import() -> float:
    """Seconds of a process that imports torch alone, as fast as that can be."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", BARE], check=True)
    return time.perf_counter() - start


def run(config: str, seed: int, folder: Path) -> dict[str, Any]:
    """Train and judge once; seconds by phase and the accuracy on the test images."""
    run_dir = folder / f"seed_{seed}"
    command = [
        sys.executable,
        str(PROJECT / "train.py"),
        "--config",
        config,
        "--run-dir",
        str(run_dir),
    ]
    launched, start = time.time(), time.perf_counter()
    subprocess.run([*command, f"seed={seed}"], check=True, stdout=subprocess.DEVNULL)
    to_exit = time.perf_counter() - start
    bare = bare_import()
    to_checkpoint = (run_dir / "last.pt").stat().st_mtime - launched
    phases = json.loads((run_dir / "run.json").read_text())["seconds"]
    judge = [sys.executable, str(PROJECT / "test.py"), "--ckpt", str(run_dir), "--json", "-"]
    judged = subprocess.run(judge, check=True, stdout=subprocess.PIPE, text=True)
    return {
        "seed": seed,
        "accuracy": json.loads(judged.stdout)["accuracy"],
        "seconds": to_checkpoint,
        **phases,
        "other": to_checkpoint - sum(phases.values()),
        "to_exit": to_exit,
        "bare_import": bare,
        "of_import": to_exit / bare,
    }


def plain(seed: int) -> tuple[float, list[dict[str, Any]]]:
    """Seconds from the launch of the plain loop to 99 %, and its epochs."""
    command = [sys.executable, "-m", "benchmarks.plain", "--seed", str(seed)]
    start = time.perf_counter()
    with subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        epochs, seconds = [], 0.0
        for line in process.stdout:
            if line.startswith("{"):  # an epoch has ended
                epochs.append(json.loads(line))
                seconds = time.perf_counter() - start
    if process.returncode != 0 or epochs[-1]["accuracy"] < 0.99:
        raise SystemExit(f"the plain loop did not come to 99 %: {epochs}")
    return seconds, epochs


def main() -> None:
    parser = argparse.ArgumentParser(
        "time_to_accuracy.py", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--config", default="mnist_fast.yaml", help="default: mnist_fast.yaml")
    parser.add_argument("--seeds", type=int, default=10, help="default: 10")
    parser.add_argument("--plain", type=int, default=1, help="seeds of the plain loop; default: 1")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = [run(args.config, seed, Path(folder)) for seed in range(args.seeds)]
    seconds = statistics.median(row["seconds"] for row in rows)
    facts: dict[str, Any] = {"config": args.config, "median_seconds": seconds}
    facts["median_of_import"] = statistics.median(row["of_import"] for row in rows)
    facts["accuracy"] = str(mean_of_seeds([row["accuracy"] for row in rows]))
    if args.plain:
        times, epochs = zip(*[plain(seed) for seed in range(args.plain)], strict=True)
        facts |= {"plain_seconds": times, "plain_epochs": epochs}
        facts["times_as_fast"] = statistics.median(times) / seconds
    report(f"time_to_accuracy_{Path(args.config).stem}", rows, **facts)


if __name__ == "__main__":
    sys.exit(exit_code(main))
