"""Which units of a network answer to anything."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn


@torch.no_grad()
def dead_units(model: nn.Module, batches: Iterable[Tensor]) -> dict[str, Tensor]:
    """Of each ReLU, by its name, which of its units (U,) bool are zero for all of these images.

    Batches (B, C, H, W) are normalised. A unit is a channel, or an output of a linear layer. Of a
    ReLU that works in several places a unit is dead that is so in all. The network is left in the
    mode in which it was.
    """
    found: dict[str, Tensor] = {}

    def note(name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def hook(_: nn.Module, __: Any, output: Tensor) -> None:
            dead = (output <= 0).transpose(0, 1).flatten(1).all(1).cpu()
            found[name] = found[name] & dead if name in found else dead

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
            model(images)
    finally:
        for each in hooks:
            each.remove()
        for module, mode in modes.items():
            module.training = mode
    return found
