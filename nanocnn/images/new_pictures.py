"""Pictures that a trained network has never seen, made into what its training images were.

Nothing here needs torch but the names of types.
"""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from PIL.ImageOps import exif_transpose

from nanocnn.config.schema import OWN_IMAGES, Data
from nanocnn.images.decode import (
    MOST_PIXELS,
    Form,
    fitted,
    inner_box,
    load,
    of_8_bits,
    reason,
)
from nanocnn.images.own import form_of
from nanocnn.images.pictures import cores
from nanocnn.images.splits import DataInfo, as_in_training
from nanocnn.system.errors import UserError

Picture = str | os.PathLike[str] | Image.Image | np.ndarray
TOGETHER, LARGE = 32, 1 << 18  # pictures, or bytes of files, that a thread is given at a time
TINY = 2048  # bytes: most work on smaller files holds Python's lock, and threads only wait for it
WAITING = 2  # such parts for each thread, beyond a batch, that are read ahead
BATCH, VALUES = 256, 1 << 22  # pictures of a batch, or values in it, at most


class Unreadable(NamedTuple):
    """In the place of a picture that cannot be read."""

    file: str | None  # its path, if it is in a file
    reason: str


class Given(NamedTuple):
    """A picture as the network reads it."""

    file: str | None
    pixels: np.ndarray  # (C, H, W) uint8
    box: tuple[int, int, int, int]  # (left, top, right, bottom): the picture, without what pads it
    size: tuple[int, int]  # (height, width) before it was resized, or as a large JPEG was decoded


def form_for(data: Data, info: DataInfo) -> Form:
    """What a network that was trained on `data` reads a new picture as.

    Own pictures are made into what training made of them; where it took them as they were, all of
    one size, a picture of another size is stretched to that. Published data sets come without
    picture files: for a grey one a picture is put whole into the middle of black, since there the
    shape tells a digit from another; for one in colour the largest part of that shape is cut out.
    """
    if info.dataset in OWN_IMAGES:
        form = form_of(as_in_training(data, info), info.image_shape, info.background)
        return form._replace(resize=form.resize or "stretch")
    resize = "pad" if info.image_shape[0] == 1 else "crop"
    return Form(info.image_shape, resize, interpolation=info.interpolation, shrink=True)


def read(picture: Picture | Unreadable, form: Form) -> Given | Unreadable:
    """A picture file, a picture in memory or an array (H, W) or (H, W, C) uint8 in this form."""
    if isinstance(picture, Unreadable):
        return picture
    file = os.fspath(picture) if isinstance(picture, str | os.PathLike) else None
    try:
        loaded = load(Path(file), form) if file is not None else in_memory(picture, form)
        pixels = fitted(loaded, form)
    except MemoryError:  # which says nothing of the picture
        raise
    except Exception as error:  # noqa: BLE001  whatever Pillow stumbles on
        return Unreadable(file, reason(error))
    sides = form.shape[2], form.shape[1]
    box = inner_box(loaded.size, sides) if form.resize == "pad" else (0, 0, *sides)
    return Given(file, pixels, box, (loaded.height, loaded.width))


def read_all(pictures: list[Picture | Unreadable], form: Form) -> list[Given | Unreadable]:
    return [read(each, form) for each in pictures]


def in_memory(picture: Picture, form: Form) -> Image.Image:
    """As `load` of a file. The picture itself is not changed.

    Raises ValueError for what is no picture.
    """
    if isinstance(picture, np.ndarray):
        picture = of_array(picture)
    if not isinstance(picture, Image.Image):
        raise TypeError(
            f"a {type(picture).__name__}; should be a path, a PIL image or an array of uint8"
        )
    if picture.width * picture.height > MOST_PIXELS:
        raise Image.DecompressionBombError
    if picture.width * picture.height == 0:
        raise ValueError("empty")
    if picture.mode == "F":
        raise ValueError("floating point, of no fixed range; give it as 8 bits")
    return of_8_bits(exif_transpose(picture), form.value_range)  # a copy


def of_array(array: np.ndarray) -> Image.Image:
    """Raises ValueError for an array that is not (H, W) or (H, W, C) uint8."""
    channels = array.shape[2] if array.ndim == 3 else 1
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or channels not in (1, 3, 4):
        shape = ", ".join(map(str, array.shape))
        raise ValueError(
            f"an array ({shape}) {array.dtype}; should be (H, W) or (H, W, C) uint8, grey, RGB or "
            "RGBA; several of them are (N, H, W, C)"
        )
    return Image.fromarray(array[:, :, 0] if array.ndim == 3 and channels == 1 else array)


def several(
    pictures: Picture | Iterable[Picture | Unreadable],
) -> Iterable[Picture | Unreadable]:
    """The pictures one by one, a single one too. Raises UserError for what is neither."""
    if isinstance(pictures, str | os.PathLike | Image.Image):
        return [pictures]
    if isinstance(pictures, np.ndarray) and pictures.ndim < 4:
        return [pictures]
    if isinstance(pictures, Unreadable) or not isinstance(pictures, Iterable):
        raise UserError(
            f"a {type(pictures).__name__} is no picture; should be a path, a PIL image, an array "
            "of uint8, or several of them"
        )
    return pictures


def bytes_of(picture: Picture | Unreadable) -> int:
    """About how much there is to read."""
    if isinstance(picture, str | os.PathLike):
        try:
            return os.stat(picture).st_size
        except (OSError, ValueError):  # which is told when it is read
            return 1
    if isinstance(picture, Image.Image):
        return picture.width * picture.height
    return picture.size if isinstance(picture, np.ndarray) else 1


def parts_of(
    pictures: Iterable[Picture | Unreadable], most: int
) -> Iterator[tuple[list[Picture | Unreadable], int]]:
    """The pictures, `most` or about LARGE bytes of them together: large ones by themselves, so
    that all threads have some, and small ones together, since each handing over takes time. Beside
    them how many bytes they are.
    """
    part: list[Picture | Unreadable] = []
    size = 0
    for picture in pictures:
        part.append(picture)
        size += bytes_of(picture)
        if len(part) >= most or size >= LARGE:
            yield part, size
            part, size = [], 0
    if part:
        yield part, size


def read_in_batches(
    pictures: Iterable[Picture | Unreadable], form: Form, batch_size: int | None = None
) -> Iterator[list[Given | Unreadable]]:
    """The pictures in their order, `batch_size` at a time, read in threads but for tiny ones.

    No more than two batches and what the threads are at work on is in memory at once. Without
    `batch_size` it is as large as saves time.
    """
    batch_size = batch_size or max(1, min(BATCH, VALUES // form.size))
    workers = cores()
    parts = parts_of(pictures, min(TOGETHER, batch_size))
    waiting: deque[tuple[int, Callable[[], list[Given | Unreadable]]]] = deque()
    batch: list[Given | Unreadable] = []
    ahead = 0  # pictures that are waiting
    pool = ThreadPoolExecutor(workers)
    try:
        while True:
            while ahead < batch_size or len(waiting) < WAITING * workers:
                part, size = next(parts, ([], 0))
                if not part:
                    break
                reading = partial(read_all, part, form)
                is_tiny = size < TINY * len(part)
                waiting.append((len(part), reading if is_tiny else pool.submit(reading).result))
                ahead += len(part)
            if not waiting:
                break
            count, task = waiting.popleft()
            ahead -= count
            batch += task()
            if len(batch) >= batch_size:
                yield batch[:batch_size]
                del batch[:batch_size]
        if batch:
            yield batch
    finally:
        pool.shutdown(cancel_futures=True)  # or Ctrl-C would wait for all of them
