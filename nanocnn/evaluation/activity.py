"""Which units of a network answer to anything."""

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn


@torch.no_grad()
def dead_units(model: nn.Module, batches: Iterable[Tensor]) -> dict[str, Tensor]:
    """Of each ReLU, by its name, which of its units (U,) bool are zero for all of these images.

    Batches (B, C, H, W) are normalised. A unit is a channel, or an output of a linear layer. A ReLU
    that works in several places has a name for each. The network is left in the mode in which it
    was.
    """
    found: dict[str, Tensor] = {}
    calls: Counter[str] = Counter()  # of each in this batch

    def note(name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def hook(_: nn.Module, __: Any, output: Tensor) -> None:
            axis = output.ndim - 1 if output.ndim == 3 else 1  # of tokens (B, T, C) the last
            dead = (output <= 0).movedim(axis, 0).flatten(1).all(1).cpu()
            calls[name] += 1
            place = name if calls[name] == 1 else f"{name}, call {calls[name]}"
            found[place] = found[place] & dead if place in found else dead

        return hook

    hooks = [
        module.register_forward_hook(note(name))
        for name, module in model.named_modules()
        if isinstance(module, nn.ReLU | nn.ReLU6)
    ]
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        for images in batches:
            calls.clear()
            model(images)
    finally:
        for each in hooks:
            each.remove()
        for module, mode in modes.items():
            module.training = mode
    return found
