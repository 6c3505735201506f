"""Near copies among pictures: saved again, scaled, or all but the same frame.

A perceptual hash proposes pairs and their pixels decide. The hash alone calls hundreds of 3,000
different handwritten digits copies of each other. It is that of the package ImageHash (J. Buchner,
`phash`): the signs of the low frequencies of a small grey picture about their median.
"""

from typing import NamedTuple

import numpy as np

from nanocnn.images.thumbnails import SIDE

LOW = 8  # frequencies along each axis
NEAR = 6  # of 64 bits in which the hashes of copies may differ
ALIKE = 0.99  # which the correlation of their pixels has to exceed
BLOCK = 256  # pictures that are compared with all others at once
PAIRS = 10_000  # whose pixels are compared at once


class Copy(NamedTuple):
    """Two pictures, by their places among all, the earlier one first."""

    one: int
    other: int
    correlation: float  # of their pixels


def perceptual_hashes(thumbnails: np.ndarray) -> np.ndarray:
    """(N,) uint64 of thumbnails (N, SIDE, SIDE)."""
    frequencies, places = np.arange(LOW)[:, None], np.arange(SIDE)
    cosines = np.cos(np.pi * frequencies * (2 * places + 1) / (2 * SIDE))
    low = (cosines @ thumbnails.astype(np.float64) @ cosines.T).reshape(len(thumbnails), -1)
    bits = low > np.median(low, axis=1, keepdims=True)
    return np.packbits(bits, axis=1).view(np.uint64).ravel()


def near_copies(thumbnails: np.ndarray, kind_of: np.ndarray, first: int = 0) -> list[Copy]:
    """The near copies among `thumbnails` (N, SIDE, SIDE), each of a kind, a number, as its split.

    Of each picture, from the `first` on, the nearest of the earlier ones is told, one of each
    kind. Pictures of a single colour are copies of none.
    """
    hashes = perceptual_hashes(thumbnails)
    pixels = thumbnails.reshape(len(thumbnails), -1).astype(np.float32)
    pixels -= pixels.mean(axis=1, keepdims=True)
    norms = np.linalg.norm(pixels, axis=1, keepdims=True)
    pixels /= np.where(norms == 0, np.inf, norms)
    found = []
    for start in range(first, len(hashes), BLOCK):
        stop = min(start + BLOCK, len(hashes))
        distances = np.bitwise_count(hashes[start:stop, None] ^ hashes[None, :stop])
        later, earlier = np.nonzero(distances <= NEAR)
        later += start
        proposed = earlier < later
        found += nearest(pixels, earlier[proposed], later[proposed], kind_of)
    return found


def nearest(
    pixels: np.ndarray, earlier: np.ndarray, later: np.ndarray, kind_of: np.ndarray
) -> list[Copy]:
    """Of the proposed pairs those whose `pixels`, of mean 0 and length 1, are nearly the same; of
    each later picture the nearest earlier one of each kind.
    """
    correlations = np.zeros(len(later), np.float32)
    for start in range(0, len(later), PAIRS):
        pairs = slice(start, start + PAIRS)
        correlations[pairs] = np.einsum("ij,ij->i", pixels[earlier[pairs]], pixels[later[pairs]])
    order = np.lexsort((earlier, -correlations, kind_of[earlier], later))
    order = order[correlations[order] > ALIKE]
    keys = np.stack([later[order], kind_of[earlier[order]]])
    _, firsts = np.unique(keys, axis=1, return_index=True)
    chosen = order[firsts]
    triples = zip(earlier[chosen], later[chosen], correlations[chosen], strict=True)
    return [Copy(int(one), int(other), min(1.0, float(value))) for one, other, value in triples]
