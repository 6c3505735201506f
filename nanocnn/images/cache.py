"""The folder in which decoded pictures are kept, so that the next run need not decode them.

Each split has files of its own. They are found by all that their pixels depend on: paths, sizes
and times of the pictures, the options and the versions of what decodes. So nothing in them is ever
out of date, and a file that no run asks for any more goes when newer ones come.
"""

import hashlib
import json
import os
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from nanocnn.config.schema import Data
from nanocnn.images.decode import Form, versions
from nanocnn.images.pixels import DamagedError, PixelFile, PixelWriter
from nanocnn.system.errors import UserError
from nanocnn.system.files import SEAL, Sealed, is_sealed, sync_folder
from nanocnn.system.signals import cleaned_up
from nanocnn.system.version import __version__

NAME = ".nanocnn-cache"
FORMAT = 1  # raised whenever the same options decode otherwise
KEPT = 3  # files of a split, the latest used
PIXELS, KNOWN = ".pixels", ".known"
THUMBNAILS = "thumbnails.npz"  # of check-data

Stamp = list[int]  # size, times and number of a file


class Cache:
    """What earlier runs found in the pictures of `data`, and where this one keeps it.

    Whatever goes wrong here is told and ends nothing: pictures are then decoded as without it.
    """

    def __init__(self, data: Data):
        """Raises UserError where data.cache cannot be."""
        self.root, self.limit = Path(data.root), data.cache_bytes
        self.folder = folder_of(data)
        self.stamps: dict[str, Stamp | None] = {}

    def stamp(self, path: str) -> Stamp | None:
        """What tells the file from what it was, as it was first asked for; None without a file."""
        if path not in self.stamps:
            self.stamps[path] = stamp_of(os.path.join(self.root, path))  # a Path takes longer
        return self.stamps[path]

    def known(
        self, split: str, what: str, paths: list[str], find: Callable[[list[str]], dict[str, Any]]
    ) -> dict[str, Any]:
        """What `find` tells of each path, asked for those alone whose files are new.

        What it leaves out is not known, and asked for again. Values are as JSON gives them.
        """
        if self.folder is None:
            return find(paths)
        file = self.folder / f"{split}-{what}{KNOWN}"
        before = read_known(file)
        now = {path: self.stamp(path) for path in paths}
        fresh = {
            path: before[path][1]
            for path, stamp in now.items()
            if stamp is not None and path in before and before[path][0] == stamp
        }
        new = [path for path in paths if path not in fresh]
        if not new:
            return fresh
        found = find(new)
        entries = {path: [now[path], value] for path, value in found.items() if now[path]}
        if entries:
            kept = {path: pair for path, pair in before.items() if (self.root / path).exists()}
            self.write_known(file, kept | entries)
        return fresh | json.loads(json.dumps(found))

    def write_known(self, file: Path, entries: dict[str, Any]) -> None:
        text = json.dumps({"made by": made_by(), "entries": entries}).encode()
        with suppress(OSError, Timeout, NotImplementedError):  # writing pixels will tell
            file.parent.mkdir(parents=True, exist_ok=True)
            with locked(file.parent, file.stem):
                Sealed(memoryview(text)).write(file)

    def open(self, split: str, paths: list[str], form: Form) -> PixelFile | None:
        """The pictures with these `paths`, in their order; None where they are not kept."""
        file = self.file_of(split, paths, form)
        if file is None or not file.exists():
            return None
        try:
            pixels = PixelFile(file)
            if (pixels.count, pixels.shape) != (len(paths), tuple(form.shape)):
                raise DamagedError
        except DamagedError:
            self.tell_damaged(file)
            return None
        except OSError as error:
            self.give_up(str(error))
            return None
        with suppress(OSError):
            os.utime(file)  # used the latest
        return pixels

    def tell_damaged(self, file: Path) -> None:
        print(f"warning: {file}: damaged; the pictures are decoded anew", file=sys.stderr)
        with suppress(OSError):
            file.unlink()

    def file_of(self, split: str, paths: list[str], form: Form) -> Path | None:
        stamps = [self.stamp(path) for path in paths]
        if self.folder is None or not paths or None in stamps:
            return None
        text = json.dumps([made_by(), form, paths, stamps])
        key = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:32]
        return self.folder / f"{split}-{key}{PIXELS}"

    @contextmanager
    def writing(self, split: str, paths: list[str], form: Form) -> Iterator[PixelWriter | None]:
        """Keeps what is decoded meanwhile of these `paths`; None where that cannot be.

        The file has its name once it is whole and on disk.
        """
        file = self.file_of(split, paths, form)
        if file is None:
            yield None
            return
        with ExitStack() as stack:
            try:
                self.make_room(file, int(len(paths) * form.size))
                stack.enter_context(locked(file.parent, split))
                for left in file.parent.glob(f".{split}-*{PIXELS}.tmp"):  # by one that was killed
                    left.unlink()
                temporary = file.with_name(f".{file.name}.tmp")
                stack.callback(temporary.unlink, missing_ok=True)
                stack.enter_context(cleaned_up(temporary.unlink))
                writer = PixelWriter(
                    stack.enter_context(temporary.open("wb", buffering=0)), len(paths), form.shape
                )
            except Timeout:
                self.give_up(f"{file.parent}: another process is writing there")
                yield None
                return
            except (OSError, NotImplementedError) as error:
                self.give_up(str(error))
                yield None
                return
            yield writer
            self.keep(writer, temporary, file, paths)

    def keep(self, writer: PixelWriter, temporary: Path, file: Path, paths: list[str]) -> None:
        """Give the file its name, if all pictures are in it as they still are."""
        try:
            if writer.error:
                raise writer.error
            if not writer.is_whole:
                return  # pictures that cannot be read, which is told elsewhere
            if any(stamp_of(os.path.join(self.root, path)) != self.stamps[path] for path in paths):
                self.give_up(f"{self.root}: images changed while they were decoded")
                return
            writer.finish()
            size = writer.file.tell()
            writer.file.close()
            os.replace(temporary, file)
            sync_folder(file.parent)
            self.remove_old(file)
        except OSError as error:
            self.give_up(error.strerror or str(error))
            return
        print(f"cache: {file}, {size / 1e6:,.1f} MB, is read by later runs of these images")

    def make_room(self, file: Path, size: int) -> None:
        """Raises OSError where a file of that size is not to be, or cannot be."""
        if size > self.limit:
            raise OSError(f"{file.parent}: {size / 1e6:,.1f} MB are more than data.cache_limit")
        file.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(file.parent).free
        if free < size:
            raise OSError(
                f"{file.parent}: {size / 1e6:,.1f} MB are needed, {free / 1e6:,.1f} MB are free"
            )

    def give_up(self, reason: str) -> None:
        """Say why decoded pictures are not kept. Nothing else changes."""
        print(
            f"warning: no cache of the decoded images, which each run decodes anew: {reason}; "
            "data.cache=DIR keeps it elsewhere, data.cache=false is silent",
            file=sys.stderr,
        )

    def remove_old(self, newest: Path) -> None:
        """Leave the files of a split that were used the latest, and no more in all than allowed."""
        split = newest.name.rpartition("-")[0]
        files = sorted(newest.parent.glob(f"*{PIXELS}"), key=lambda each: -each.stat().st_mtime)
        files = [newest, *(each for each in files if each != newest)]
        of_split = [each for each in files if each.name.rpartition("-")[0] == split]
        total = 0
        for each in files:
            total += each.stat().st_size
            if each != newest and (each in of_split[KEPT:] or total > self.limit):
                total -= each.stat().st_size
                each.unlink()


