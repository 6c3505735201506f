"""Whether bf16 suits a network here: how fast it is, and what it costs in accuracy.

python -m benchmarks.precision --config mnist.yaml                       # speed alone
python -m benchmarks.precision --config mnist.yaml --seeds 10 train.epochs=2   # accuracy too

Speed is that of steps of one batch in float32 and bf16, in turn (see benchmarks/networks.py). With
--seeds each seed is trained in both; the test images are judged once a run, in the precision of its
training, and the differences are paired. What bf16 makes slower where a processor has instructions
for it, as networks with depthwise convolutions, `auto` trains in float32: `suited_to` in
nanocnn/training/device.py.
"""

import argparse
import statistics
import sys
import tempfile
from collections.abc import Callable
from contextlib import redirect_stdout
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from scipy.stats import t

from benchmarks.measure import report
from benchmarks.networks import PRECISIONS, alternated
from model import MODELS
from nanocnn.config.load import load_config
from nanocnn.config.schema import Config
from nanocnn.evaluation.evaluate import evaluate
from nanocnn.images.batches import Batches
from nanocnn.images.splits import load_split
from nanocnn.images.training_data import TrainingData
from nanocnn.networks.build import build_network, catalogue
from nanocnn.run.restore import restore
from nanocnn.run.resume import Place
from nanocnn.system.errors import exit_code
from nanocnn.system.startup import prepare_process
from nanocnn.training.device import Computing, pick_computing
from nanocnn.training.learner import Learner
from train import train

CPU = torch.device("cpu")
NETWORKS = catalogue(MODELS)


def gain(config: Config, rounds: int) -> float:
    """How many steps in bf16 take the time of one in float32."""
    data = TrainingData(config, CPU)
    _, images, labels = next(data.epoch(1))
    steps: dict[str, Callable[[], object]] = {}
    for kind, precision in PRECISIONS.items():
        model = build_network(config, NETWORKS, data.info.image_shape, len(data.info.classes))
        learner = Learner(model, config, data.info, Computing(CPU, precision, torch.channels_last))
        steps[kind] = partial(learner.step, images, labels, 1e-4)
    seconds = alternated(steps, rounds)
    return seconds["fp32"] / seconds["bf16"]


def accuracy(config: Config, folder: Path) -> float:
    """Of the test images, in percent, after a run."""
    with redirect_stdout(StringIO()):
        run = train(config, Place(folder))
    restored = restore(run, networks=NETWORKS)
    computing = pick_computing(restored.config, "cpu")
    test = load_split("test", restored.config.data, restored.config.seed, restored.info, run)
    batches = Batches(test, restored.info, 500, CPU)
    model = computing.place(restored.model)
    return 100 * evaluate(model, batches, precision=computing.precision).accuracy


def main() -> None:
    parser = argparse.ArgumentParser("precision.py", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--config", default="mnist.yaml", help="default: mnist.yaml")
    parser.add_argument("--seeds", type=int, default=0, help="pairs of runs; default: none")
    parser.add_argument("--rounds", type=int, default=30, help="of steps; default: 30")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    args = parser.parse_intermixed_args()
    config = load_config(args.config, args.overrides, networks=NETWORKS)
    prepare_process()
    facts: dict[str, Any] = {"bf16 is faster by": gain(config, args.rounds)}
    rows = []
    for seed in range(args.seeds):
        row: dict[str, Any] = {"seed": seed}
        for kind in PRECISIONS:
            one = config.model_copy(update={"seed": seed, "precision": kind})
            with tempfile.TemporaryDirectory() as folder:
                row[kind] = accuracy(one, Path(folder, "run"))
        rows.append(row | {"difference": row["bf16"] - row["fp32"]})
        print(rows[-1], flush=True)
    if args.seeds > 1:
        differences = [row["difference"] for row in rows]
        mean = statistics.mean(differences)
        error = statistics.stdev(differences) / len(differences) ** 0.5
        half = float(t.ppf(0.975, len(differences) - 1)) * error
        facts |= {"mean difference, points": mean, "95 % from": mean - half, "to": mean + half}
    name = Path(args.config).stem
    report(f"precision_{name}", rows or [{"config": args.config}], **facts)
    if facts["bf16 is faster by"] < 1:
        print("bf16 is slower: Computing.suited_to should know this kind of network")


if __name__ == "__main__":
    sys.exit(exit_code(main))
