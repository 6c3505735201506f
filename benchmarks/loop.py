"""What the loop costs over the bare training step: batches, augmentation, logging, curves, progress bar and sums.

python -m benchmarks.loop                                         # an epoch of mnist.yaml
python -m benchmarks.loop --config mnist_fast.yaml

`train()`, the real one with its run folder, is stopped after every 25 steps for as many bare steps on one batch, so
that both meet the same neighbours on a shared machine. Curves get a point every 25 steps too, twice as often as by
default. Passes over validation images, checkpoints and the start of the run do not count.
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
from configure import load_config
from dataset import Batches, data_info, load_splits
from device import pick_computing
from errors import exit_code
from fused import fuse_pooling
from network import build_network
from optimizer import build_optimizer
from signals import StopRequest
from train import train

BLOCK = 25  # steps


def main() -> None:
    parser = argparse.ArgumentParser("loop.py", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--config", default="mnist.yaml", help="default: mnist.yaml")
    parser.add_argument("--images", type=int, default=60_000, help="default: 60,000")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    args = parser.parse_intermixed_args()
    config = load_config(
        args.config,
        [
            "train.epochs=1",
            f"data.limit={args.images}",
            "data.validation=0.1",
            f"log.every={BLOCK}",
            *args.overrides,
        ],
    )
    device, precision, memory_format = pick_computing(config)
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

    pairs: list[tuple[float, float]] = []
    began = 0.0
    done = 0

    def stop(self: StopRequest) -> None:
        """In the place of what the loop calls at the end of each step."""
        nonlocal began, done
        check(self)
        done += 1
        if done % BLOCK or done > len(batches):  # a check between validation batches is no step
            return
        loop = time.perf_counter() - began
        start = time.perf_counter()
        for _ in range(BLOCK):
            train_step(network, optimizer, precision, images, labels)
        bare = time.perf_counter() - start
        if done > BLOCK:  # the first is warming up
            pairs.append((loop, bare))
        began = time.perf_counter()

    check = StopRequest.check
    with (
        tempfile.TemporaryDirectory() as folder,
        patch.object(StopRequest, "check", stop),
        redirect_stdout(StringIO()),
    ):
        train(config, Path(folder, "run"))
    row = {
        "blocks": len(pairs),
        "bare_ms_a_step": 1000 * statistics.median(bare for _, bare in pairs) / BLOCK,
        "loop_ms_a_step": 1000 * statistics.median(loop for loop, _ in pairs) / BLOCK,
        "overhead": statistics.median(loop / bare for loop, bare in pairs) - 1,
    }
    report(f"loop_{Path(args.config).stem}", [row])


if __name__ == "__main__":
    sys.exit(exit_code(main))
