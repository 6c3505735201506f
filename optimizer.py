"""The optimizer, and the learning rate it has at each step."""

import torch
from torch import nn

from config import SGD, Constant, OneCycle


def build_optimizer(config: SGD, model: nn.Module) -> torch.optim.Optimizer:
    arguments = config.model_dump(exclude={"name"})
    return torch.optim.SGD(model.parameters(), fused=True, **arguments)


def learning_rate(schedule: OneCycle | Constant, peak: float, step: int, steps: int) -> float:
    """The learning rate of `step` (from 0) in a run of `steps`: a pure function, so resuming needs no state.

    `one_cycle` rises linearly to `peak` over its warm-up and falls linearly towards zero: the first phase
    and the annihilation of Smith and Topin, Super-Convergence (2018), without the cycle of the momentum.
    """
    if isinstance(schedule, Constant):
        return peak
    warmup = schedule.warmup * steps
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    return peak * (steps - step) / (steps - warmup)
