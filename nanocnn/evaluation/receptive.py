"""Receptive fields: which pixels of the image each unit of a map depends on, found by trial.

A pixel that is no number makes no number of every unit that depends on it, whatever the weights
are. So strides, padding, dilation, branches and ways around layers all count as they are, and a
layer that looks at the whole image before its map is made shows that too.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple, NoReturn

import torch
from torch import Tensor, nn

from nanocnn.networks.fast_view import BREAKS
from nanocnn.networks.table import Shape

NARROW = 64  # pixels across
BATCH = 16  # images; the first maps of a large network are large


class Fields(NamedTuple):
    """For each row and each column of a map the pixels that it depends on, empty for none."""

    rows: list[range]
    columns: list[range]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the largest, in pixels."""
        return max(map(len, self.rows)), max(map(len, self.columns))


class Reached(Exception):
    """A layer that was waited for has computed its output."""

    def __init__(self, output: Tensor):
        self.output = output


def output_of(model: nn.Module, layer: nn.Module, images: Tensor) -> Tensor:
    """What `layer` makes of `images` when it is first called; the network runs no further."""

    def stop(_: nn.Module, __: object, output: Tensor) -> NoReturn:
        raise Reached(output)

    hook = layer.register_forward_hook(stop)
    try:
        model(images)
    except Reached as reached:
        return reached.output
    finally:
        hook.remove()
    raise AssertionError("the layer is never called")


def receptive_fields(model: nn.Module, layer: nn.Module, image_shape: Shape) -> Fields:
    """Those of the units in the map (B, C, h, w) of `layer`, for images (C, H, W), clipped to them.

    Of a dilated window it is the whole from the first pixel to the last. `model` is on the CPU,
    whose convolutions mix no pixels that they need not, and left in evaluation mode.
    """
    model.eval()
    return Fields(*(fields_along(axis, model, layer, image_shape) for axis in (0, 1)))


def fields_along(axis: int, model: nn.Module, layer: nn.Module, image_shape: Shape) -> list[range]:
    """For each row (axis 0) or column (1) of the map the rows or columns that it depends on.

    Which rows does not depend on how wide an image is, so that of a large one a strip will do, if
    the network takes it and a unit in the middle says the same of the whole.
    """
    across = 2 - axis
    if image_shape[across] > NARROW:
        strip = (*image_shape[:across], NARROW, *image_shape[across + 1 :])
        try:
            found = tried_along(axis, model, layer, strip)
            seen = partial(dependent, axis, model, layer, image_shape)
            if is_so(found, image_shape[1 + axis], seen):
                return found
        except BREAKS:
            pass
    return tried_along(axis, model, layer, image_shape)


def tried_along(axis: int, model: nn.Module, layer: nn.Module, image_shape: Shape) -> list[range]:
    """As fields_along, for images of this very shape."""
    side = image_shape[1 + axis]
    places = torch.arange(side)
    seen = partial(dependent, axis, model, layer, image_shape)
    firsts = shortest(lambda lengths: seen(places < lengths[:, None]), side)
    lasts = shortest(lambda lengths: seen(places >= side - lengths[:, None]), side)
    return [
        range(first - 1, side + 1 - last)
        for first, last in zip(firsts.tolist(), lasts.tolist(), strict=True)
    ]


@torch.no_grad()
def dependent(
    axis: int, model: nn.Module, layer: nn.Module, image_shape: Shape, pixels: Tensor
) -> Tensor:
    """(N, units) bool: which rows or columns of the map depend on the rows or columns `pixels` (N,
    side) bool of images.
    """
    lines = pixels[:, None, :, None] if axis == 0 else pixels[:, None, None, :]
    marks = torch.where(lines, torch.nan, 0.0).expand(-1, *image_shape)
    maps = [output_of(model, layer, part.contiguous()) for part in marks.split(BATCH)]
    return torch.cat([part.isnan().any(1).any(2 - axis) for part in maps])


def is_so(fields: list[range], pixels: int, seen: Callable[[Tensor], Tensor]) -> bool:
    """Whether the unit in the middle depends on the first and the last pixel of its field, and on
    none beyond, of so many `pixels`.
    """
    field, places = fields[len(fields) // 2], torch.arange(pixels)
    is_beyond = (places < field.start) | (places >= field.stop)
    found = seen(torch.stack([places == field.start, places == field.stop - 1, is_beyond]))
    is_one = found.shape[1] == len(fields)
    return is_one and found[:, len(fields) // 2].tolist() == [True, True, False]


def shortest(hits: Callable[[Tensor], Tensor], most: int) -> Tensor:
    """For each unit the smallest length from 1 to `most` that hits it, and `most` + 1 if none does.

    `hits` tells of lengths (N,) which units they hit, (N, units) bool; whatever a length hits, a
    larger one does too.
    """
    is_hit = hits(torch.tensor([most]))[0]
    high = torch.where(is_hit, most, most + 1)
    low = torch.where(is_hit, 1, most + 1)
    while len(units := (low < high).nonzero()[:, 0]):
        middle = (low[units] + high[units]) // 2
        lengths, place = middle.unique(return_inverse=True)
        is_hit = hits(lengths)[place, units]
        high[units] = torch.where(is_hit, middle, high[units])
        low[units] = torch.where(is_hit, low[units], middle + 1)
    return low
