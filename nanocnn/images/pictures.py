"""Picture files as a map from indices to pixels, and what is found in all of them.

Nothing here needs torch: the processes that read pictures for a stream would each hold it.
"""

import logging
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from tqdm import tqdm

from nanocnn.images.content import HASH_BYTES, hashes, histogram
from nanocnn.images.decode import Form, Header, decode, header_or_reason, reason
from nanocnn.system.startup import cores

Result = TypeVar("Result")
Put = Callable[[np.ndarray, np.ndarray], None]
NOWHERE = logging.NullHandler()


class Contents(NamedTuple):
    """All pictures of a split, once decoded."""

    images: np.ndarray | None  # (readable pictures, C, H, W) uint8, if they were to be kept
    hashes: list[bytes]  # of each of them
    histogram: np.ndarray  # (C, 256) pixels of each value
    reasons: dict[int, str]  # why the others cannot be read, by index
    plain: list[int]  # those of a single colour


class Pictures:
    """Picture files as a map: each time it is asked for some, it reads them."""

    def __init__(
        self, root: Path, paths: list[str], form: Form, expected: list[bytes] | None = None
    ):
        """With `expected` hashes of their pixels, pictures with others count as unreadable."""
        self.root, self.paths, self.form = root, paths, form
        self.expected = None if expected is None else b"".join(expected)  # of a million: one object

    def __getitem__(self, chosen: np.ndarray) -> tuple[np.ndarray, dict[int, str]]:
        """(B, C, H, W) uint8 of the files with these indices, and why some of them cannot be
        read.
        """
        images = np.zeros((len(chosen), *self.form.shape), np.uint8)
        reasons = {}
        for image, index in zip(images, chosen.tolist(), strict=True):
            try:
                image[:] = decode(self.root / self.paths[index], self.form)
            except MemoryError:  # which says nothing of the file
                raise
            except Exception as error:  # noqa: BLE001  whatever Pillow stumbles on
                reasons[index] = reason(error)
        if self.expected is not None:
            for index, digest in zip(chosen.tolist(), hashes(images), strict=True):
                start = index * HASH_BYTES
                if digest != self.expected[start : start + HASH_BYTES]:
                    reasons.setdefault(index, "its pixels are others")
        return images, reasons

    def read_all(self, keep: bool, put: Put | None = None) -> Contents:
        """Decode every file once, in threads; without `keep` the pixels are measured, in little
        memory. `put` is given the indices and pixels of some at a time.
        """
        count = len(self.paths)
        kept = np.empty((count if keep else 0, *self.form.shape), np.uint8)

        def read(chosen: np.ndarray) -> tuple[list[bytes], np.ndarray, dict[int, str], list[int]]:
            images, reasons = self[chosen]
            if put:
                put(chosen, images)
            if keep:
                kept[chosen[0] : chosen[-1] + 1] = images
            readable = [index not in reasons for index in chosen.tolist()]
            images = images[readable]
            plain = (images == images[:, :, :1, :1]).all(axis=(1, 2, 3))
            return hashes(images), histogram(images), reasons, chosen[readable][plain].tolist()

        block = max(1, min(16, 16_000_000 // int(np.prod(self.form.shape))))
        read_hashes, histograms, blocks_of_reasons, blocks_of_plain = zip(
            *in_threads(read, count, block, "reading"), strict=True
        )
        reasons = {index: why for block in blocks_of_reasons for index, why in block.items()}
        readable = [index for index in range(count) if index not in reasons]
        if keep and reasons:
            # one by one, since there may be no room for a copy
            for place, index in enumerate(readable):
                kept[place] = kept[index]
        return Contents(
            kept[: len(readable)] if keep else None,
            [digest for block in read_hashes for digest in block],
            np.sum(histograms, axis=0),
            reasons,
            [index for block in blocks_of_plain for index in block],
        )


def look_at(root: Path, paths: list[str]) -> dict[str, Header | str]:
    """The header of each file, or why it cannot be read."""

    def look_at_some(chosen: np.ndarray) -> list[tuple[str, Header | str]]:
        return [(paths[index], header_or_reason(root / paths[index])) for index in chosen]

    found = in_threads(look_at_some, len(paths), 16, "looking")
    return dict(pair for some in found for pair in some)


def in_threads(
    work: Callable[[np.ndarray], Result], count: int, block: int, verb: str
) -> list[Result]:
    """`work` on 0 ... count - 1 in blocks of indices; Pillow lets other threads run while it
    decodes.
    """
    blocks = np.split(np.arange(count), range(block, count, block))
    pool = ThreadPoolExecutor(cores())
    bar = tqdm(total=count, desc=verb, unit="image", disable=None, leave=False)
    results = []
    try:
        with warnings.catch_warnings(), bar:
            quiet()
            for indices, result in zip(blocks, pool.map(work, blocks), strict=True):
                results.append(result)
                bar.update(len(indices))
    finally:
        pool.shutdown(cancel_futures=True)  # or Ctrl-C would wait for all of them
    return results


def quiet() -> None:
    """Pillow warns of what is harmless, as odd metadata, and of sizes that are refused here."""
    warnings.filterwarnings("ignore", module="PIL")
    logging.getLogger("PIL").addHandler(NOWHERE)
