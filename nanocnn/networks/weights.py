"""Weights and other states that were saved, given back to what they were saved of."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from nanocnn.system.errors import UserError

MISFIT = "the checkpoint's weights do not fit the network as model.py has it now:"


def load_weights(weights: dict[str, Tensor], model: nn.Module) -> None:
    """Raises UserError where model.py no longer makes a network that the weights fit, or where they
    are no numbers that a network can have.
    """
    own = model.state_dict()
    for name in weights.keys() & own.keys():
        check_like(weights[name], own[name], f"{MISFIT} {name}")
    for name, layer in model.named_modules():
        variance = weights.get(f"{name}.running_var") if isinstance(layer, _BatchNorm) else None
        if variance is not None and bool((variance < 0).any()):
            raise UserError(f"the checkpoint's weights: {name}.running_var: a variance below 0")
    try:
        model.load_state_dict(weights)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise UserError(f"{MISFIT} {error}") from None


def check_like(saved: Any, own: Any, name: str) -> None:
    """Raises UserError where `saved` is not of the type, the shape and the keys that `own` has, or
    holds a number that is not finite.
    """
    if isinstance(own, dict):
        if not isinstance(saved, dict) or saved.keys() != own.keys():
            raise UserError(f"{name} should have the keys {', '.join(map(str, own))}")
        for key, value in own.items():
            check_like(saved[key], value, f"{name}.{key}")
    elif isinstance(own, Tensor):
        check_tensor(saved, own, name)
    elif type(saved) is not type(own) or (isinstance(own, float) and not math.isfinite(saved)):
        raise UserError(f"{name} should be a finite {type(own).__name__}")


def check_tensor(saved: Any, own: Tensor, name: str) -> None:
    if not isinstance(saved, Tensor) or saved.layout != torch.strided or saved.is_quantized:
        raise UserError(f"{name} should be a tensor")
    if (saved.shape, saved.dtype) != (own.shape, own.dtype):
        sizes = (f"{tuple(each.shape)} {each.dtype}" for each in (saved, own))
        raise UserError("{} is {}, not {}".format(name, *sizes))
    if saved.is_meta or not bool(saved.isfinite().all()):
        raise UserError(f"{name} should be finite")
