"""The page and the pictures of what a network does; like that of a report the page needs nothing
but itself.
"""

import math
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from nanocnn.evaluation.drawing import (
    Cell,
    file_of,
    fitted,
    mosaic,
    picture_of,
    shades,
    sheet,
    signed,
    uri_of,
)
from nanocnn.evaluation.looking import MOST_FILTERS, Responses, Sight, evenly
from nanocnn.evaluation.maps import Step
from nanocnn.evaluation.page import map_uri, percent, rendered, thumbnail
from nanocnn.evaluation.patches import COUNT
from nanocnn.system.output import one_line

IMAGE = 112  # pixels of the image, whose scale the maps have
SMALLEST = 12  # of a map
WEIGHTS = 64  # of a filter, of a large one twice as many
MOST_MAPS = 64
VALUE = 6  # pixels of one of the values of a linear layer
ROW = 64  # of these
BARS = 5
NOTHING = 1e-6  # the response of a filter that is dead, but for rounding
PHOTO = 40  # pixels of a side, beyond which patches are kept as photos are


class Found(NamedTuple):
    """All that was found of a network."""

    classes: list[str]
    names: list[str]  # of the shown images, in the order of `sight`
    split: str  # "val" or "test": of the shown images
    steps: list[Step]
    left_out: int  # steps
    first: tuple[str, Tensor] | None  # the first layer and its filters (F, C, h, w)
    layers: list[Responses]
    others: list[str]  # convolutions that are not among them
    searched: int  # training images
    training: int  # images there are
    sight: Sight


class Origin(NamedTuple):
    """Where it was found."""

    title: str
    checkpoint: str
    epoch: int
    command: str  # that makes it again
    missing: Sequence[str]  # what there is not, and why


def look_page(found: Found, origin: Origin) -> str:
    """The page."""
    sight, classes = found.sight, [one_line(name) for name in found.classes]
    bare = sight.images[0]
    scale = scale_of(bare)
    sizes = [step.values.shape[1] for step in found.steps if step.values.ndim == 3]
    shown = thumbnail(bare)
    order = np.argsort(-sight.likely[0], kind="stable")[:BARS]
    reasons: dict[str, list[str]] = {}
    for layer in found.layers:
        if layer.refusal:
            reasons.setdefault(layer.refusal, []).append(layer.name)
    return rendered(
        "look.html",
        title=one_line(origin.title),
        checkpoint=one_line(origin.checkpoint),
        epoch=origin.epoch,
        command=one_line(origin.command),
        missing=[one_line(line) for line in origin.missing],
        percent=percent,
        split={"val": "validation"}.get(found.split, found.split),
        example={
            "label": classes[sight.labels[0]],
            "name": one_line(found.names[0]),
            "shape": shape_text(bare.shape),
            "picture": shown["picture"],
            "width": round(bare.shape[2] * scale),
            "height": round(bare.shape[1] * scale),
        },
        sizes=", ".join(map(str, dict.fromkeys([bare.shape[1], *sizes]))),
        left_out=found.left_out,
        steps=[step_shown(step, scale) for step in found.steps],
        bars=[{"name": classes[k], "share": float(sight.likely[0][k])} for k in order],
        first=first_shown(found.first) if found.first else None,
        patches=COUNT,
        searched=found.searched,
        training=found.training,
        projects=any(not layer.refusal for layer in found.layers),
        refusals=[refusal_text(names, why) for why, names in reasons.items()],
        others=", ".join(found.others),
        layers=[layer_shown(layer, tuple(bare.shape)) for layer in found.layers],
        gradcam=sight.target,
        sights=list(sights_shown(found, classes)),
    )


def refusal_text(names: list[str], why: str) -> str:
    """Why layers have no projection back to the pixels."""
    text = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return (
        f"No projection back to the pixels for {text}: it goes through convolution, ReLU and max "
        f"pooling alone, and {why}."
    )


def scale_of(image: Tensor) -> float:
    """Pixels of the page for one of an image (C, H, W), and of its maps."""
    scale = IMAGE / max(image.shape[1:])
    return math.floor(scale) if scale >= 1 else scale


def shape_text(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))


def step_shown(step: Step, scale: float) -> dict[str, Any]:
    pictures = pictures_of(step, scale)
    return {
        "shape": shape_text(step.values.shape),
        "layers": step.layers,
        "name": step.name,
        "arithmetic": step.arithmetic,
        "left_out": step.values.ndim == 3 and len(step.values) > len(pictures),
        "maps": [uri_of(each) for each in pictures],
        "width": pictures[0].width,
        "height": pictures[0].height,
    }


def pictures_of(step: Step, scale: float) -> list[Image.Image]:
    """Of each map, at most MOST_MAPS, or of all values of a linear layer, in rows of ROW."""
    pixels = shades(step.values)
    if pixels.ndim == 3:
        side = max(SMALLEST, round(max(pixels.shape[1:]) * scale))
        return [fitted(Image.fromarray(each), side) for each in pixels[:MOST_MAPS]]
    columns = min(ROW, len(pixels))
    rows = math.ceil(len(pixels) / columns)
    padded = np.zeros((2, rows * columns), np.uint8)  # values, and whether there is one
    padded[0, : len(pixels)], padded[1, : len(pixels)] = pixels, 255
    whole = picture_of(padded.reshape(2, rows, columns))
    return [whole.resize((columns * VALUE, rows * VALUE), Image.Resampling.NEAREST)]


