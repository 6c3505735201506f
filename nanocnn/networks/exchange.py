"""A network some of whose layers compute otherwise, and are the same in all else."""

import copy
from collections.abc import Callable

from torch import nn


def exchanged(layer: nn.Module, class_for: Callable[[nn.Module], type[nn.Module]]) -> nn.Module:
    """`layer` with the layers in it of the class that `class_for` gives each of them.

    They have the very attributes of those that they stand for: parameters, hooks, modes. `layer`
    itself comes back where none is exchanged.
    """
    if not layer._modules:
        kind = class_for(layer)
        if kind is type(layer):
            return layer
        other: nn.Module = kind.__new__(kind)
        other.__dict__ = layer.__dict__  # whatever is set of one is set of the other
        return other
    children = {
        name: child and exchanged(child, class_for) for name, child in layer._modules.items()
    }
    if all(child is layer._modules[name] for name, child in children.items()):
        return layer
    other = copy.copy(layer)
    other._modules = dict(children)
    return other
