"""What excites a filter: the patches of images on which its response is the largest."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from nanocnn.evaluation.receptive import Fields

COUNT = 9


class Strongest(NamedTuple):
    """The largest responses of each filter of a layer, at most one an image, largest first."""

    values: Tensor  # (filters, count), as the convolution has them
    images: Tensor  # (filters, count) int64: which image
    units: Tensor  # (filters, count) int64: where in the map, row * width + column


@torch.no_grad()
def strongest(
    model: nn.Module,
    layers: Mapping[str, nn.Module],
    batches: Iterable[tuple[Tensor, Tensor]],
    count: int = COUNT,
) -> dict[str, Strongest]:
    """Where the maps (B, filters, h, w) of `layers` are largest, over all images.

    Each batch has the numbers of its images (B,) and the images (B, C, H, W), normalised. With
    fewer images than `count` there are as many.
    """
    model.eval()
    found: dict[str, Strongest] = {}
    batch: list[Tensor] = []  # the numbers of its images

    def note(name: str, maps: Tensor) -> None:
        values, units = maps.float().flatten(2).max(2)  # (B, filters)
        now = Strongest(values.T, batch[0].to(values.device).expand_as(values.T), units.T)
        if name in found:
            now = Strongest(*(torch.cat(pair, 1) for pair in zip(found[name], now, strict=True)))
        order = now.values.sort(dim=1, descending=True, stable=True).indices[:, :count]
        found[name] = Strongest(*(each.gather(1, order) for each in now))

    hooks = [
        layer.register_forward_hook(lambda _, __, maps, name=name: note(name, maps))
        for name, layer in layers.items()
    ]
    try:
        for numbers, images in batches:
            batch[:] = [numbers]
            model(images)
    finally:
        for hook in hooks:
            hook.remove()
    return {name: Strongest(*(each.cpu() for each in top)) for name, top in found.items()}


def patch(image: Tensor, unit: int, fields: Fields) -> Tensor:
    """What a unit of a map sees of an image (C, H, W): (C, height, width) of the largest field.

    Of an image of uint8 what lies beyond the border is 0 in a further channel, which is 255 within;
    of other images it is 0 in all.
    """
    row, column = divmod(unit, len(fields.columns))
    rows, columns = fields.rows[row], fields.columns[column]
    if image.dtype == torch.uint8:
        image = torch.cat([image, torch.full_like(image[:1], 255)])
    cut = image.new_zeros(len(image), *fields.size)
    if rows and columns:
        # what is cut off lies before the first pixel or after the last one
        top = fields.size[0] - len(rows) if rows.start == 0 else 0
        left = fields.size[1] - len(columns) if columns.start == 0 else 0
        seen = image[:, rows.start : rows.stop, columns.start : columns.stop]
        cut[:, top : top + len(rows), left : left + len(columns)] = seen
    return cut
