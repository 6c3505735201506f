"""Whether own pictures that a network is judged by are of the kind that it was trained on.

Pictures of another kind are read without a fault and all look wrong to the network: drawings on
nothing become black, 16 bits of which 12 are used become dark.
"""

import sys

import numpy as np

from nanocnn.config.schema import Data
from nanocnn.images.cache import Cache
from nanocnn.images.decode import ALL_16_BITS, to_8_bits
from nanocnn.images.own import Files, shortened
from nanocnn.images.splits import DataInfo, Split
from nanocnn.images.survey import coloured_ones, extremes, transparent_ones
from nanocnn.system.errors import UserError

OTHERWISE = 8  # times as dark or as bright: three of eight bits
MOST = 0.5  # of all pixels
SCALED = "save them scaled as the training images are"


def compare(name: str, split: Split, data: Data, info: DataInfo) -> None:
    """Warn where pictures of the split `name` are not as the training pictures, of which `info`
    tells, were.

    Raises UserError where nothing can be seen in them for that.
    """
    if split.files is None:
        return
    cache = Cache(data)
    remarks: list[str] = []
    over = ""
    if info.transparent is False:
        remarks = of_transparency(name, cache, split.files)
        over = "".join(f"; {remark}" for remark in remarks)
    elif split.files.with_header("transparent"):
        over = f"; transparent ones lie over {split.files.background}"
    refuse_nothing(name, data, split, over)
    if info.brightest is not None:
        remarks += of_depth(name, data, split.files, info.brightest)
    remarks += of_colour(name, cache, split.files, info.grey)
    for remark in remarks:
        print(f"warning: {data.root}: {remark}", file=sys.stderr)


def of_transparency(name: str, cache: Cache, files: Files) -> list[str]:
    found = transparent_ones(cache, name, files.with_header("transparent"))
    if not found:
        return []
    told = (
        f"{number(found, name, files)} are transparent, which no training image is, and lie over "
        f"{files.background}: {shortened(found)}; save them over what is behind the training images"
    )
    return [told]


def refuse_nothing(name: str, data: Data, split: Split, over: str) -> None:
    """Raises UserError where the images of several classes all have the same single colour."""
    files = split.files
    assert files is not None
    if len(files.plain) < len(files.paths) or len(set(files.hashes)) > 1:
        return
    if len(split.labels.unique()) > 1:
        raise UserError(
            f"{data.root}: all pixels of the {len(files.paths):,} {name} images are equal: there "
            f"is nothing to tell the classes by{over}"
        )


def of_depth(name: str, data: Data, files: Files, brightest: int) -> list[str]:
    """What is to say of pictures that are far darker or brighter than the `brightest` pixel of the
    training images lets expect.

    Raises UserError where all have 16 bits and are too dark.
    """
    deep = files.with_header("deep", "cut")
    highest = int(np.flatnonzero(files.histogram.sum(axis=0)).max())
    if len(deep) == len(files.paths) and highest * OTHERWISE < brightest:
        raise UserError(
            f"{data.root}: all {len(deep):,} {name} images have 16 bits and are nearly black: "
            f"their brightest pixel is {highest} of 255, that of the training images {brightest}: "
            f"{shortened(deep)}; {SCALED}"
        )
    darker, brighter = highest * OTHERWISE < brightest, brightest * OTHERWISE < highest
    if darker or brighter:
        told = (
            f"the brightest pixel of the {name} images is {highest} of 255, that of the training "
            f"images {brightest}: {SCALED}"
        )
        return [told]
    return of_some_deep(name, data, files, brightest)


def of_some_deep(name: str, data: Data, files: Files, brightest: int) -> list[str]:
    """What is to say of those that have 16 bits, where the others are as they should be."""
    cache = Cache(data)
    remarks = []
    low, high = data.value_range or ALL_16_BITS
    for bits, kind in ((16, "deep"), (8, "cut")):
        paths = files.with_header(kind)
        found = extremes(cache, name, paths)
        if found is None:
            continue
        level = int(to_8_bits(np.array([found[1]]), low, high)[0]) if bits == 16 else found[1]
        if level * OTHERWISE < brightest:
            remarks.append(
                f"{number(paths, name, files)} have 16 bits and are nearly black: their brightest "
                f"pixel is {level} of 255, that of the training images {brightest}: "
                f"{shortened(paths)}; {SCALED}"
            )
        white = files.histogram[:, -1].sum() / files.histogram.sum()
        if bits == 16 and found[1] > OTHERWISE * high and white > MOST:
            remarks.append(
                f"{number(paths, name, files)} have values up to {found[1]:,}, data.value_range "
                f"ends at {high:,}, and {white:.0%} of all pixels are white: {shortened(paths)}; "
                f"{SCALED}"
            )
    return remarks


def of_colour(name: str, cache: Cache, files: Files, grey: bool | None) -> list[str]:
    """What is to say of grey pictures where the training images had colour, and of colour where all
    of them were `grey`.
    """
    if grey is None:
        return []
    has_colour = len(files.histogram) == 3
    if has_colour and not grey and (files.histogram == files.histogram[0]).all():
        return [f"all {len(files.paths):,} {name} images are grey, the training images have colour"]
    if not grey:
        return []
    is_grey = set(files.with_header("grey"))
    coloured = [path for path in files.paths if path not in is_grey]
    found = coloured_ones(cache, name, coloured)
    if not found:
        return []
    end = "" if has_colour else " and which is lost"
    told = f"{number(found, name, files)} have colour, which no training image has{end}"
    return [f"{told}: {shortened(found)}"]


def number(found: list[str], name: str, files: Files) -> str:
    return f"{len(found):,} of {len(files.paths):,} {name} images"