def folder_of(data: Data) -> Path | None:
    """Where data.cache has the cache of data.root. Raises UserError where it cannot be there."""
    root = Path(data.root).absolute()
    if data.cache is False:
        return None
    if data.cache == "auto":
        return Path(data.root) / NAME
    where = Path(data.cache).expanduser()
    if where.exists() and not where.is_dir():
        raise UserError(f"data.cache = {data.cache}: is a file, and should name a folder")
    full = where.resolve()
    if full.is_relative_to(root.resolve()):
        below = full.relative_to(root.resolve()).parts
        if not any(part.startswith(".") for part in below):
            raise UserError(
                f"data.cache = {data.cache}: lies in data.root, where its files would be taken for "
                f"images; {Path(data.root) / NAME} is the place for them (data.cache=auto)"
            )
    number = hashlib.sha256(os.fsencode(root)).hexdigest()[:8]
    return where / f"{root.name}-{number}"  # one for each root


def stamp_of(path: str | Path) -> Stamp | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    # the time of the last change cannot be set back, and renamed folders do not change it
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]


def made_by() -> list[Any]:
    """The versions of what decodes."""
    return [FORMAT, __version__, *versions()]


def read_known(file: Path) -> dict[str, Any]:
    """The entries of such a file; none where it is damaged, or made by other versions."""
    try:
        if not is_sealed(file):
            return {}
        known = json.loads(file.read_bytes()[:-SEAL])
    except (OSError, ValueError):
        return {}
    return known["entries"] if known["made by"] == made_by() else {}


@contextmanager
def locked(folder: Path, name: str) -> Iterator[None]:
    """Raises Timeout where another process has it, OSError or NotImplementedError without locks."""
    with warnings.catch_warnings(action="ignore"), FileLock(folder / f".{name}.lock", timeout=0):
        yield


def caches_in(folder: Path) -> list[Path]:
    """The caches of the data in `folder`, or those that lie in it. Raises UserError without it."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    beside = folder / NAME
    if beside.is_dir():
        return [beside]
    kinds = (f"*{PIXELS}", f"*{KNOWN}", THUMBNAILS)
    return sorted(
        {file.parent for kind in kinds for deep in ("", "*/") for file in folder.glob(deep + kind)}
    )


def shown(cache: Path) -> Iterator[str]:
    """A line for each file of decoded pictures, the latest used first, and one for all of them."""
    files = sorted(cache.glob(f"*{PIXELS}"), key=lambda file: -file.stat().st_mtime)
    total = 0
    for file in files:
        size, used = file.stat().st_size, datetime.fromtimestamp(file.stat().st_mtime)
        total += size
        try:
            pixels = PixelFile(file)
            what = f"{pixels.count:,} images of {'x'.join(map(str, pixels.shape))}"
        except DamagedError:
            what = "damaged"
        yield f"{file}: {what}, {size / 1e6:,.1f} MB, used {used:%Y-%m-%d %H:%M}"
    yield f"{cache}: {total / 1e6:,.1f} MB in {len(files)} file{'s' * (len(files) != 1)}"


def clear(cache: Path) -> int:
    """Remove all files of a cache, and return their bytes.

    Raises UserError where a process is writing to it.
    """
    kinds = (f"*{PIXELS}", f"*{KNOWN}", THUMBNAILS, ".*.tmp")
    files = [file for kind in kinds for file in cache.glob(kind)]
    locks = [*cache.glob(".*.lock")]
    size = sum(file.stat().st_size for file in files)
    try:
        with ExitStack() as stack:
            for lock in locks:
                stack.enter_context(locked(cache, lock.name[1:-5]))
            for file in (*files, *locks):
                file.unlink(missing_ok=True)
    except Timeout:
        raise UserError(f"{cache}: another process is writing there; nothing was removed") from None
    with suppress(OSError):
        cache.rmdir()
    return size
