"""The optimizer, which layers it changes, and the learning rate it has at each step."""

from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from config import SGD, Constant, OneCycle
from errors import UserError


def build_optimizer(config: SGD, model: nn.Module) -> torch.optim.Optimizer:
    """The optimizer of all parameters; those of a group with `lr_mult: 0` are frozen.

    Raises UserError for a group that no parameter is left for.
    """
    rest = dict(model.named_parameters())
    groups: list[dict[str, Any]] = []
    for group in config.groups:
        names = [name for name in rest if fnmatchcase(name, group.match)]
        if not names:
            layers = dict.fromkeys(name.rpartition(".")[0] for name in rest)
            raise UserError(
                f"optimizer.groups: {group.match!r} matches no parameter that an earlier group has left; "
                f"the layers left are {', '.join(layers)}, each with .weight or .bias"
            )
        parameters = [rest.pop(name) for name in names]
        if group.lr_mult == 0:
            for parameter in parameters:
                parameter.requires_grad_(False)
        else:
            weight_decay = config.weight_decay * group.decay_mult
            groups.append(
                {"params": parameters, "lr_mult": group.lr_mult, "weight_decay": weight_decay}
            )
    if rest:
        groups.append({"params": list(rest.values()), "lr_mult": 1.0})
    if not groups:
        raise UserError(
            "optimizer.groups: lr_mult = 0 for every parameter: nothing is left to train"
        )
    freeze_statistics(model)
    arguments = config.model_dump(exclude={"name", "groups"})
    return torch.optim.SGD(groups, fused=True, **arguments)


def freeze_statistics(model: nn.Module) -> None:
    """Keep each batch normalisation with frozen parameters as it is in evaluation: its means freeze too."""
    for layer in model.modules():
        frozen = [not parameter.requires_grad for parameter in layer.parameters()]
        if isinstance(layer, _BatchNorm) and frozen and all(frozen):
            pin(layer.eval())


def pin(layer: nn.Module) -> None:
    """Let `layer` stay in its mode whatever mode the network takes."""
    layer.train = lambda mode=True: layer  # type: ignore[method-assign]


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
