"""The user's own picture files: from their lists to images in memory, or to streams of too many."""

import math
from collections.abc import Iterable, Sequence
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
    headers: list[Header]  # of each, as its file has it
    hashes: list[bytes]  # of each, as it was read
    histogram: np.ndarray  # (C, 256) pixels of each value, of all
    unreadable: list[str]  # path and reason of each file left out, of folder or list as a whole
    background: Background  # what transparent ones lie over
    plain: list[str]  # paths of those that have a single colour
    held_out: tuple[tuple[str, str], ...] = ()  # see Listing
    groups: int = 0  # that data.group tells apart

    def take(self, chosen: Tensor) -> "Files":
        """Those of some of the images; the histogram stays that of all."""
        indices = chosen.tolist()
        paths = [self.paths[index] for index in indices]
        headers = [self.headers[index] for index in indices]
        hashes = [self.hashes[index] for index in indices]
        plain = [path for path in self.plain if path in paths]
        return self._replace(paths=paths, headers=headers, hashes=hashes, plain=plain)

    def with_header(self, *wanted: str) -> list[str]:
        """The paths of those whose headers say one of the `wanted`, such as "animated"."""
        return [
            path
            for path, header in zip(self.paths, self.headers, strict=True)
            if any(getattr(header, name) for name in wanted)
        ]


def leave_out_unreadable(root: Path, listing: Listing) -> Listing:
    """`listing` without the files that cannot be read, which it then names.

    They are found by decoding every file, before images are chosen, counted or measured. Raises
    UserError where nothing is left, or nothing of a class of the training images.
    """
    paths, labels = listing.paths, listing.labels
    reasons = Pictures(root, paths, Form((3, 1, 1), "stretch")).read_all(keep=False).reasons
    if not reasons:
        return listing
    readable = [index for index in range(len(paths)) if index not in reasons]
    rest = listing.take(torch.tensor(readable, dtype=torch.long))
    left_out = tuple(f"{paths[index]} ({why})" for index, why in sorted(reasons.items()))
    lost = sorted({*labels.tolist()} - {*rest.labels.tolist()})
    if not readable or (lost and listing.split == "train"):
        names = [listing.classes[label] for label in lost]
        raise UserError(
            f"{refusal(root, left_out, len(paths))}; of a class of {listing.split} none is left "
            f"without them: {shortened(names)}"
        )
    return rest._replace(unreadable=left_out)


def read_listings(
    data: Data,
    listings: dict[str, Listing],
    shape: tuple[int, int, int] | None = None,
    background: Background = "black",
) -> dict[str, tuple[Tensor | Stream, Tensor, Files]]:
    """Images (N, C, H, W), labels and files of each listing; `shape` (C, H, W) and `background`
    are those of a trained network.

    Every file is decoded once here. Where data.memory_limit has no room for all of them their
    pixels are measured only. Raises UserError for files that cannot be read.
    """
    root = Path(data.root)
    headers = look_at(root, [path for part in listings.values() for path in part.paths])
    is_trained = shape is not None
    form = form_of(data, shape, background) if shape else None
    form = form or training_form(data, headers, listings.values())
    if form.resize is None:
        check_sizes(root, headers, form.shape)
    count = sum(len(part.paths) for part in listings.values())
    in_memory = math.prod(form.shape) * count <= data.memory_bytes

    found: dict[str, tuple[Tensor | Stream, Tensor, Files]] = {}
    unreadable: list[str] = []
    for name, part in listings.items():
        contents = Pictures(root, part.paths, form).read_all(keep=in_memory)
        unreadable += [f"{part.paths[i]} ({why})" for i, why in sorted(contents.reasons.items())]
        files = Files(
            part.paths,
            part.classes,
            [head for path in part.paths if isinstance(head := headers[path], Header)],
            contents.hashes,
            contents.histogram,
            [*part.unreadable],
            form.background,
            [part.paths[index] for index in contents.plain],
            part.held_out,
            len(set(part.groups or ())),
        )
        images = (
            Stream(Pictures(root, part.paths, form, contents.hashes))
            if contents.images is None
            else torch.from_numpy(contents.images)
        )
        found[name] = (images, part.labels, files)

    if unreadable:
        if any(part.split == "test" for part in listings.values()):
            kept = any(part.kept for part in listings.values())
            remedy = "bring them back" if kept else "remove them"
            remedy += ", or leave them out with --skip-unreadable"
        elif is_trained:
            remedy = "they could be when the network was trained: bring them back"
        else:
            remedy = "remove them, or train with data.skip_unreadable=true"
        raise UserError(f"{refusal(root, unreadable, count)}; {remedy}")
    return found


def refusal(root: Path, unreadable: Sequence[str], count: int) -> str:
    return (
        f"{root}: {len(unreadable):,} of {count:,} images cannot be read: {shortened(unreadable)}"
    )


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
    resize = data.resize if data.sides else None
    return Form(shape, resize, background, (low, high), *data.resampling)


def training_shape(
    data: Data, headers: dict[str, Header | str], listings: Iterable[Listing]
) -> tuple[int, int, int]:
    """(C, H, W) that `data` asks for or else the training files have.

    Raises UserError where it depends on them and none can be read.
    """
    if data.channels and data.sides:
        return data.channels, *data.sides
    training = [path for part in listings if part.split == "train" for path in part.paths]
    found = [header for path in training if isinstance(header := headers[path], Header)]
    if not found:
        reasons = [f"{path} ({headers[path]})" for path in training]
        raise UserError(f"{data.root}: no training image can be read: {shortened(reasons)}")
    channels = data.channels or (1 if all(header.grey for header in found) else 3)
    return channels, *(data.sides or found[0][:2])


def check_sizes(root: Path, headers: dict[str, Header | str], shape: tuple[int, int, int]) -> None:
    for path, header in headers.items():
        if isinstance(header, Header) and header[:2] != shape[1:]:
            size, others = ("x".join(map(str, sides)) for sides in (header[:2], shape[1:]))
            raise UserError(
                f"data.image_size = null takes images of one size: {root / path} has {size} "
                f"pixels, others have {others}; training with data.image_size=N makes all of them "
                "NxN, with [H,W] HxW"
            )


def shortened(items: Sequence[str]) -> str:
    more = f" and {len(items) - NAMED:,} more" if len(items) > NAMED else ""
    return ", ".join(items[:NAMED]) + more
