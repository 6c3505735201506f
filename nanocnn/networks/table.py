"""The arithmetic of a network: for each layer its output size, parameters and multiply-accumulates.

    print(layer_table(model, (1, 28, 28)))

A convolution or pooling with windows of F at stride S on H pixels with P pixels of padding at both
ends has (H + 2P - F)/S + 1 outputs, rounded down. It has F * F * C / G weights for each of its
output channels, with C input channels in G groups, and uses each of them once for each output
pixel. A linear layer is the case of one pixel.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.modules.pooling import _AvgPoolNd, _MaxPoolNd
from torch.utils.hooks import RemovableHandle

from nanocnn.networks.layers import GaussianPool2d, LearnedPool2d
from nanocnn.system.errors import UserError

Shape = tuple[int, ...]  # channels and then pixels along each axis, without the batch

WINDOWED = (_ConvNd, _MaxPoolNd, _AvgPoolNd, GaussianPool2d, LearnedPool2d)


class Call(NamedTuple):
    """One layer at work on one image."""

    name: str
    layer: nn.Module
    input_shape: Shape
    output_shape: Shape


class LayerError(UserError):
    """An image that a layer cannot take."""


def trace(model: nn.Module, image_shape: Shape) -> tuple[list[Call], Tensor]:
    """What each layer does to one blank image of `image_shape`, in order, and the logits (1,
    classes).

    Leaves the model as it was, but for lazy layers, which find their sizes. Raises LayerError
    naming the layer that cannot take what reaches it.
    """
    calls: list[Call] = []
    entered: list[tuple[str, nn.Module, Shape]] = []

    def watch(name: str, layer: nn.Module) -> list[RemovableHandle]:
        def enter(_: nn.Module, inputs: Any) -> None:
            entered.append((name, layer, shape_of(inputs)))

        def leave(_: nn.Module, __: Any, output: Any) -> None:
            calls.append(Call(*entered.pop(), shape_of(output)))

        return [layer.register_forward_pre_hook(enter), layer.register_forward_hook(leave)]

    layers = [(name, layer) for name, layer in model.named_modules() if not any(layer.children())]
    hooks = [hook for name, layer in layers for hook in watch(name, layer)]
    first = next(model.parameters(), torch.zeros(0))
    was_training = model.training
    model.eval()  # a blank image must leave no trace in the batch normalisation
    try:
        with torch.no_grad():
            image = torch.zeros(1, *image_shape, device=first.device, dtype=first.dtype)
            logits = model(image)
    except (RuntimeError, ValueError, AssertionError) as error:
        if not entered:
            raise
        name, layer, shape = entered[-1]
        raise LayerError(
            f"its layer {name} = {layer} got an input of {size_text(shape)} ({error})"
        ) from None
    finally:
        model.train(was_training)
        for hook in hooks:
            hook.remove()
    return calls, logits


def shape_of(value: Any) -> Shape:
    """The shape of one image in a tensor, or in the first tensor of several."""
    while isinstance(value, tuple | list) and value:
        value = value[0]
    return tuple(value.shape[1:]) if isinstance(value, Tensor) else ()


def size_text(sizes: Sequence[int]) -> str:
    return "x".join(map(str, sizes))


def macs(call: Call) -> int:
    """Multiply-accumulates of one layer on one image; additions of a bias are not counted."""
    layer, outputs = call.layer, math.prod(call.output_shape)
    if isinstance(layer, nn.Linear):
        return outputs * layer.in_features
    if isinstance(layer, _ConvTransposeNd):  # each input pixel meets each weight
        weights = math.prod(layer.kernel_size) * layer.out_channels // layer.groups
        return math.prod(call.input_shape) * weights
    if isinstance(layer, _ConvNd | GaussianPool2d):
        return outputs * math.prod(layer.kernel_size) * layer.in_channels // layer.groups
    return 0


class Window(NamedTuple):
    """A window along one axis, in pixels."""

    size: int  # F; with a dilation, from its first to its last pixel
    stride: int
    before: int  # padding
    after: int


def windows(layer: nn.Module, axes: int) -> list[Window]:
    """The window of a convolution or pooling along each of its axes; none for other layers."""
    if not isinstance(layer, WINDOWED):
        return []

    def each(value: Any) -> list[int]:
        return list(value) if isinstance(value, tuple) else [value] * axes

    dilation = each(getattr(layer, "dilation", 1))
    sizes = [d * (f - 1) + 1 for f, d in zip(each(layer.kernel_size), dilation, strict=True)]
    if layer.padding == "same":
        paddings = [((size - 1) // 2, size // 2) for size in sizes]
    elif layer.padding == "valid":
        paddings = [(0, 0)] * axes
    else:
        paddings = [(padding, padding) for padding in each(layer.padding)]
    strides = each(layer.stride)
    return [Window(f, s, *p) for f, s, p in zip(sizes, strides, paddings, strict=True)]


def how(call: Call) -> str:
    """How the size of each axis came about, in words of arithmetic; an equal axis is not
    repeated.
    """
    layer = call.layer
    window_list = windows(layer, len(call.input_shape) - 1)
    lines = []
    for axis, w in enumerate(window_list):
        pixels, outputs = call.input_shape[1 + axis], call.output_shape[1 + axis]
        padding = f"2*{w.before}" if w.before == w.after else f"{w.before} + {w.after}"
        if isinstance(layer, _ConvTransposeNd):
            extra = layer.output_padding[axis]
            line = f"({pixels} - 1)*{w.stride} - {padding} + {w.size}" + (
                f" + {extra}" if extra else ""
            )
        else:
            exact = (pixels + w.before + w.after - w.size) / w.stride + 1
            line = f"({pixels} + {padding} - {w.size})/{w.stride} + 1"
            if exact != outputs:
                line += f" = {exact:g}, {'down' if exact > outputs else 'up'} to"
        separator = " " if line.endswith(" to") else " = "
        lines.append(f"{line}{separator}{outputs}")
    return "; ".join(dict.fromkeys(lines))


HEADER = (
    "layer",
    "kind",
    "F",
    "S",
    "P",
    "G",
    "output",
    "parameters",
    "multiply-accum.",
    "its size",
)
LEFT = {"layer", "kind", "its size"}


def layer_table(model: nn.Module, image_shape: Shape) -> str:
    """A row for each layer in the order of execution, and the totals.

    F, S, P, G: the side of the window, stride, padding and groups.
    """
    calls, _ = trace(model, image_shape)
    total = sum(parameter.numel() for parameter in model.parameters())
    rows: list[tuple[str, ...]] = [
        HEADER,
        ("", "image", "", "", "", "", size_text(image_shape), "", "", ""),
    ]
    seen: set[nn.Module] = set()
    for call in calls:
        size = sum(parameter.numel() for parameter in call.layer.parameters())
        parameters = "shared" if size and call.layer in seen else f"{size:,}" if size else ""
        seen.add(call.layer)
        rows.append(
            (
                call.name,
                type(call.layer).__name__,
                *window_columns(call),
                size_text(call.output_shape),
                parameters,
                f"{macs(call):,}" if macs(call) else "",
                how(call),
            )
        )
    rest = total - sum(p.numel() for p in {p for layer in seen for p in layer.parameters()})
    if rest:
        rows.append(("", "elsewhere or in training only", *[""] * 5, f"{rest:,}", "", ""))
    rows.append(("total", *[""] * 6, f"{total:,}", f"{sum(map(macs, calls)):,}", ""))

    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [
            f"{cell:{'<' if title in LEFT else '>'}{width}}"
            for cell, title, width in zip(row, HEADER, widths, strict=True)
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def window_columns(call: Call) -> tuple[str, str, str, str]:
    """F, S, P and G of a row; one number where all axes agree."""
    found = windows(call.layer, len(call.input_shape) - 1)
    if not found:
        return ("", "", "", "")
    sizes = [f"{w.size}" for w in found]
    strides = [f"{w.stride}" for w in found]
    paddings = [f"{w.before}" if w.before == w.after else f"{w.before}+{w.after}" for w in found]
    same = [
        column[0] if len(set(column)) == 1 else "x".join(column)
        for column in (sizes, strides, paddings)
    ]
    groups = getattr(call.layer, "groups", "")
    return same[0], same[1], same[2], str(groups)


def summary(model: nn.Module, image_shape: Shape) -> str:
    """The totals in one line."""
    calls, _ = trace(model, image_shape)
    weighted = sum(any(True for _ in call.layer.parameters()) for call in calls)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return (
        f"{weighted} layers with weights, {parameters:,} parameters, "
        f"{sum(map(macs, calls)) / 1e6:,.1f} M multiply-accumulates an image"
    )
