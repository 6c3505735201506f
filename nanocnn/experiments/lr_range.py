"""The range test: train with a learning rate that grows from step to step, and watch the loss.

Source: L. N. Smith, Cyclical Learning Rates for Training Neural Networks (2017), section 3.3.
"""

import math
from itertools import chain, count, islice
from typing import BinaryIO

import numpy as np

from nanocnn.config.schema import Config
from nanocnn.images.training_data import TrainingData
from nanocnn.networks.build import Networks, build_network
from nanocnn.networks.layers import fit_whitening
from nanocnn.run.origin import first_weights
from nanocnn.system.errors import UserError
from nanocnn.training.device import pick_computing
from nanocnn.training.learner import Learner

SMOOTHING = 0.95  # share of the mean loss that each step keeps
EXPLODED = 4.0  # times the lowest loss: larger learning rates tell nothing


def range_test(
    config: Config, networks: Networks, low: float, high: float, steps: int
) -> tuple[list[float], list[float]]:
    """Learning rates from `low` to `high`, evenly on a log scale, and the smoothed loss at each.

    It takes training images alone, epoch after epoch, and ends where the loss explodes.
    """
    computing = pick_computing(config)
    # it looks at the beginning of a run, however often it goes through the images
    augment = config.data.augment.model_copy(update={"until": 1.0})
    data_config = config.data.model_copy(update={"augment": augment})
    config = config.model_copy(update={"data": data_config})
    weights, prepared = first_weights(config, None)
    data = TrainingData(config, computing.device, prepared)
    shape, classes = data.info.image_shape, len(data.info.classes)
    model = build_network(config, networks, shape, classes, weights=weights)
    fit_whitening(model, data.train.sample)
    learner = Learner(model, config, data.info, computing)
    if config.train.fit_head:
        learner.fit_head(data.train, data.val)
    lrs: list[float] = []
    losses: list[float] = []
    mean = 0.0
    batches = chain.from_iterable(data.epoch(epoch) for epoch in count(1))
    for step, images, labels in islice(batches, steps):
        lr = low * (high / low) ** (step / (steps - 1))
        result = learner.step(images, labels, lr)
        mean = SMOOTHING * mean + (1 - SMOOTHING) * float(result.total / result.weight)
        smoothed = mean / (1 - SMOOTHING ** (step + 1))  # as if it had not begun at zero
        if not math.isfinite(smoothed) or (losses and smoothed > EXPLODED * min(losses)):
            break
        lrs.append(lr)
        losses.append(smoothed)
    return lrs, losses


def suggestion(lrs: list[float], losses: list[float]) -> float:
    """The learning rate at which the loss falls steepest, over the log of the learning rate.

    Raises UserError where it never falls, and where it falls steepest at an end of the range: then
    it may fall steeper beyond.
    """
    if len(lrs) < 3:
        raise UserError("the loss explodes at once: try a smaller --from")
    slopes = np.gradient(np.array(losses), np.log(lrs))
    end = int(np.argmin(losses)) + 1
    if end < 3 or slopes[:end].min() >= 0:
        raise UserError(
            "the loss does not fall anywhere: try --from and --to, or look at the config"
        )
    steepest = int(np.argmin(slopes[:end]))
    if steepest in (0, len(lrs) - 1):
        which, instead = ("last", "larger --to") if steepest else ("first", "smaller --from")
        raise UserError(
            f"the loss falls steepest at lr {lrs[steepest]:.2g}, the {which} one that was tried: "
            f"try a {instead}, or more --steps"
        )
    return lrs[steepest]


def draw(file: BinaryIO, lrs: list[float], losses: list[float], best: float) -> None:
    """Write a PNG of the smoothed losses over the learning rates."""
    import matplotlib

    matplotlib.use("Agg")  # no window
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.5), layout="constrained")
    axes.plot(lrs, losses)
    axes.axvline(best, color="tab:orange", linestyle="--", label=f"steepest fall: {best:.2g}")
    axes.set(xscale="log", xlabel="learning rate", ylabel="smoothed training loss")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(file, format="png", dpi=120)
    pyplot.close(figure)
