"""A file of decoded pictures: their pixels, and behind them what is known of them, with its
checksum.

The pixels of each picture have a CRC-32 of their own, which is compared whenever they are read: it
takes a fifth of the time of the hash by which pictures are told apart, and that is kept too. They
are read and not mapped: where a file is cut short a map of it ends the whole process.
"""

import hashlib
import json
import os
import struct
import zlib
from io import FileIO
from pathlib import Path
from threading import Lock

import numpy as np

from nanocnn.images.content import HASH_BYTES, histogram
from nanocnn.images.pictures import Contents, Put, in_threads

MARK = b"nanocnn pixels 2"
END = struct.Struct("<QQ32s16s")  # lengths of facts and of digests, SHA-256 of both, MARK
CRC = np.dtype("<u4")
BLOCK = 16_000_000  # bytes that a thread reads at a time, at most


class DamagedError(ValueError):
    """A file does not hold what was written to it."""


class PixelWriter:
    """Writes the pictures of a split to a file, in whatever order and from whatever thread."""

    def __init__(self, file: FileIO, count: int, shape: tuple[int, int, int]):
        self.file, self.shape, self.lock = file, shape, Lock()
        self.hashes, self.crcs = np.zeros((count, HASH_BYTES), np.uint8), np.zeros(count, CRC)
        self.written, self.plain = np.zeros(count, bool), np.zeros(count, bool)
        self.histogram = np.zeros((shape[0], 256), np.int64)
        self.error: OSError | None = None  # the first; nothing is written after it

    def put(self, rows: np.ndarray, images: np.ndarray) -> None:
        """The pixels of the pictures at these `rows`. A full disk ends nothing: see `error`."""
        size = images[0].nbytes
        with self.lock:
            try:
                for row, image in zip(rows.tolist(), images, strict=True):
                    if self.error is None:
                        content = np.ascontiguousarray(image).data.cast("B")
                        self.crcs[row] = zlib.crc32(content)
                        self.file.seek(row * size)
                        self.write(content)
            except OSError as error:
                self.error = error

    def write(self, content: bytes | memoryview) -> None:
        """All of it, which a file without a buffer, that none must be left in, may not do."""
        done = 0
        while done < len(content):
            done += self.file.write(content[done:])

    def of(self, rows: np.ndarray) -> Put:
        """Puts pictures that are named by their places in `rows`."""
        return lambda chosen, images: self.put(rows[chosen], images)

    def add(self, rows: np.ndarray, contents: Contents) -> None:
        """What was found in the pictures at these `rows`, all of which have been `put`."""
        if not contents.reasons:
            self.hashes[rows] = np.frombuffer(b"".join(contents.hashes), np.uint8).reshape(
                -1, HASH_BYTES
            )
            self.plain[rows[contents.plain]] = True
            self.histogram += contents.histogram
            self.written[rows] = True

    @property
    def is_whole(self) -> bool:
        return self.error is None and bool(self.written.all())

    def finish(self) -> None:
        """Raises OSError."""
        facts = {
            "shape": self.shape,
            "count": len(self.written),
            "plain": np.flatnonzero(self.plain).tolist(),
            "histogram": self.histogram.tolist(),
        }
        text, digests = json.dumps(facts).encode(), self.hashes.tobytes() + self.crcs.tobytes()
        self.file.seek(0, os.SEEK_END)
        checksum = hashlib.sha256(text + digests).digest()
        self.write(text + digests + END.pack(len(text), len(digests), checksum, MARK))
        os.fsync(self.file.fileno())


