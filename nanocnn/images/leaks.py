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


def warn_of_leaks(data: Data, splits: dict[str, Split], digests: dict[str, list[bytes]]) -> None:
    """Name own pictures of val, and of the test as far as check-data has kept what they look like,
    that are near copies of training images; those of val with the very same pixels are told
    elsewhere.

    No test picture is opened. Images that are streamed are compared as check-data has kept them.
    """
    val, train = splits.get("val"), splits["train"]
    assert train.files is not None
    if train is val:  # train.overfit_batches
        return
    root, background, paths = Path(data.root), train.files.background, train.files.paths
    kept = KeptThumbnails(data, background)
    of_train = kept.of(paths)
    if val and val.files:
        both = of_train, kept.of(val.files.paths)
        if (both[0] is None or both[1] is None) and isinstance(train.images, Tensor):
            assert isinstance(val.images, Tensor)
            both = thumbnails_of_tensor(train.images), thumbnails_of_tensor(val.images)
        if both[0] is not None and both[1] is not None:
            told = {*digests["train"]}
            new = [i for i, digest in enumerate(digests["val"]) if digest not in told]
            others = [val.files.paths[index] for index in new]
            warn("validation", (paths, both[0]), (others, both[1][new]))
    test = paths_of_test(data, train.files) if kept.places else []
    of_test = kept.of(test)
    if of_test is None:
        return
    seen = [*paths, *(val.files.paths if val and val.files else ())]
    of_seen = kept.of(seen)
    if of_seen is None:
        of_seen = thumbnails_of_files(root, seen, background)
    warn("test", (seen, of_seen), (test, of_test))


def paths_of_test(data: Data, train: Files) -> list[str]:
    """Those of the own pictures that belong to the test; none is opened."""
    if train.held_out:
        return [path for path, _ in train.held_out]
    return list(paths_of(data, "test")) if "test" in layout(data).places else []


def keep_what_is_compared(data: Data, overview: Overview) -> None:
    """Keep, beside own pictures, what those of all splits look like, for `warn_of_leaks`."""
    if not overview.files:
        return
    train, names = overview.files[0], overview.names
    left_out = sorted({*paths_of_test(data, train)} - {*names})  # a single colour: copies of none
    blank = np.zeros((len(left_out), SIDE, SIDE), np.uint8)
    thumbnails = np.concatenate([overview.thumbnails, blank])
    keep_thumbnails(data, [*names, *left_out], thumbnails, train.background)


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
            f"warning: {len(found):,} {name} images are copies of one that is trained on"
            f"{' or validated' if name == 'test' else ''}, or nearly so: the first is "
            f"{others[0][other - count]}, as {train[0][one]}; 'nanocnn check-data' shows them",
            file=sys.stderr,
        )
