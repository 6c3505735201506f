"""What the loop costs over the bare training step: batches, augmentation, logging, curves, progress
bar and sums.

python -m benchmarks.loop                                         # an epoch of mnist.yaml
python -m benchmarks.loop --config mnist_fast.yaml

`train()`, the real one with its run folder, is stopped after every 25 steps for as many bare steps
on one batch, so that both meet the same neighbours on a shared machine. Curves get a point every 25
steps too, twice as often as by default. Passes over validation images, checkpoints and the start of
the run do not count.
"""

import argparse
import statistics
import sys
import tempfile
import time
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from unittest.mock import patch

from benchmarks.measure import report
from benchmarks.step import train_step
from model import MODELS
from nanocnn.config.load import load_config
from nanocnn.images.training_data import TrainingData
from nanocnn.networks.build import build_network, catalogue
from nanocnn.networks.fast_view import fast_view
from nanocnn.run.resume import Place
from nanocnn.run.run import Run
from nanocnn.system.errors import exit_code
from nanocnn.system.startup import prepare_process
from nanocnn.training.device import pick_computing
from nanocnn.training.learner import StepResult
from nanocnn.training.optimizer import build_optimizer
from train import train

BLOCK = 25  # steps


def main() -> None:
    parser = argparse.ArgumentParser("loop.py", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--config", default="mnist.yaml", help="default: mnist.yaml")
    parser.add_argument("--images", type=int, default=60_000, help="default: 60,000")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    args = parser.parse_intermixed_args()
    networks = catalogue(MODELS)
    options = ["train.epochs=1", "data.validation=0.1", f"log.every={BLOCK}"]
    options += [f"data.limit={args.images}", *args.overrides]
    config = load_config(args.config, options, networks=networks)
    prepare_process()
    computing = pick_computing(config)
    data = TrainingData(config, computing.device)
    shape, classes = data.info.image_shape, len(data.info.classes)
    model = computing.place(build_network(config, networks, shape, classes))
    optimizer = build_optimizer(config.optimizer, model, shape)
    network = fast_view(model, shape).train()
    images, labels = next(iter(data.train))
    for group in optimizer.param_groups:
        group["lr"] = 0.0  # the same batch again and again: it must not diverge

    pairs: list[tuple[float, float]] = []
    began = 0.0

    def after_step(run: Run, step: int, lr: float, result: StepResult) -> None:
        """In the place of what the loop calls at the end of each step."""
        nonlocal began
        recorded(run, step, lr, result)
        done = step + 1
        if done % BLOCK:
            return
        loop = time.perf_counter() - began
        start = time.perf_counter()
        for _ in range(BLOCK):
            train_step(network, optimizer, computing.precision, images, labels)
        bare = time.perf_counter() - start
        if done > BLOCK:  # the first is warming up
            pairs.append((loop, bare))
        began = time.perf_counter()

    recorded = Run.after_step
    with (
        tempfile.TemporaryDirectory() as folder,
        patch.object(Run, "after_step", after_step),
        redirect_stdout(StringIO()),
    ):
        train(config, Place(Path(folder, "run")))
    row = {
        "blocks": len(pairs),
        "bare_ms_a_step": 1000 * statistics.median(bare for _, bare in pairs) / BLOCK,
        "loop_ms_a_step": 1000 * statistics.median(loop for loop, _ in pairs) / BLOCK,
        "overhead": statistics.median(loop / bare for loop, bare in pairs) - 1,
    }
    report(f"loop_{Path(args.config).stem}", [row])


if __name__ == "__main__":
    sys.exit(exit_code(main))
