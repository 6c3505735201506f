"""IDX files, the format of MNIST and its kin, read strictly and in bounded memory.

Format: two zero bytes, the type of the values (8 = unsigned byte), the number of dimensions, the
size of each as a big-endian 32-bit integer, then the values. Source: Y. LeCun, C. Cortes and C.
Burges, The MNIST database of handwritten digits (1998).
"""

import gzip
import struct
import zlib
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from nanocnn.images.ahead import opened
from nanocnn.system.errors import UserError

MOST = 1_000_000  # items in a file; the largest published one, EMNIST's, has 814,255


def read_idx(path: Path, item_shape: tuple[int, ...]) -> Tensor:
    """The items (N, *item_shape) uint8 of an IDX file, which a name in .gz says is compressed.

    No more is read than the header promises. Raises UserError where that is not just what the file
    holds.
    """
    try:
        with opened(path) if path.suffix == ".gz" else path.open("rb") as file:
            return parse_idx(file, str(path), item_shape)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"{path}: damaged: {error}") from None
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from None


def parse_idx(file: BinaryIO | gzip.GzipFile, name: str, item_shape: tuple[int, ...]) -> Tensor:
    """As read_idx, from an open `file`, called `name` in UserErrors; what reading it raises is left
    as it is.
    """
    dimensions = 1 + len(item_shape)
    header_size = 4 + 4 * dimensions
    header = file.read(header_size)
    if len(header) < header_size:
        raise UserError(f"{name}: {len(header)} bytes, less than the header of an IDX file")
    if header[:4] != bytes([0, 0, 8, dimensions]):
        raise UserError(
            f"{name}: begins with {header[:4].hex(' ')}; an IDX file of unsigned bytes in "
            f"{dimensions} dimensions begins with 00 00 08 {dimensions:02x}"
        )
    count, *shape = struct.unpack(f">{dimensions}I", header[4:])
    if tuple(shape) != item_shape or not 0 < count <= MOST:
        sizes = "x".join(map(str, [count, *shape]))
        allowed = "x".join(["N", *map(str, item_shape)])
        raise UserError(f"{name}: of size {sizes}, should be {allowed}, N from 1 to {MOST:,}")
    expected = count
    for size in item_shape:
        expected *= size
    content = file.read(expected)
    more = file.read(1)
    if len(content) < expected or more:
        actual = "more" if more else f"{len(content) + header_size:,}"
        raise UserError(
            f"{name}: its header promises {expected + header_size:,} bytes, it holds {actual}"
        )
    return torch.frombuffer(bytearray(content), dtype=torch.uint8).view(count, *item_shape)
