"""Training images that look like those that a network is chosen or judged by."""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from nanocnn.config.schema import Data
from nanocnn.images.copies import near_copies
from nanocnn.images.listing import layout
from nanocnn.images.overview import Overview
from nanocnn.images.own import Files
from nanocnn.images.relabel import paths_of
from nanocnn.images.splits import Split
from nanocnn.images.thumbnails import (
    SIDE,
    KeptThumbnails,
    keep_thumbnails,
    thumbnails_of_files,
    thumbnails_of_tensor,
)


def warn_of_leaks(data: Data, splits: dict[str, Split]) -> None:
    """Name own pictures of val, and of the test as far as check-data has kept what they look like,
    that are near copies of training images.

    No test picture is opened. Images that are streamed are compared as check-data has kept them.
    """
    val, train = splits.get("val"), splits["train"]
    if train.files is None or train is val:  # the same: train.overfit_batches
        return
    kept = KeptThumbnails(Path(data.root), train.files.background)
    paths, of_train = train.files.paths, kept.of(train.files.paths)
    if val and val.files:
        of_val = kept.of(val.files.paths)
        if of_train is not None and of_val is not None:
            warn("validation", (paths, of_train), (val.files.paths, of_val))
        elif isinstance(train.images, Tensor) and isinstance(val.images, Tensor):
            pixels = [thumbnails_of_tensor(images) for images in (train.images, val.images)]
            warn("validation", (paths, pixels[0]), (val.files.paths, pixels[1]))
    test = test_paths(data, train.files) if kept.places else []
    of_test = kept.of(test)
    if of_test is None:
        return
    if of_train is None:
        of_train = thumbnails_of_files(Path(data.root), paths, train.files.background)
    warn("test", (paths, of_train), (test, of_test))


def test_paths(data: Data, train: Files) -> list[str]:
    """Those of the own pictures that belong to the test; none is opened."""
    if train.held_out:
        return [path for path, _ in train.held_out]
    return list(paths_of(data, "test")) if "test" in layout(data).places else []


def keep_what_is_compared(data: Data, overview: Overview) -> None:
    """Keep, beside own pictures, what those of all splits look like, for `warn_of_leaks`."""
    if not overview.files:
        return
    train, names = overview.files[0], overview.names
    left_out = sorted({*test_paths(data, train)} - {*names})  # a single colour: copies of none
    blank = np.zeros((len(left_out), SIDE, SIDE), np.uint8)
    thumbnails = np.concatenate([overview.thumbnails, blank])
    keep_thumbnails(overview.root, [*names, *left_out], thumbnails, train.background)


def warn(
    name: str, train: tuple[Sequence[str], np.ndarray], others: tuple[Sequence[str], np.ndarray]
) -> None:
    """Name the others that are near copies of a training image; of all paths and thumbnails."""
    count = len(train[0])
    split_of = np.repeat([0, 1], [count, len(others[0])])
    copies = near_copies(np.concatenate([train[1], others[1]]), split_of, first=count)
    found = [copy for copy in copies if copy.one < count]
    if found:
        one, other, _ = found[0]
        print(
            f"warning: {len(found):,} {name} images are copies of a training image, or nearly so: "
            f"the first is {others[0][other - count]}, as {train[0][one]}; 'nanocnn check-data' "
            "shows them",
            file=sys.stderr,
        )
