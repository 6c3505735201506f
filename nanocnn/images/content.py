"""What images hold, whatever they are called: hashes of their pixels, mean and spread of
colours.
"""

import hashlib
import re
from pathlib import Path

import numpy as np
from PIL import Image

from nanocnn.system.errors import UserError
from nanocnn.system.files import read_file, replacing

HASH_BYTES = 16
TRAINED, ORIGIN = "train_hashes.txt", "origin_hashes.txt"  # of a run folder


def hashes(images: np.ndarray) -> list[bytes]:
    """BLAKE2b of the pixels of each image (N, C, H, W) uint8: equal where, and only where, all
    pixels are.
    """
    blake2b, rows = hashlib.blake2b, np.ascontiguousarray(images)
    return [blake2b(row, digest_size=HASH_BYTES).digest() for row in rows]


def histogram(images: np.ndarray) -> np.ndarray:
    """(C, 256): how many pixels of images (N, C, H, W) uint8 have each value; of several parts,
    add.
    """
    width = images.shape[3]
    counts = np.zeros((images.shape[1], 256), np.int64)
    for channel, values in enumerate(images.swapaxes(0, 1) if len(images) else ()):
        plane = np.ascontiguousarray(values).reshape(-1, width)
        # Pillow's takes a fifth of the time of np.bincount
        counts[channel] = Image.fromarray(plane).histogram()
    return counts


def mean_and_std(counts: np.ndarray) -> tuple[list[float], list[float]]:
    """Of each channel of a histogram, pixels scaled to [0, 1]: exact, in whatever parts it was
    counted.
    """
    values = np.arange(256) / 255
    shares = counts / counts.sum(axis=1, keepdims=True)
    mean = shares @ values
    std = np.sqrt((shares * (values - mean[:, None]) ** 2).sum(axis=1))
    std[std == 0] = 1.0  # of one colour: nothing to divide by
    return mean.tolist(), std.tolist()


def write_hashes(path: Path, digests: list[bytes]) -> None:
    with replacing(path) as file:
        file.writelines(f"{digest.hex()}\n".encode() for digest in digests)


def read_hashes(path: Path) -> list[bytes]:
    lines = read_file(path).split(b"\n")
    if lines.pop() or not all(re.fullmatch(b"[0-9a-f]{%d}" % (2 * HASH_BYTES), x) for x in lines):
        raise UserError(f"{path}: damaged: not a hash in hexadecimal digits on each line")
    return [bytes.fromhex(line.decode()) for line in lines]
