"""Layers that are computed together: the same function and gradients in fewer passes over memory.

Max pooling commutes with whatever never decreases, so it may go first: the activation then works on
the small map. Large maps, not products of matrices, are where the time of a small network goes on a
CPU.
"""

import copy
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nanocnn.networks.norm_pool import NormPool
from nanocnn.networks.stem import ConvNormPool, is_small_stem

# what a `forward` raises that misses a layer where it was
BREAKS = (RuntimeError, ValueError, TypeError, LookupError, AttributeError, AssertionError)
RISING = (nn.ReLU, nn.LeakyReLU, nn.Tanh, nn.Sigmoid)  # a larger input never has a smaller output


def fuse_pooling(model: nn.Module, image_shape: Sequence[int]) -> nn.Module:
    """A network with the very layers, parameters and buffers of `model`, some of them in a cheaper
    order.

    In each nn.Sequential (norm, activation, max pooling) becomes (NormPool, activation), with ReLU
    a NormPool alone, after a first convolution a ConvNormPool with it, and (activation, max
    pooling) becomes (max pooling, activation). A `forward` may use parts
    of such a sequence by themselves, or change in place what the gradient needs: where that
    network's outputs for images (C, H, W) are others, in training or in evaluation, or it cannot
    learn, `model` comes back as it is.
    """
    if not any(isinstance(layer, nn.MaxPool2d) for layer in model.modules()):
        return model
    trial = copy.deepcopy(model)
    device = next((parameter.device for parameter in model.parameters()), None)
    count = max(2, min(16, 2**20 // math.prod(image_shape)))
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        images = torch.rand(count, *image_shape).to(device)
        # first weights of zero would hide everything before them
        for parameter in trial.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape).to(parameter))
        for training in (True, False):
            torch.manual_seed(1)  # of dropout
            expected = tensors_of(trial.train(training)(images))
            torch.manual_seed(1)
            try:
                with torch.set_grad_enabled(training):
                    outputs = tensors_of(reordered(trial).train(training)(images))
                    learning = [output.sum() for output in outputs if output.requires_grad]
                    if learning:  # what follows may change in place what is needed for gradients
                        torch.stack(learning).sum().backward()
            except BREAKS:
                return model  # its parts do not even fit together any more
            if len(outputs) != len(expected) or not all(map(is_close, outputs, expected)):
                return model
    return reordered(model)


def tensors_of(outputs: Any) -> list[Tensor]:
    """The tensors in what a network returns: logits, and perhaps those of auxiliary heads with
    their weights.
    """
    if isinstance(outputs, tuple):
        return [tensor for output in outputs for tensor in tensors_of(output)]
    return [torch.as_tensor(outputs)]


def is_close(one: Tensor, other: Tensor) -> bool:
    return torch.allclose(one, other, rtol=1e-3, atol=1e-3 * float(one.abs().max()))


def reordered(model: nn.Module) -> nn.Module:
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
    return type(layer).__module__.startswith("torch.nn.") and not (
        layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks
    )
