"""Whether what is said at the end of a training is said where it should be, and nowhere else.

python -m benchmarks.remarks                     # runs of digits, made to show each remark
python -m benchmarks.remarks --config mnist.yaml data.root=data   # one that should show none

Each is trained with ten seeds, from 0 on.
"""

import json
import sys
from argparse import ArgumentParser
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory

from model import MODELS
from nanocnn.config.load import read_draft
from nanocnn.networks.build import catalogue
from nanocnn.run.resume import Place
from train import train

CONSTANT = "schedule.name=constant"
SHOWN = {  # what a remark has in it, and a run made to show it
    "by heart": [
        *("data.limit=200", "data.validation=0.8", "data.augment.shift=0", "train.batch_size=20"),
        *("train.epochs=300", CONSTANT, "optimizer={name: adam, lr: 0.003}", "log.pictures=never"),
    ],
    "still falls": ["train.epochs=6", CONSTANT, "optimizer={name: sgd, lr: 0.003}"],
    "rose in warm-up": [
        *("train.epochs=10", "optimizer={name: adam, lr: 0.1}"),
        "schedule={name: one_cycle, warmup: 0.5}",
    ],
    "never predicted": ["train.epochs=1", CONSTANT, "optimizer={name: sgd, lr: 0.0005}"],
    "are dead": [
        *("train.epochs=3", CONSTANT, "optimizer={name: adam, lr: 0.3}"),
        "model={name: mlp, hidden: [64, 64]}",
    ],
}


def remarks_of(config: str, overrides: list[str], seed: int) -> list[str]:
    """What is said at the end of such a run."""
    networks = catalogue(MODELS)
    checked = read_draft(config, [*overrides, f"seed={seed}"]).check(networks)
    with TemporaryDirectory() as folder:
        run_dir = Path(folder) / "run"
        with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            train(checked, Place(run_dir))
        return json.loads((run_dir / "run.json").read_text())["remarks"]


def main() -> None:
    parser = ArgumentParser("remarks.py", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--config", help="one that should show none; default: those made to")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("overrides", nargs="*")
    args = parser.parse_args()
    if args.config:
        said = [remarks_of(args.config, args.overrides, seed) for seed in range(args.seeds)]
        silent = sum(not each for each in said)
        print(f"{args.config}: nothing said of {silent} of {args.seeds} seeds")
        for remark in sorted({remark for each in said for remark in each}):
            print(f"  {remark}")
        sys.exit(silent < args.seeds)
    for words, overrides in SHOWN.items():
        said = [remarks_of("digits.yaml", overrides, seed) for seed in range(args.seeds)]
        count = sum(any(words in remark for remark in each) for each in said)
        print(f"{words!r}: {count} of {args.seeds} seeds")


if __name__ == "__main__":
    main()
