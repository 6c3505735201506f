"""Find a learning rate: train for an epoch with one that grows from step to step, and draw the loss.

python find_lr.py --config mnist.yaml                # writes lr.png into runs/<name>/find_lr_<time>/
python find_lr.py --config mnist.yaml --from 1e-4 --to 1 --steps 200

Source: L. N. Smith, Cyclical Learning Rates for Training Neural Networks (2017), section 3.3, the range test.
Only training images are used.
"""

from __future__ import annotations

import math
import sys
from argparse import RawDescriptionHelpFormatter
from pathlib import Path
from typing import TYPE_CHECKING

from errors import ArgumentParser, UserError, exit_code

if TYPE_CHECKING:
    from config import Config

SMOOTHING = 0.95  # share of the mean loss that each step keeps
EXPLODED = 4.0  # times the lowest loss: larger learning rates tell nothing


def range_test(
    config: Config, low: float, high: float, steps: int
) -> tuple[list[float], list[float]]:
    """Learning rates from `low` to `high`, evenly on a log scale, and the smoothed loss at each.

    It ends where the loss explodes.
    """
    from itertools import chain, count, islice

    import torch

    from dataset import Batches, data_info, load_splits
    from device import pick_computing
    from engine import train_one_epoch
    from fused import fuse_pooling
    from loss import build_loss
    from network import build_network, fit_whitening
    from optimizer import build_optimizer

    device, precision, memory_format = pick_computing(config)
    split = load_splits(config.data, config.seed)["train"]
    info = data_info(config.data, split)
    batches = Batches(split, info, config.train.batch_size * config.train.accumulate, device)
    torch.manual_seed(config.seed)
    model = build_network(config, info).to(device, memory_format=memory_format)  # type: ignore[call-overload]
    fit_whitening(model, batches)
    optimizer = build_optimizer(config.optimizer, model)
    epochs = (
        batches.shuffled(config.seed, epoch, config.data.augment, 0, config.data.sampling)
        for epoch in count()
    )
    some = islice(chain.from_iterable(epochs), steps)

    def lr_at(step: int) -> float:
        return low * (high / low) ** (step / (steps - 1))

    lrs: list[float] = []
    losses: list[float] = []
    mean = 0.0
    loss_fn = build_loss(config.loss, info).to(device)
    fused = fuse_pooling(model, info.image_shape)
    updates = train_one_epoch(fused, some, loss_fn, optimizer, lr_at, precision, config.train)
    for n, update in enumerate(updates, start=1):
        mean = SMOOTHING * mean + (1 - SMOOTHING) * update.loss.item()
        smoothed = mean / (1 - SMOOTHING**n)  # as if it had not begun at zero
        if not math.isfinite(smoothed) or (losses and smoothed > EXPLODED * min(losses)):
            break
        lrs.append(update.lr)
        losses.append(smoothed)
    return lrs, losses


def suggestion(lrs: list[float], losses: list[float]) -> float:
    """The learning rate at which the loss falls steepest, over the log of the learning rate.

    Raises UserError where it never falls.
    """
    import numpy as np

    if len(lrs) < 3:
        raise UserError("the loss explodes at once: try a smaller --from")
    slopes = np.gradient(np.array(losses), np.log(lrs))
    end = int(np.argmin(losses)) + 1
    if end < 3 or slopes[:end].min() >= 0:
        raise UserError(
            "the loss does not fall anywhere: try --from and --to, or look at the config"
        )
    return lrs[int(np.argmin(slopes[:end]))]


def draw(path: Path, lrs: list[float], losses: list[float], best: float) -> None:
    import matplotlib

    matplotlib.use("Agg")  # no window
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.5), layout="constrained")
    axes.plot(lrs, losses)
    axes.axvline(best, color="tab:orange", linestyle="--", label=f"steepest fall: {best:.2g}")
    axes.set(xscale="log", xlabel="learning rate", ylabel="smoothed training loss")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def main() -> None:
    summary, _, details = (__doc__ or "").strip().partition("\n\n")
    parser = ArgumentParser(
        "find_lr.py",
        description=summary,
        epilog=details,
        formatter_class=RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--config", default="digits.yaml", metavar="FILE", help="default: digits.yaml"
    )
    parser.add_argument(
        "--from", dest="low", type=float, default=1e-5, metavar="LR", help="default: 1e-5"
    )
    parser.add_argument(
        "--to", dest="high", type=float, default=10.0, metavar="LR", help="default: 10"
    )
    parser.add_argument("--steps", type=int, default=200, metavar="N", help="default: 200")
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="change any key of the config"
    )
    args = parser.parse_intermixed_args()
    if not 0 < args.low < args.high < math.inf:
        raise UserError(f"--from {args.low:g} --to {args.high:g}: should be 0 < from < to")
    if args.steps < 20:
        raise UserError(f"--steps {args.steps}: should be at least 20")

    from configure import load_config
    from run_dir import create_dated_dir

    config = load_config(args.config, args.overrides)
    lrs, losses = range_test(config, args.low, args.high, args.steps)
    best = suggestion(lrs, losses)
    path = create_dated_dir(config, "find_lr_") / "lr.png"
    draw(path, lrs, losses, best)
    print(
        f"the loss falls steepest at lr {best:.2g}, and is lowest at {lrs[losses.index(min(losses))]:.2g}"
    )
    print(f"{path} shows it; one_cycle bears about that as its peak: optimizer.lr={best:.2g}")


if __name__ == "__main__":
    sys.exit(exit_code(main))
