"""What the loop costs over the bare training step: batches, augmentation, logging, curves, progress bar and sums.

python -m benchmarks.loop                                         # mnist.yaml, five epochs of 10,000 images
python -m benchmarks.loop --config mnist_fast.yaml --images 20000

Bare steps on one batch and an epoch of `train()`, the real one with its run folder, take turns in one process.
Passes over validation images, checkpoints and the start of the run do not count.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import torch

from benchmarks.measure import report
from benchmarks.step import train_step
from configure import load_config
from dataset import Batches, data_info, load_splits
from device import pick_device, pick_memory_format, pick_precision, use_cpu_well
from errors import exit_code
from fused import fuse_pooling
from network import build_network
from optimizer import build_optimizer
from train import train


def main() -> None:
    parser = argparse.ArgumentParser("loop.py", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--config", default="mnist.yaml", help="default: mnist.yaml")
    parser.add_argument("--images", type=int, default=10_000, help="an epoch; default: 10,000")
    parser.add_argument("--rounds", type=int, default=5, help="default: 5")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    args = parser.parse_intermixed_args()
    config = load_config(
        args.config,
        ["train.epochs=1", f"data.limit={args.images}", "data.validation=0.1", *args.overrides],
    )
    use_cpu_well()
    device = pick_device(config.device)
    precision = pick_precision(config.precision, device)
    memory_format = pick_memory_format(config.train.channels_last, device, precision)
    split = load_splits(config.data, config.seed)["train"]
    info = data_info(config.data, split)
    model = build_network(config, info)
    model = model.to(device, memory_format=memory_format)  # type: ignore[call-overload]
    optimizer = build_optimizer(config.optimizer, model)
    network = fuse_pooling(model, info.image_shape).train()
    batches = Batches(split, info, config.train.batch_size, device)
    images, labels = next(iter(batches))
    for group in optimizer.param_groups:
        group["lr"] = 0.0  # the same batch again and again: it must not diverge

    rows = []
    for number in range(1, args.rounds + 1):
        start = time.perf_counter()
        for _ in range(len(batches)):
            train_step(network, optimizer, precision, images, labels)
        bare = time.perf_counter() - start
        with tempfile.TemporaryDirectory() as folder, redirect_stdout(StringIO()):
            run_dir = train(config, Path(folder, "run"))
            seconds = json.loads((run_dir / "run.json").read_text())["seconds"]["training"]
        rows.append(
            {
                "round": number,
                "steps": len(batches),
                "bare_ms_a_step": 1000 * bare / len(batches),
                "loop_ms_a_step": 1000 * seconds / len(batches),
                "overhead": seconds / bare - 1,
            }
        )
    overhead = statistics.median(float(row["overhead"]) for row in rows)
    report("loop", rows, config=args.config, threads=torch.get_num_threads(), overhead=overhead)


if __name__ == "__main__":
    sys.exit(exit_code(main))
