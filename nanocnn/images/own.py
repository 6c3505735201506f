"""The user's own picture files: from their lists to images in memory, or to streams of too many."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from nanocnn.config.schema import Data
from nanocnn.images.cache import Cache
from nanocnn.images.cached_stream import CachedStream
from nanocnn.images.decode import ALL_16_BITS, Background, Form, Header
from nanocnn.images.listing import Listing
from nanocnn.images.pictures import Contents, Pictures, look_at
from nanocnn.images.pixels import DamagedError
from nanocnn.images.stream import Stream
from nanocnn.images.survey import check_value_range, choose_background
from nanocnn.system.errors import UserError

NAMED = 3  # files of a long list that an error names

Images = Tensor | Stream | CachedStream


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


def leave_out_unreadable(data: Data, listing: Listing) -> Listing:
    """`listing` without the files that cannot be read, which it then names.

    They are found by decoding every file, before images are chosen, counted or measured. Raises
    UserError where nothing is left, or nothing of a class of the training images.
    """
    root, paths, labels = Path(data.root), listing.paths, listing.labels
    form = Form((3, 1, 1), "stretch", shrink=data.shrink == "auto")
    reasons: dict[int, str] = {}
    places = {path: index for index, path in enumerate(paths)}

    def find_readable(some: list[str]) -> dict[str, bool]:
        found = Pictures(root, some, form).read_all(keep=False).reasons
        reasons.update({places[some[index]]: why for index, why in found.items()})
        return {path: True for index, path in enumerate(some) if index not in found}

    Cache(data).known(listing.split, "readable", paths, find_readable)
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
) -> dict[str, tuple[Images, Tensor, Files]]:
    """Images (N, C, H, W), labels and files of each listing; `shape` (C, H, W) and `background`
    are those of a trained network.

    Every file is decoded once here, unless an earlier run has. Where data.memory_limit has no room
    for all of them their pixels are measured only. Raises UserError for files that cannot be read.
    """
    root, cache = Path(data.root), Cache(data)
    headers = look_at_all(cache, listings.values())
    is_trained = shape is not None
    form = form_of(data, shape, background) if shape else None
    form = form or training_form(data, cache, headers, listings.values())
    if form.resize is None:
        check_sizes(root, headers, form.shape)
    count = sum(len(part.paths) for part in listings.values())
    in_memory = form.size * count <= data.memory_bytes

    found: dict[str, tuple[Images, Tensor, Files]] = {}
    unreadable: list[str] = []
    for split in dict.fromkeys(part.split for part in listings.values()):
        parts = {name: part for name, part in listings.items() if part.split == split}
        for name, (images, contents) in read_parts(cache, parts, form, in_memory).items():
            part = parts[name]
            unreadable += [
                f"{part.paths[i]} ({why})" for i, why in sorted(contents.reasons.items())
            ]
            files = files_of(part, headers, contents, form.background)
            found[name] = images, part.labels, files

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
    return {name: found[name] for name in listings}


def look_at_all(cache: Cache, listings: Iterable[Listing]) -> dict[str, Header | str]:
    """The header of each file, or why it cannot be read."""
    headers: dict[str, Header | str] = {}

    def find(paths: list[str]) -> dict[str, Header]:
        headers.update(look_at(cache.root, paths))
        return {path: head for path in paths if isinstance(head := headers[path], Header)}

    by_split: dict[str, list[str]] = {}
    for part in listings:
        by_split.setdefault(part.split, []).extend(part.paths)
    for split, paths in by_split.items():
        known = cache.known(split, "headers", paths, find)
        headers |= {path: Header(*values) for path, values in known.items()}
    return headers


def read_parts(
    cache: Cache, parts: dict[str, Listing], form: Form, in_memory: bool
) -> dict[str, tuple[Images, Contents]]:
    """The images of the `parts` of one split, and what is found in them.

    They are kept together, whatever was carved from them: runs of several seeds share one file.
    """
    paths = sorted({path for part in parts.values() for path in part.paths})
    place = {path: row for row, path in enumerate(paths)}
    rows = {name: np.array([place[path] for path in part.paths]) for name, part in parts.items()}
    split = next(part.split for part in parts.values())
    file = cache.open(split, paths, form)
    if file:
        try:
            contents = file.contents(rows, in_memory)
        except DamagedError:
            cache.tell_damaged(file.path)
            file = None
    if not file:
        contents = {}
        with cache.writing(split, paths, form) as writer:
            for name, part in parts.items():
                put = writer.of(rows[name]) if writer else None
                pictures = Pictures(cache.root, part.paths, form)
                contents[name] = pictures.read_all(in_memory, put)
                if writer:
                    writer.add(rows[name], contents[name])
        if not in_memory:
            file = cache.open(split, paths, form)

    def images_of(name: str) -> Images:
        images = contents[name].images
        if images is not None:
            return torch.from_numpy(images)
        pictures = Pictures(cache.root, parts[name].paths, form, contents[name].hashes)
        return CachedStream(file, rows[name], pictures) if file else Stream(pictures)

    return {name: (images_of(name), contents[name]) for name in parts}


def files_of(
    part: Listing, headers: dict[str, Header | str], contents: Contents, background: Background
) -> Files:
    return Files(
        part.paths,
        part.classes,
        [head for path in part.paths if isinstance(head := headers[path], Header)],
        contents.hashes,
        contents.histogram,
        [*part.unreadable],
        background,
        [part.paths[index] for index in contents.plain],
        part.held_out,
        len(set(part.groups or ())),
    )


def refusal(root: Path, unreadable: Sequence[str], count: int) -> str:
    return (
        f"{root}: {len(unreadable):,} of {count:,} images cannot be read: {shortened(unreadable)}"
    )


def training_form(
    data: Data, cache: Cache, headers: dict[str, Header | str], listings: Iterable[Listing]
) -> Form:
    """What pictures are made into, as `data` asks for or the training files need it.

    Raises UserError where it depends on them and none can be read, or where `data` asks for what
    cannot act on them.
    """
    listings = list(listings)
    shape = training_shape(data, headers, listings)
    paths = [path for part in listings if part.split == "train" for path in part.paths]
    training = {path: head for path in paths if isinstance(head := headers[path], Header)}
    check_value_range(data, cache, training)
    if data.background == "auto":
        return form_of(data, shape, choose_background(cache, training))
    return form_of(data, shape, data.background)


def form_of(data: Data, shape: tuple[int, int, int], background: Background) -> Form:
    low, high = data.value_range or ALL_16_BITS
    resize = data.resize if data.sides else None
    shrink = data.shrink == "auto"
    return Form(shape, resize, background, (low, high), *data.resampling, shrink)


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
