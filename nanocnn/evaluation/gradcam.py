"""Grad-CAM: which places of the last maps speak for a class. Needs captum, the extra `look`."""

from collections import Counter
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from nanocnn.networks.table import Shape, windows
from nanocnn.system.errors import UserError

LOOK = 'pip install "nanocnn[look]", or pip install -e ".[look]" in a clone'


class Target(NamedTuple):
    name: str  # of the layer or block
    shape: Shape  # of its maps (C, h, w)


def target_of(model: nn.Module, image_shape: Shape) -> Target | None:
    """The maps of the last convolution that has more than one unit; None where there is none.

    They are taken as they go on: after the normalisation and the activation that follow it, and
    where it is part of a block that ends in maps of the same size, as those of the block, to which
    other branches belong, too.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    calls: Counter[str] = Counter()
    chain: list[str] = []  # from the last convolution on
    made: Any = None  # by the last of them

    def note(name: str, layer: nn.Module, inputs: tuple, output: Any) -> None:
        nonlocal chain, made
        shape = tuple(output.shape[1:]) if isinstance(output, Tensor) else ()
        shapes[name] = shape
        calls[name] += 1
        if isinstance(layer, nn.Conv2d) and max(shape[1:]) > 1:
            chain, made = [name], output
        elif inputs and inputs[0] is made and shape == shapes[chain[0]] and not windows(layer, 2):
            chain.append(name)
            made = output

    device = next((parameter.device for parameter in model.parameters()), None)
    hooks = [
        layer.register_forward_hook(partial(note, name)) for name, layer in model.named_modules()
    ]
    try:
        with torch.no_grad():
            model.eval()(torch.zeros(1, *image_shape, device=device))
    finally:
        for hook in hooks:
            hook.remove()
    if not chain:
        return None
    size = shapes[chain[0]][1:]
    blocks = [name for name in above(chain[0]) if shapes.get(name, ())[1:] == size]
    once = [name for name in [*blocks[::-1], *chain[::-1]] if calls[name] == 1]
    return Target(once[0], (shapes[once[0]][0], *size)) if once else None


def above(name: str) -> list[str]:
    """The modules that a module lies in, the nearest first, without the network itself."""
    parts = name.split(".")
    return [".".join(parts[:end]) for end in range(len(parts) - 1, 0, -1)]


def gradcam(model: nn.Module, layer: str, images: Tensor, classes: Tensor) -> Tensor:
    """How much each place of the maps of `layer` speaks for the class (B,) of each image.

    Images (B, C, H, W) are normalised. Returns (B, h, w) float64 on the CPU, nothing below zero:
    the mean of the maps, each weighted by the mean gradient of the class's logit, of two classes by
    that of their difference, since a logistic output has one for both. R. Selvaraju et al.,
    Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization (2017). Raises
    UserError where captum is not installed.
    """
    try:
        from captum.attr import LayerGradCam
    except ImportError:
        raise UserError(f"Grad-CAM needs the package captum: {LOOK}") from None
    model.eval()

    def logits_of(some: Tensor) -> Tensor:
        logits = model(some)
        return logits - logits.mean(1, keepdim=True) if logits.shape[1] == 2 else logits

    with torch.inference_mode(False), torch.enable_grad():
        method = LayerGradCam(logits_of, model.get_submodule(layer))
        images = images.clone().requires_grad_()  # the weights may be frozen
        maps = method.attribute(images, classes.to(images.device), relu_attributions=True)
    return maps[:, 0].detach().cpu().double()
