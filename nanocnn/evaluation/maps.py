"""How an image becomes an answer: what the layers make of it, step by step."""

import copy
from typing import NamedTuple

import torch
from torch import Tensor, nn

from nanocnn.networks.table import Call, how, macs, trace, windows

MOST_STEPS = 16


class Step(NamedTuple):
    """A layer that changes the shape or has a window, and those after it that do neither."""

    name: str  # of the first layer
    layers: str  # the kinds of all
    arithmetic: str  # how the size came about
    values: Tensor  # (C, h, w), or (values,)


def convolutions(calls: list[Call]) -> list[Call]:
    """Those of `calls` that look at a map of more than one unit; a layer that is called again has
    no map of its own and is left out.
    """
    names = [call.name for call in calls]
    return [
        call
        for call in calls
        if isinstance(call.layer, nn.Conv2d)
        and len(call.input_shape) == 3
        and max(call.input_shape[1:]) > 1
        and names.count(call.name) == 1
    ]


def steps(model: nn.Module, image: Tensor) -> tuple[list[Step], int]:
    """The steps from an image (1, C, H, W), normalised, to the logits, and how many were left out.

    Of more than MOST_STEPS the last with maps of each size stay, and those after the maps.
    """
    model = copy.deepcopy(model).eval()
    calls, _ = trace(model, tuple(image.shape[1:]))
    outputs: list[Tensor] = []

    def note(_: nn.Module, __: object, output: Tensor | tuple) -> None:
        first = output if isinstance(output, Tensor) else output[0]
        outputs.append(first[0].float().cpu().clone())  # a later layer may write into it

    layers = {call.layer for call in calls}
    hooks = [layer.register_forward_hook(note) for layer in layers]
    with torch.inference_mode():
        model(image)
    for hook in hooks:
        hook.remove()

    groups: list[list[int]] = []
    for place, call in enumerate(calls):
        goes_on = (
            groups
            and call.input_shape == call.output_shape == calls[groups[-1][-1]].output_shape
            and not windows(call.layer, len(call.input_shape) - 1)
            and not macs(call)
        )
        if goes_on:
            groups[-1].append(place)
        else:
            groups.append([place])
    is_plain = all(len(calls[group[-1]].output_shape) in (1, 3) for group in groups)
    kept = groups if is_plain and len(groups) <= MOST_STEPS else resized(groups, calls)
    found = [
        Step(
            calls[group[0]].name,
            kinds_of([calls[place].layer for place in group]),
            how(calls[group[0]]),
            outputs[group[-1]],
        )
        for group in kept
    ]
    return found, len(groups) - len(kept)


def kinds_of(layers: list[nn.Module]) -> str:
    """In words, without those that do nothing."""
    acting = [layer for layer in layers if not isinstance(layer, nn.Identity)]
    return ", ".join(type(layer).__name__ for layer in acting or layers)


def resized(groups: list[list[int]], calls: list[Call]) -> list[list[int]]:
    """Of the `groups` of calls that make maps the last of each size, and all that come after."""
    maps: dict[tuple[int, ...], list[int]] = {}
    after: list[list[int]] = []
    for group in groups:
        shape = calls[group[-1]].output_shape
        if len(shape) == 3:
            maps.pop(shape[1:], None)  # in the order of the last ones
            maps[shape[1:]] = group
            after = []
        elif len(shape) == 1:
            after.append(group)
    return [*maps.values(), *after][-MOST_STEPS:]
