"""The learning rate of each step."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from nanocnn.config.schema import (
    Config,
    Cosine,
    Exponential,
    MultiStep,
    OneCycle,
    Plateau,
    Schedule,
    Step,
)


@dataclass(frozen=True)
class RateSchedule:
    """The learning rate as a pure function of the step, so that resuming needs no state.

    Over the warm-up it rises linearly to `peak`. `one_cycle` then falls linearly towards zero, the
    first phase and the annihilation of Smith and Topin, Super-Convergence (2018), without the cycle
    of the momentum; `cosine` falls along half a wave to min_lr (Loshchilov and Hutter, SGDR, 2017,
    without restarts). The others change between epochs, counted from the start of the run, as the
    schedulers of torch do.
    """

    shape: Schedule
    peak: float
    epochs: int
    steps_per_epoch: int

    @classmethod
    def of(cls, config: Config, steps_per_epoch: int) -> "RateSchedule":
        """What `config` asks for, in epochs of so many steps."""
        return cls(config.schedule, config.optimizer.lr, config.train.epochs, steps_per_epoch)

    def lr_at(self, step: int, val_losses: Sequence[float] = ()) -> float:
        """The learning rate of `step` (from 0); `plateau` needs the losses of all epochs before."""
        shape, peak = self.shape, self.peak
        steps, epoch = self.epochs * self.steps_per_epoch, step // self.steps_per_epoch
        warmup = shape.warmup * steps
        if step < warmup:
            peak = peak * (step + 1) / (warmup + 1)
        match shape:
            case OneCycle() if step >= warmup:
                return peak * (steps - step) / (steps - warmup)
            case Cosine() if step >= warmup:
                wave = (1 + math.cos(math.pi * (step - warmup) / (steps - warmup))) / 2
                return shape.min_lr + (peak - shape.min_lr) * wave
            case Step():
                return peak * shape.gamma ** (epoch // shape.step_size)
            case MultiStep():
                return peak * shape.gamma ** sum(epoch >= m for m in shape.milestones)
            case Exponential():
                return peak * shape.gamma**epoch
            case Plateau():
                return peak * shape.factor ** cuts(shape, val_losses[:epoch])
        return peak


def cuts(schedule: Plateau, val_losses: Sequence[float]) -> int:
    """How often more than `patience` epochs in a row were no better than the best before."""
    count, waiting, best = 0, 0, math.inf
    for loss in val_losses:
        if loss < best * (1 - schedule.threshold):
            best, waiting = loss, 0
        else:
            waiting += 1
        if waiting > schedule.patience:
            count, waiting = count + 1, 0
    return count
