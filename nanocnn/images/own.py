"""The user's own picture files: from their lists to images in memory, or to streams of too many."""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from nanocnn.config.schema import Data
from nanocnn.images.decode import ALL_16_BITS, Background, Form, Header
from nanocnn.images.listing import Listing
from nanocnn.images.pictures import Pictures, look_at
from nanocnn.images.stream import Stream
from nanocnn.images.survey import check_value_range, choose_background
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
    background: Background  # what transparent ones lie over
    plain: list[str]  # paths of those that have a single colour
    animated: list[str]  # paths of those of several frames or pages


def read_listings(
    data: Data,
    listings: dict[str, Listing],
    shape: tuple[int, int, int] | None = None,
    background: Background = "black",
) -> dict[str, tuple[Tensor | Stream, Tensor, Files]]:
    """Images (N, C, H, W), labels and files of each listing; `shape` (C, H, W) and `background`
    are those of a trained network.

    Every file is decoded once here. Where data.memory_limit has no room for all of them their
    pixels are measured only. Raises UserError for files that cannot be read, unless they are to be
    left out.
    """
    root = Path(data.root)
    headers = look_at(root, [path for part in listings.values() for path in part.paths])
    trained = form_of(data, shape, background) if shape else None
    form = trained or training_form(data, headers, listings.values())
    if form.resize is None:
        check_sizes(root, headers, form.shape)
    count = sum(len(part.paths) for part in listings.values())
    in_memory = math.prod(form.shape) * count <= data.memory_bytes

    found: dict[str, tuple[Tensor | Stream, Tensor, Files]] = {}
    unreadable = []
    for name, part in listings.items():
        contents = Pictures(root, part.paths, form).read_all(keep=in_memory)
        reasons = contents.reasons
        readable = [index for index in range(len(part.paths)) if index not in reasons]
        paths = [part.paths[index] for index in readable]
        images = (
            Stream(Pictures(root, paths, form, contents.hashes))
            if contents.images is None
            else torch.from_numpy(contents.images)
        )
        left_out = [f"{part.paths[index]} ({why})" for index, why in sorted(reasons.items())]
        unreadable += left_out
        looked = [(path, head) for path in paths if isinstance(head := headers[path], Header)]
        files = Files(
            paths,
            part.classes,
            [header[:2] for _, header in looked],
            contents.hashes,
            contents.histogram,
            left_out,
            form.background,
            [part.paths[index] for index in contents.plain],
            [path for path, header in looked if header.animated],
        )
        found[name] = (images, part.labels[readable], files)

    emptied = [name for name, part in listings.items() if is_emptied(part, found[name][1])]
    if unreadable and (emptied or not data.skip_unreadable):
        remedy = "remove them, or train with data.skip_unreadable=true"
        if data.skip_unreadable:
            remedy = f"of a class of {' and '.join(emptied)} none is left without them"
        raise UserError(
            f"{root}: {len(unreadable):,} of {count:,} images cannot be read: "
            f"{shortened(unreadable)}; {remedy}"
        )
    return found


def training_form(
    data: Data, headers: dict[str, Header | str], listings: Iterable[Listing]
) -> Form:
    """What pictures are made into, as `data` asks for or the training files need it.

    Raises UserError where it depends on them and none can be read, or where `data` asks for what
    cannot act on them.
    """
    listings = list(listings)
    shape = training_shape(data, headers, listings)
    paths = [path for part in listings if part.split == "train" for path in part.paths]
    training = {path: head for path in paths if isinstance(head := headers[path], Header)}
    check_value_range(data, training)
    if data.background == "auto":
        return form_of(data, shape, choose_background(Path(data.root), training))
    return form_of(data, shape, data.background)


def form_of(data: Data, shape: tuple[int, int, int], background: Background) -> Form:
    low, high = data.value_range or ALL_16_BITS
    return Form(shape, data.resize if data.image_size else None, background, (low, high))


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
    height, width = found[0][:2]
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
