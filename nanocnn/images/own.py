"""The user's own picture files: from their lists to images in memory, or to streams of too many."""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch import Tensor

from nanocnn.config.schema import Data
from nanocnn.images.listing import Listing
from nanocnn.images.pictures import Header, Pictures, look_at
from nanocnn.images.stream import Stream
from nanocnn.system.errors import UserError

NAMED = 3  # files of a long list that an error names


class Files(NamedTuple):
    """What is known of a split besides its images and labels, where it was read from files."""

    paths: list[str]  # of each image, below data.root
    classes: list[str]
    sizes: list[tuple[int, int]]  # (H, W) of each in its file
    hashes: list[bytes]  # of each, as it was read
    histogram: np.ndarray  # (C, 256) pixels of each value, of all
    unreadable: list[str]  # path and reason of each file that was left out


def read_listings(
    data: Data, listings: dict[str, Listing], shape: tuple[int, int, int] | None = None
) -> dict[str, tuple[Tensor | Stream, Tensor, Files]]:
    """Images (N, C, H, W), labels and files of each listing; `shape` (C, H, W) is that of a trained
    network.

    Every file is decoded once here. Where data.memory_limit has no room for all of them their
    pixels are measured only. Raises UserError for files that cannot be read, unless they are to be
    left out.
    """
    root = Path(data.root)
    headers = look_at(root, [path for part in listings.values() for path in part.paths])
    shape = shape or training_shape(data, headers, listings.values())
    resize = data.resize if data.image_size else None
    if resize is None:
        check_sizes(root, headers, shape)
    count = sum(len(part.paths) for part in listings.values())
    in_memory = math.prod(shape) * count <= data.memory_bytes

    found: dict[str, tuple[Tensor | Stream, Tensor, Files]] = {}
    unreadable = []
    for name, part in listings.items():
        contents = Pictures(root, part.paths, shape, resize).read_all(keep=in_memory)
        reasons = contents.reasons
        readable = [index for index in range(len(part.paths)) if index not in reasons]
        paths = [part.paths[index] for index in readable]
        images = (
            Stream(Pictures(root, paths, shape, resize))
            if contents.images is None
            else contents.images
        )
        left_out = [f"{part.paths[index]} ({why})" for index, why in sorted(reasons.items())]
        unreadable += left_out
        files = Files(
            paths,
            part.classes,
            [header[:2] for path in paths if isinstance(header := headers[path], Header)],
            contents.hashes,
            contents.histogram,
            left_out,
        )
        found[name] = (images, part.labels[readable], files)

    emptied = [name for name, part in listings.items() if is_emptied(part, found[name][1])]
    if unreadable and (emptied or not data.skip_unreadable):
        raise UserError(
            f"{root}: {len(unreadable):,} of {count:,} images cannot be read: "
            f"{shortened(unreadable)}; "
            + (
                f"of a class of {' and '.join(emptied)} none is left without them"
                if data.skip_unreadable
                else "remove them, or train with data.skip_unreadable=true"
            )
        )
    return found


def training_shape(
    data: Data, headers: dict[str, Header | str], listings: Iterable[Listing]
) -> tuple[int, int, int]:
    """(C, H, W) that `data` asks for or else the training files have.

    Raises UserError where it depends on them and none can be read.
    """
    if data.channels and data.image_size:
        return data.channels, data.image_size, data.image_size
    training = [path for part in listings if part.split == "train" for path in part.paths]
    found = [header for path in training if isinstance(header := headers[path], Header)]
    if not found:
        reasons = [f"{path} ({headers[path]})" for path in training]
        raise UserError(f"{data.root}: no training image can be read: {shortened(reasons)}")
    channels = data.channels or (1 if all(header.grey for header in found) else 3)
    height, width, _ = found[0]
    return channels, data.image_size or height, data.image_size or width


def check_sizes(root: Path, headers: dict[str, Header | str], shape: tuple[int, int, int]) -> None:
    for path, header in headers.items():
        if isinstance(header, Header) and header[:2] != shape[1:]:
            size, others = ("x".join(map(str, sides)) for sides in (header[:2], shape[1:]))
            raise UserError(
                f"data.image_size = null takes images of one size: {root / path} has {size} "
                "pixels, "
                f"others have {others}; training with data.image_size=N makes all of them NxN"
            )


def is_emptied(part: Listing, labels: Tensor) -> bool:
    """Whether a split, or of the training images a class, has no image left."""
    if part.split == "train":
        return len(labels.unique()) < len(part.labels.unique())
    return len(labels) == 0


def shortened(items: list[str]) -> str:
    more = f" and {len(items) - NAMED:,} more" if len(items) > NAMED else ""
    return ", ".join(items[:NAMED]) + more
