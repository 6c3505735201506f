"""How images come to a network: what published or earlier weights were trained to expect."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

Interpolation = Literal["bilinear", "bicubic"]


@dataclass(frozen=True)
class Preprocessing:
    """What the first weights of a network expect of its images."""

    weights: str  # which they are, in words, with the checksum of a file
    mean: list[float]  # a channel, of pixels scaled to [0, 1]; none: those of the images at hand
    std: list[float]
    interpolation: Interpolation = "bilinear"
    crop_fraction: float = 1.0  # of the side of a square cut out of the middle

    @classmethod
    def of_run(cls, data: Mapping[str, Any]) -> Self | None:
        """What a run began from, as its checkpoint keeps it with its data; None for nothing."""
        if not data.get("weights"):
            return None
        keys = ("weights", "mean", "std", "interpolation", "crop_fraction")
        return cls(**{key: data[key] for key in keys if key in data})