class PixelFile:
    """A file of decoded pictures, open: it may be removed meanwhile."""

    def __init__(self, path: Path):
        """Raises DamagedError where it is not as it was written, but for the pixels; OSError."""
        self.path = path
        self.file = path.open("rb", buffering=0)
        self.lock = Lock()
        whole = os.fstat(self.file.fileno()).st_size
        end = self.read_at(max(0, whole - END.size), min(whole, END.size))
        if len(end) < END.size:
            raise DamagedError
        length, length_of_digests, checksum, mark = END.unpack(end)
        start = whole - END.size - length - length_of_digests
        if mark != MARK or start < 0:
            raise DamagedError
        known = self.read_at(start, length + length_of_digests)
        if hashlib.sha256(known).digest() != checksum:
            raise DamagedError
        facts = json.loads(known[:length])
        self.count, self.shape = facts["count"], tuple(facts["shape"])
        self.plain, self.histogram = set(facts["plain"]), np.array(facts["histogram"])
        self.size = int(np.prod(self.shape))  # of a picture
        of_hashes, of_crcs = self.count * HASH_BYTES, self.count * CRC.itemsize
        if (start, length_of_digests) != (self.count * self.size, of_hashes + of_crcs):
            raise DamagedError
        self.hashes = known[length : length + of_hashes]
        self.crcs = np.frombuffer(known, CRC, offset=length + of_hashes)

    def read_at(self, offset: int, length: int) -> bytes:
        """What stands there, or less where the file ends. Raises OSError."""
        content = bytearray(length)
        return bytes(content[: self.read_into(memoryview(content), offset)])

    def read_into(self, view: memoryview, offset: int) -> int:
        done = 0
        while done < len(view):
            if hasattr(os, "preadv"):
                got = os.preadv(self.file.fileno(), [view[done:]], offset + done)
            else:
                with self.lock:
                    self.file.seek(offset + done)
                    got = self.file.readinto(view[done:])
            if not got:
                break
            done += got
        return done

    def hash_of(self, row: int) -> bytes:
        return self.hashes[row * HASH_BYTES : (row + 1) * HASH_BYTES]

    def fill(self, images: np.ndarray, rows: np.ndarray) -> list[int]:
        """Read the pictures at these `rows` into `images`, and tell which of them are damaged."""
        damaged = []
        for place, (image, row) in enumerate(zip(images, rows.tolist(), strict=True)):
            pixels = memoryview(image.reshape(-1))
            try:
                is_whole = self.read_into(pixels, row * self.size) == self.size
            except OSError:  # a bad block
                is_whole = False
            if not is_whole or zlib.crc32(pixels) != self.crcs[row]:
                damaged.append(place)
        return damaged

    def prefetch(self, rows: np.ndarray) -> None:
        """Ask the system to have the pictures at these `rows` in its memory soon."""
        if hasattr(os, "posix_fadvise"):
            descriptor = self.file.fileno()
            for row in rows.tolist():
                os.posix_fadvise(descriptor, row * self.size, self.size, os.POSIX_FADV_WILLNEED)

    def contents(self, parts: dict[str, np.ndarray], keep: bool) -> dict[str, Contents]:
        """What is known of each of these parts, given as rows; with `keep` the pixels too.

        Without it, where the parts are the whole, all but the largest are read, to be measured. Its
        histogram is what the others leave. Raises DamagedError for pixels that are others.
        """
        rows = np.concatenate(list(parts.values()))
        is_whole = len(rows) == self.count == len(np.unique(rows))
        largest = max(parts, key=lambda name: len(parts[name])) if is_whole else None
        images: dict[str, np.ndarray] = {}
        histograms: dict[str, np.ndarray] = {}
        for name, chosen in parts.items():
            measured = name != largest
            if keep or measured:
                images[name], histograms[name] = self.read(chosen, keep, measured)
        if largest is not None:
            others = [histograms[name] for name in parts if name != largest]
            histograms[largest] = self.histogram - sum(others)
        return {
            name: Contents(
                images[name] if keep else None,
                [self.hash_of(row) for row in chosen.tolist()],
                histograms[name],
                {},
                [place for place, row in enumerate(chosen.tolist()) if row in self.plain],
            )
            for name, chosen in parts.items()
        }

    def read(self, rows: np.ndarray, keep: bool, measured: bool) -> tuple[np.ndarray, np.ndarray]:
        """The pictures at these `rows`, none of them without `keep`, and if they are to be
        `measured` their histogram, else zeros.
        """
        kept = np.empty((len(rows) if keep else 0, *self.shape), np.uint8)

        def read_some(chosen: np.ndarray) -> np.ndarray:
            some = kept[chosen[0] : chosen[-1] + 1] if keep else None
            images = np.empty((len(chosen), *self.shape), np.uint8) if some is None else some
            if self.fill(images, rows[chosen]):
                raise DamagedError
            return histogram(images) if measured else np.zeros_like(self.histogram)

        block = max(1, BLOCK // self.size)
        return kept, np.sum(in_threads(read_some, len(rows), block, "reading"), axis=0)