def first_shown(first: tuple[str, Tensor]) -> dict[str, Any]:
    name, weights = first
    filters = [
        {"number": number, "picture": uri_of(each), "width": each.width, "height": each.height}
        for number, each in filter_pictures(weights)
    ]
    return {
        "name": name,
        "total": len(weights),
        "size": shape_text(weights.shape[2:]),
        "is_colour": weights.shape[1] == 3,
        "filters": filters,
    }


def filter_pictures(weights: Tensor) -> list[tuple[int, Image.Image]]:
    """Number and picture of at most MOST_FILTERS of the filters (F, C, h, w)."""
    side = max(WEIGHTS, min(2 * WEIGHTS, *weights.shape[2:]))
    return [
        (number, fitted(picture_of(signed(weights[number])), side, side))
        for number in evenly(len(weights), MOST_FILTERS).tolist()
    ]


def layer_shown(layer: Responses, image_shape: tuple[int, ...]) -> dict[str, Any]:
    is_photo = max(layer.field) > PHOTO
    filters = [
        {
            "number": each.number,
            "response": each.response,
            "silent": layer.is_rectified and each.response <= NOTHING,
            "patches": uri_of(each.patches, is_photo),
            "projection": uri_of(each.projection, is_photo) if each.projection else "",
        }
        for each in layer.filters
    ]
    return {
        "name": layer.name,
        "shape": layer.shape,
        "field": layer.field,
        "whole": layer.field == image_shape[1:],
        "filters": filters,
    }


def sights_shown(found: Found, classes: list[str]) -> Iterator[dict[str, Any]]:
    sight = found.sight
    for place, image in enumerate(sight.images):
        maps = [sight.occlusion] + ([sight.gradcam] if sight.gradcam is not None else [])
        yield {
            "bare": thumbnail(image),
            "maps": [map_uri(each[place].numpy()) for each in maps],
            "label": classes[sight.labels[place]],
            "prediction": classes[sight.likely[place].argmax()],
            "confidence": float(sight.likely[place].max()),
            "name": one_line(found.names[place]),
        }


def look_pictures(found: Found) -> Iterator[tuple[str, bytes]]:
    """The names and contents of PNG files of the same pictures."""
    yield "maps.png", file_of(sheet_of_steps(found.sight.images[0], found.steps))
    if found.first:
        yield "filters.png", file_of(sheet_of_filters(found.first[1]))
    for layer in found.layers:
        cells = [
            Cell(f"{each.number}: {each.response:.3g}", [p for p in each[2:] if p is not None])
            for each in layer.filters
        ]
        name = re.sub(r"[^\w.-]", "_", layer.name)  # which a module may have any
        yield f"patches_{name}.png", file_of(sheet(cells))
    sight, bare = found.sight, [fitted(picture_of(i.numpy()), 128) for i in found.sight.images]
    for name, maps in (("occlusion", sight.occlusion), ("gradcam", sight.gradcam)):
        if maps is not None:
            pairs = [
                Cell(caption_of(found, place), [image, veiled(image, maps[place])])
                for place, image in enumerate(bare)
            ]
            yield f"{name}.png", file_of(sheet(pairs))


def sheet_of_steps(image: Tensor, steps: Sequence[Step]) -> Image.Image:
    """An image (C, H, W) uint8, and below it the maps of each step."""
    scale = scale_of(image)
    cells = [Cell(f"image, {shape_text(image.shape)}", [fitted(picture_of(image.numpy()), IMAGE)])]
    for step in steps:
        pictures = pictures_of(step, scale)
        columns = max(1, 960 // (pictures[0].width + 2))
        caption = f"{step.name}: {step.layers}, {shape_text(step.values.shape)}"
        cells.append(Cell(caption, [mosaic(pictures, min(columns, len(pictures)))]))
    return sheet(cells)


def sheet_of_filters(weights: Tensor) -> Image.Image:
    """Filters (F, C, h, w) with their numbers."""
    return sheet([Cell(str(number), [each]) for number, each in filter_pictures(weights)])


def caption_of(found: Found, place: int) -> str:
    truth, said = found.sight.labels[place], found.sight.likely[place].argmax()
    text = f"{one_line(found.classes[truth])[:20]}, taken for {one_line(found.classes[said])[:20]}"
    return text.encode("latin-1", "replace").decode("latin-1")


def veiled(image: Image.Image, map_: Tensor) -> Image.Image:
    """An image under a red veil, thickest where the map (h, w) is largest; nothing below zero."""
    drops = map_.clamp(min=0)
    largest = float(drops.max())
    shares = torch.round(190 * drops / largest) if largest > 0 else drops
    veil = Image.fromarray(shares.byte().numpy()).resize(image.size, Image.Resampling.BILINEAR)
    red = Image.new("RGB", image.size, (230, 0, 0))
    return Image.composite(red, image.convert("RGB"), veil)
