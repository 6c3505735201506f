"""What is decided of all training pictures together, before they are read: what lies behind
transparent ones, and whether 16 bits are used.
"""

import math
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from nanocnn.config.schema import Data
from nanocnn.images.cache import Cache
from nanocnn.images.decode import Background, Header, load, open_picture
from nanocnn.images.pictures import in_threads
from nanocnn.system.errors import UserError

SMALL_SHARE = 0.25  # of the range of 16 bits: fewer than 64 of 256 levels are left of it


def choose_background(cache: Cache, training: dict[str, Header]) -> Background:
    """ "white" where what is opaque in the transparent training pictures is dark, else "black".

    It is decided once, for all: of each picture with a transparent pixel the mean brightness is
    taken, each pixel counting as it is opaque, and of these the mean. The background that it is
    farther from shows more. A choice for each picture would tell the classes apart.
    """
    paths = [path for path, header in training.items() if header.transparent]
    found = in_each(cache, "train", "opacity", paths, opacity)
    levels = [level for _, level in found.values() if level is not None]
    return "white" if levels and math.fsum(levels) / len(levels) < 255 / 2 else "black"


def in_each(
    cache: Cache, split: str, what: str, paths: list[str], measure: Callable[[Path], Any]
) -> dict[str, Any]:
    """What `measure` finds in each of these pictures of a split, but for those that cannot be read.

    It is kept as `what` it is, for later runs.
    """

    def find(some: list[str]) -> dict[str, Any]:
        def measure_some(chosen: np.ndarray) -> dict[str, Any]:
            found = {}
            for index in chosen:
                # whatever Pillow stumbles on, reading will tell
                with suppress(Exception):
                    found[some[index]] = measure(cache.root / some[index])
            return found

        parts = in_threads(measure_some, len(some), 16, "measuring")
        return {path: found for part in parts for path, found in part.items()}

    return cache.known(split, what, paths, find) if paths else {}


def opacity(path: Path) -> tuple[bool, float | None]:
    """Whether a pixel is transparent, and where some are and some are not, the mean of what is
    opaque, from 0 to 255.
    """
    picture = load(path)
    alpha = np.asarray(picture.getchannel("A")).astype(np.int64)
    if alpha.min() == 255 or alpha.max() == 0:
        return bool(alpha.min() != 255), None
    grey = np.asarray(picture.convert("RGB").convert("L")).astype(np.int64)
    return True, float((grey * alpha).sum() / alpha.sum())


def transparent_ones(cache: Cache, split: str, paths: list[str]) -> list[str]:
    """Those of `paths`, which say that they may be, that have a transparent pixel."""
    found = in_each(cache, split, "opacity", paths, opacity)
    return [path for path in paths if path in found and found[path][0]]


def coloured_ones(cache: Cache, split: str, paths: list[str]) -> list[str]:
    """Those of `paths` with a pixel that is not grey."""
    found = in_each(cache, split, "colour", paths, has_colour)
    return [path for path in paths if found.get(path)]


def has_colour(path: Path) -> bool:
    colours = np.asarray(load(path).convert("RGB"))
    return bool((colours != colours[:, :, :1]).any())


def check_value_range(data: Data, cache: Cache, training: dict[str, Header]) -> None:
    """Warn of 16 bits that are hardly used. Raises UserError for a data.value_range that cannot
    act.
    """
    root = cache.root
    cut = [path for path, header in training.items() if header.cut]
    deep = [path for path, header in training.items() if header.deep]
    if data.value_range is not None:
        if cut:
            raise UserError(
                f"data.value_range = {list(data.value_range)}: cannot act on colours of 16 bits, "
                f"such as {root / cut[0]}, of which the upper 8 are read; save them with 8"
            )
        if not deep:
            raise UserError(
                f"data.value_range = {list(data.value_range)}: cannot act, since no training "
                "picture has 16 bits"
            )
        return
    for paths, bits in ((deep, 16), (cut, 8)):
        found = extremes(cache, "train", paths)
        if found is None or found[1] - found[0] > SMALL_SHARE * (2**bits - 1):
            continue
        low, high = found
        if low == high:
            continue  # there is no range to use; pixels that are all alike are refused elsewhere
        least = 0 if high <= SMALL_SHARE * 2**bits else low
        most = 2 ** int(high).bit_length() - 1 if least == 0 else high
        remedy = (
            f"data.value_range=[{least},{most}] uses all 256"
            if bits == 16
            else "save them with 8 bits, of which the range is used"
        )
        print(
            f"warning: {len(paths):,} training pictures have 16 bits but use {share(found, bits)} "
            f"of their range, so that few of 256 levels are left: the first is {paths[0]}; "
            f"{remedy}",
            file=sys.stderr,
        )


def share(found: tuple[int, int], bits: int) -> str:
    return f"{(found[1] - found[0]) / (2**bits - 1):.1%}"


def extremes(cache: Cache, split: str, paths: list[str]) -> tuple[int, int] | None:
    """The least and the largest value in these pictures, None where none can be read."""
    pairs = in_each(cache, split, "range", paths, range_of)
    if not pairs:
        return None
    lows, highs = zip(*pairs.values(), strict=True)
    return min(lows), max(highs)


def range_of(path: Path) -> list[int]:
    """The least and the largest value in a picture."""
    with open_picture(path) as image:
        values = np.asarray(image if image.mode[0] == "I" else image.convert("RGB"))
    return [int(values.min()), int(values.max())]
