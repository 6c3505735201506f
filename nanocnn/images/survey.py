"""What is decided of all training pictures together, before they are read: what lies behind
transparent ones, and whether 16 bits are used.
"""

import math
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np

from nanocnn.config.schema import Data
from nanocnn.images.decode import Background, Header, load, open_picture
from nanocnn.images.pictures import in_threads
from nanocnn.system.errors import UserError

SMALL_SHARE = 0.25  # of the range of 16 bits: fewer than 64 of 256 levels are left of it


def choose_background(root: Path, training: dict[str, Header]) -> Background:
    """ "white" where what is opaque in the transparent training pictures is dark, else "black".

    It is decided once, for all: of each picture with a transparent pixel the mean brightness is
    taken, each pixel counting as it is opaque, and of these the mean. The background that it is
    farther from shows more. A choice for each picture would tell the classes apart.
    """
    paths = [path for path, header in training.items() if header.transparent]

    def measure(chosen: np.ndarray) -> list[float | None]:
        return [brightness(root / paths[index]) for index in chosen]

    if not paths:
        return "black"
    found = in_threads(measure, len(paths), 16, "measuring")
    levels = [level for part in found for level in part if level is not None]
    return "white" if levels and math.fsum(levels) / len(levels) < 255 / 2 else "black"


def brightness(path: Path) -> float | None:
    """The mean of what is opaque, from 0 to 255; None where all is, nothing is, or it cannot be
    read.
    """
    try:
        picture = load(path)
    except Exception:  # noqa: BLE001  whatever Pillow stumbles on, reading will tell
        return None
    opacity = np.asarray(picture.getchannel("A")).astype(np.int64)
    if opacity.min() == 255 or opacity.max() == 0:
        return None
    grey = np.asarray(picture.convert("RGB").convert("L")).astype(np.int64)
    return float((grey * opacity).sum() / opacity.sum())


def transparent_ones(root: Path, paths: list[str], first: bool = False) -> list[str]:
    """Those of `paths`, which say that they may be, that have a transparent pixel; of `first` not
    more than are found at once.
    """
    found: list[str] = []

    def look(chosen: np.ndarray) -> None:
        for index in chosen:
            if first and found:
                return
            with suppress(Exception):  # whatever Pillow stumbles on, reading will tell
                if load(root / paths[index]).getchannel("A").getextrema()[0] != 255:
                    found.append(paths[index])

    if paths:
        in_threads(look, len(paths), 16, "looking")
    there = set(found)
    return [path for path in paths if path in there]


def coloured_ones(root: Path, paths: list[str]) -> list[str]:
    """Those of `paths` with a pixel that is not grey."""

    def look(chosen: np.ndarray) -> list[str]:
        found = []
        for index in chosen:
            with suppress(Exception):  # as above
                colours = np.asarray(load(root / paths[index]).convert("RGB"))
                if (colours != colours[:, :, :1]).any():
                    found.append(paths[index])
        return found

    parts = in_threads(look, len(paths), 16, "looking") if paths else []
    return [path for part in parts for path in part]


def check_value_range(data: Data, training: dict[str, Header]) -> None:
    """Warn of 16 bits that are hardly used. Raises UserError for a data.value_range that cannot
    act.
    """
    root = Path(data.root)
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
        found = extremes(root, paths)
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


def extremes(root: Path, paths: list[str]) -> tuple[int, int] | None:
    """The least and the largest value in these pictures, None where none can be read."""
    if not paths:
        return None

    def measure(chosen: np.ndarray) -> list[tuple[int, int]]:
        found = []
        for index in chosen:
            # whatever Pillow stumbles on, reading will tell
            with suppress(Exception), open_picture(root / paths[index]) as image:
                values = np.asarray(image if image.mode[0] == "I" else image.convert("RGB"))
                found.append((int(values.min()), int(values.max())))
        return found

    pairs = [pair for part in in_threads(measure, len(paths), 16, "measuring") for pair in part]
    if not pairs:
        return None
    lows, highs = zip(*pairs, strict=True)
    return min(lows), max(highs)
