"""What networks are sized by: the shape of the images, and arguments with their ranges."""

from collections.abc import Sequence
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, Lt

ImageShape = tuple[int, int, int]  # channels, height, width
Count = Annotated[int, Gt(0)]
Width = Annotated[float, Gt(0), Le(1000)]
Share = Annotated[float, Ge(0), Lt(1)]
Padding = Annotated[int, Ge(0)] | Literal["same"]


def is_small(image_shape: ImageShape) -> bool:
    """Whether a stem made for photographs of 224 pixels would leave nothing of these images."""
    return min(image_shape[1:]) < 64


def scaled(channels: Sequence[Sequence[int]], width: float) -> list[list[int]]:
    return [[max(1, round(width * c)) for c in block] for block in channels]
