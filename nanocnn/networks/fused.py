"""Layers that are computed together: the same function and gradients in fewer passes over memory.

Max pooling commutes with whatever never decreases, so it may go first: the activation then works on
the small map. Large maps, not products of matrices, are where the time of a small network goes on a
CPU.
"""

import copy

from torch import nn

from nanocnn.networks.norm_pool import NormPool
from nanocnn.networks.stem import ConvNormPool, is_small_stem

OWN = {"forward", "_conv_forward"}  # methods that one layer may have been given
RISING = (nn.ReLU, nn.LeakyReLU, nn.Tanh, nn.Sigmoid)  # a larger input never has a smaller output


def reordered(model: nn.Module) -> nn.Module:
    """A network with the very layers, parameters and buffers of `model`, some of them in a cheaper
    order.

    In each nn.Sequential (norm, activation, max pooling) becomes (NormPool, activation), with ReLU
    a NormPool alone, after a first convolution a ConvNormPool with it, and (activation, max
    pooling) becomes (max pooling, activation). It is another function where a `forward` uses parts
    of such a sequence by themselves, or changes in place what the gradient needs.
    """
    if not list(model.children()):
        return model
    fused = copy.copy(model)  # its parameters, buffers and hooks are those of the model
    children = {name: reordered(child) for name, child in model.named_children()}
    if type(model) is nn.Sequential:
        layers: list[nn.Module] = []
        for layer in children.values():
            if isinstance(layer, nn.MaxPool2d) and is_plain(layer) and not layer.return_indices:
                layers = pooled(layers, layer)
            elif not (isinstance(layer, nn.Identity) and is_plain(layer)):
                layers.append(layer)
        children = {str(position): layer for position, layer in enumerate(layers)}
    fused._modules = dict(children)
    return fused


def pooled(layers: list[nn.Module], pool: nn.MaxPool2d) -> list[nn.Module]:
    """`layers` and the pooling after them, in the cheaper order."""
    after = layers[-1:] if layers and is_rising(layers[-1]) else []
    before = layers[: len(layers) - len(after)]
    norm = before[-1] if before else None
    if not (isinstance(norm, nn.BatchNorm2d) and is_plain(norm)):
        return [*before, pool, *after]
    relu = next((each for each in after if isinstance(each, nn.ReLU)), None)
    together, rest = NormPool(norm, pool, relu), [] if relu else after
    conv = before[-2] if len(before) > 1 else None
    if isinstance(conv, nn.Conv2d) and is_plain(conv) and is_small_stem(conv, pool):
        return [*before[:-2], ConvNormPool(conv, together), *rest]
    return [*before[:-1], together, *rest]


def is_rising(layer: nn.Module) -> bool:
    falls = isinstance(layer, nn.LeakyReLU) and layer.negative_slope < 0
    return isinstance(layer, RISING) and is_plain(layer) and not falls


def is_plain(layer: nn.Module) -> bool:
    """Whether `layer` is torch's own, and nobody watches what goes into it and what comes out."""
    is_watched = layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks
    is_own = type(layer).__module__.startswith("torch.nn.") and OWN.isdisjoint(vars(layer))
    return is_own and not is_watched
