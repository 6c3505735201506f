"""Published files that are unpacked in a thread while torch is imported, which takes longer."""

import gzip
import struct
import zlib
from concurrent.futures import Future, ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from nanocnn.config.schema import Data

FOLDERS = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST", "kmnist": "KMNIST"}
MOST = 100_000  # images; a file that has more is read in its turn
HEADER = struct.Struct(">4I")
GZIP = 31  # as zlib calls that format

_begun: dict[Path, Future[bytes]] = {}


def read_ahead(data: Data) -> None:
    """Begin to unpack the training images of `data`, if they are such a file."""
    folder = Path(data.root, FOLDERS.get(data.dataset, ""), "raw")
    path = folder / "train-images-idx3-ubyte.gz"
    if data.dataset in FOLDERS and path.is_file() and not path.with_suffix("").exists():
        pool = ThreadPoolExecutor(1)
        _begun[path] = pool.submit(unpacked, path)
        pool.shutdown(wait=False)


def unpacked(path: Path) -> bytes:
    """Raises ValueError for what is not one stream of just what its header promises, or of more
    than MOST images.
    """
    unpacker = zlib.decompressobj(GZIP)
    header = unpacker.decompress(path.read_bytes(), HEADER.size)
    if len(header) < HEADER.size:
        raise ValueError(f"{path}: cut off")
    _, count, height, width = HEADER.unpack(header)
    if count > MOST or (height, width) != (28, 28):
        raise ValueError(f"{path}: other images, or more")
    # in one call, without Python's lock
    content = unpacker.decompress(unpacker.unconsumed_tail, count * height * width + 1)
    if not unpacker.eof or unpacker.unused_data:
        raise ValueError(f"{path}: more than it promises, cut off, or with something behind it")
    return header + content


def opened(path: Path) -> BinaryIO | gzip.GzipFile:
    """The .gz file at `path`, open for reading; once as it was read ahead, if that went well."""
    begun = _begun.pop(path, None)
    if begun and not begun.exception():
        return BytesIO(begun.result())
    return gzip.open(path)
