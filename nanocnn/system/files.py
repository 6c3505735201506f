"""Writing files so that a crash or a full disk leaves the old one or the new one, whole."""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from nanocnn.system.errors import UserError
from nanocnn.system.signals import cleaned_up

MARK = b"nanocnn sha256 "  # before the checksum that ends a sealed file
SEAL = len(MARK) + hashlib.sha256().digest_size


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Name `path` in an OSError that names no file, as of a full disk."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


@contextmanager
def replacing(path: Path, previous: Path | None = None) -> Iterator[BinaryIO]:
    """A file to write, which takes the name `path` once it is whole and on disk.

    The file there before is then named `previous`, if it is sealed and whole.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    if temporary.is_dir() and not temporary.is_symlink():
        raise UserError(f"{temporary}: a folder, where {path.name} is written first; move it away")
    temporary.unlink(missing_ok=True)  # a pipe would be waited for, a link followed
    try:
        with naming(path):
            with cleaned_up(temporary.unlink):
                with temporary.open("wb") as file:
                    yield file
                    file.flush()
                    os.fsync(file.fileno())
                if previous and path.is_file() and is_sealed(path):
                    keep_copy(path, previous)
                os.replace(temporary, path)
            sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def check_output(option: str, file: Path) -> None:
    """Raises UserError for a file that cannot be written, or that should not be."""
    if file.is_dir() or not file.parent.is_dir():
        raise UserError(f"{option} {file}: should name a file in a folder that exists")
    if file.is_file() and is_sealed(file):
        raise UserError(f"{option} {file}: is a checkpoint; should name another file")


@contextmanager
def output(path: Path) -> Iterator[BinaryIO]:
    """A file that a user named, to write: a device or a pipe as it is, any other by `replacing`,
    through links."""
    if path.exists() and not path.is_file():
        with naming(path), path.open("wb") as file:
            yield file
    else:
        with replacing(path.resolve()) as file:
            yield file


def sync_folder(folder: Path) -> None:
    """Bring the names in `folder` to disk: a power cut may undo a renaming that has not been."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_json(path: Path, value: dict[str, Any]) -> None:
    with replacing(path) as file:
        file.write((json.dumps(value, indent=2) + "\n").encode())


class Sealed:
    """`content` with its checksum, to be written to one file or to several."""

    def __init__(self, content: memoryview):
        self.content = content
        self.seal = MARK + hashlib.sha256(content).digest()

    def write(self, path: Path, previous: Path | None = None) -> None:
        """Write to `path`, whose name is given once the file was read back; see `replacing`.

        Raises OSError where the disk does not hold what was written.
        """
        with replacing(path, previous) as file:
            file.write(self.content)
            file.write(self.seal)
            file.flush()
            if not is_sealed(Path(file.name)):
                raise OSError(errno.EIO, "the disk gave back something else than was written")


def read_file(path: Path) -> bytes:
    """The content of the file at `path`.

    Raises OSError where there is none, and UserError for what is no file: a pipe would be waited
    for.
    """
    if path.exists() and not path.is_file():
        raise UserError(f"{path}: should be a file")
    return path.read_bytes()


def is_sealed(path: Path) -> bool:
    """Whether the file at `path` ends in the checksum of all that comes before."""
    left = path.stat().st_size - SEAL
    checksum = hashlib.sha256()
    with path.open("rb") as file:
        while left > 0 and (block := file.read(min(left, 1 << 20))):
            checksum.update(block)
            left -= len(block)
        return left == 0 and file.read() == MARK + checksum.digest()


def keep_copy(path: Path, copy: Path) -> None:
    """Let the file at `path`, which is about to be replaced, have the name `copy` too."""
    temporary = copy.with_name(f".{copy.name}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        try:
            os.link(path, temporary)
        except OSError:  # a file system without links
            shutil.copyfile(path, temporary)
        os.replace(temporary, copy)
    finally:
        temporary.unlink(missing_ok=True)
