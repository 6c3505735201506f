"""How many images a second the seed network is trained on, beside two yardsticks.

python -m benchmarks.throughput              # five rounds, batches of 256

Whole loops in processes of their own, in turn: the plain loop as everyone writes it
(benchmarks/plain.py), the plain loop tuned (benchmarks/plain_tuned.py), and configs/mnist.yaml with
its random shift, in bf16 and in float32. Of each the fastest epoch of training alone; of the rounds
medians, and ratios of those. The yardsticks are frozen: they are refused where they have changed.
"""

import argparse
import hashlib
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from benchmarks.measure import report
from nanocnn.system.errors import UserError, exit_code
from nanocnn.training.device import multiplies_bf16

FOLDER = Path(__file__).parent
FROZEN = {
    "plain": "5be5903ebbdb2114231d8f33f10cd3c313461835022389bcd59c7ce65c1362cf",
    "plain_tuned": "7846069558016f969fb8c41abbcafc32d0959a07c8dab70562fa2382957606b6",
}


def check_yardsticks() -> None:
    """Raises UserError where a yardstick is no longer what earlier figures were measured with."""
    for name, expected in FROZEN.items():
        path = FOLDER / f"{name}.py"
        if hashlib.sha256(path.read_bytes()).hexdigest() != expected:
            raise UserError(
                f"{path}: changed, so that ratios to it mean something else than before"
            )


def fastest(lines: list[str]) -> float:
    return max(json.loads(line)["images_per_second"] for line in lines if line.startswith("{"))


def yardstick(name: str, *options: str) -> float:
    command = [sys.executable, "-m", f"benchmarks.{name}", *options]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return fastest(done.stdout.splitlines())


def own(precision: str, batch_size: str) -> float:
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder, "run")
        options = [f"train.batch_size={batch_size}", "train.epochs=2", f"precision={precision}"]
        command = [sys.executable, "train.py", "--config", "mnist.yaml", "--run-dir", str(run)]
        subprocess.run([*command, *options], check=True, stdout=subprocess.DEVNULL)
        return fastest((run / "metrics.jsonl").read_text().splitlines())


def main() -> None:
    parser = argparse.ArgumentParser(
        "throughput.py", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--rounds", type=int, default=5, help="default: 5")
    parser.add_argument("--batch-size", default="256", help="default: 256")
    args = parser.parse_args()
    check_yardsticks()
    size = ["--batch-size", args.batch_size]
    precisions = ["fp32"]
    if multiplies_bf16(torch.device("cpu")):
        precisions.insert(0, "bf16")
    else:
        print("this processor has no instructions for bf16: float32 alone")
    kinds = {
        "plain": lambda: yardstick("plain", "--epochs", "1", *size),
        "tuned": lambda: yardstick("plain_tuned", "--precision", precisions[0], *size),
    }
    rates: dict[str, list[float]] = {name: [] for name in (*kinds, *precisions)}
    for _ in range(args.rounds):
        for name, measure in kinds.items():
            rates[name].append(measure())
        for precision in precisions:
            rates[precision].append(own(precision, args.batch_size))
        print({name: round(values[-1]) for name, values in rates.items()}, flush=True)
    medians = {name: statistics.median(values) for name, values in rates.items()}
    rows = [
        {
            "loop": name,
            "images_per_second": rate,
            "times_plain": rate / medians["plain"],
            "times_tuned": rate / medians["tuned"],
        }
        for name, rate in medians.items()
    ]
    report(f"throughput_{args.batch_size}", rows, rounds=rates)


if __name__ == "__main__":
    sys.exit(exit_code(main))
