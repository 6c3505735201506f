"""The state of an optimizer that was saved, given back to one of the same config."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from nanocnn.networks.weights import check_like
from nanocnn.system.errors import UserError

# how torch computes a step, and what each step is given anew
FREE = {"params", "lr", "fused", "foreach", "capturable", "differentiable"}
# sums and means of squares
NEVER_BELOW_0 = {"step", "sum", "square_avg", "acc_delta", "exp_avg_sq", "max_exp_avg_sq"}


def load_optimizer(saved: Mapping[str, Any], optimizer: torch.optim.Optimizer, steps: int) -> None:
    """Let `optimizer` go on from what another one of the same config had `saved` after `steps`.

    Its parameters, whose weights must be loaded after this, take a step without a gradient: so it
    shows what its state looks like. Raises UserError for another, or for numbers that it cannot
    have.
    """
    for parameter in (each for group in optimizer.param_groups for each in group["params"]):
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad()
    own = optimizer.state_dict()
    name = "the checkpoint's optimizer"
    if saved.keys() != own.keys():
        raise UserError(f"{name} should have the keys {', '.join(own)}")
    state, groups = saved["state"], saved["param_groups"]
    check_groups(groups, own["param_groups"], name)
    if not isinstance(state, dict) or not state.keys() <= own["state"].keys():
        raise UserError(f"{name}.state should have the parameters of the network as its keys")
    if steps > 0 and own["state"] and not state:
        raise UserError(f"{name}.state should not be empty after {steps:,} steps")
    for parameter, values in state.items():  # not of those that never had a gradient
        check_like(values, own["state"][parameter], f"{name}.state.{parameter}")
        for key, value in values.items():
            check_range(value, key, steps, f"{name}.state.{parameter}.{key}")
    # the options are those of the config, whatever the file says
    for mine, theirs in zip(own["param_groups"], groups, strict=True):
        mine["lr"] = theirs["lr"]
    optimizer.load_state_dict({"state": state, "param_groups": own["param_groups"]})


def check_groups(saved: Any, own: list[dict[str, Any]], name: str) -> None:
    """Raises UserError where the options of `saved` groups are not those of `own`."""
    if not isinstance(saved, list) or len(saved) != len(own):
        raise UserError(f"{name}.param_groups should be a list of {len(own)}")
    for theirs, mine in zip(saved, own, strict=True):
        if not isinstance(theirs, dict) or not is_same(theirs.get("params"), mine["params"]):
            raise UserError(f"{name}.param_groups should have the parameters of the network")
        check_like(theirs.get("lr"), float(mine["lr"]), f"{name}.param_groups.lr")
        for key in (mine.keys() & theirs.keys()) - FREE:
            if not is_same(theirs[key], mine[key]):
                raise UserError(
                    f"{name}.param_groups.{key} should be {mine[key]!r}, as in its config"
                )


def is_same(theirs: Any, mine: Any) -> bool:
    """Whether two plain values are equal; no tensor is one."""
    if isinstance(mine, list | tuple):
        same_length = type(theirs) is type(mine) and len(theirs) == len(mine)
        return same_length and all(map(is_same, theirs, mine))
    return not isinstance(theirs, Tensor) and theirs == mine


def check_range(value: Any, key: str, steps: int, name: str) -> None:
    """Raises UserError for squares below 0, and for more steps than were made."""
    if not isinstance(value, Tensor):
        return
    if key in NEVER_BELOW_0 and bool((value < 0).any()):
        raise UserError(f"{name} should not be below 0")
    if key == "step" and bool((value > steps).any()):
        raise UserError(f"{name} should be at most {steps:,}, the steps made")
