"""Picture files as uint8 arrays of one shape, whatever kind of file they are.

Only the formats below are tried, by a file's content and never by its name, and no picture of more
than 64 million pixels is decoded. A picture is turned as its EXIF orientation says, of an animation
the first frame is taken, what is transparent lies over black, and 16 bits a pixel are scaled to 8.
"""

import os
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from PIL import ExifTags, Image, UnidentifiedImageError
from PIL.Image import Resampling
from PIL.ImageOps import exif_transpose, fit
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from nanocnn.images.content import hashes, histogram

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
MOST_PIXELS = 64_000_000
GREY_MODES = {"1", "L", "LA", "I", "I;16", "I;16B", "I;16L", "I;16N", "F"}
Result = TypeVar("Result")


class Header(NamedTuple):
    """What a file says of its picture before it is decoded."""

    height: int  # as it is to be shown
    width: int
    grey: bool


class Contents(NamedTuple):
    """All pictures of a split, once decoded."""

    images: Tensor | None  # (readable pictures, C, H, W) uint8, if they were to be kept
    hashes: list[bytes]  # of each of them
    histogram: np.ndarray  # (C, 256) pixels of each value
    reasons: dict[int, str]  # why the others cannot be read, by index


class Pictures(Dataset):
    """Picture files as a map: each time it is asked for some, it reads them."""

    def __init__(
        self, root: Path, paths: list[str], shape: tuple[int, int, int], resize: str | None
    ):
        """With `resize` None a picture has to be of `shape` (C, H, W) itself."""
        self.root, self.paths, self.shape, self.resize = root, paths, shape, resize

    def __getitem__(self, chosen: np.ndarray) -> tuple[np.ndarray, dict[int, str]]:
        """(B, C, H, W) uint8 of the files with these indices, and why some of them cannot be
        read.
        """
        images = np.zeros((len(chosen), *self.shape), np.uint8)
        reasons = {}
        for image, index in zip(images, chosen.tolist(), strict=True):
            try:
                image[:] = decode(self.root / self.paths[index], self.shape, self.resize)
            except Exception as error:  # noqa: BLE001  whatever Pillow stumbles on
                reasons[index] = reason(error)
        return images, reasons

    def read_all(self, keep: bool) -> Contents:
        """Decode every file once, in threads; without `keep` the pixels are measured, in little
        memory.
        """
        count = len(self.paths)
        kept = torch.empty((count if keep else 0, *self.shape), dtype=torch.uint8)

        def read(chosen: np.ndarray) -> tuple[list[bytes], np.ndarray, dict[int, str]]:
            images, reasons = self[chosen]
            if keep:
                kept[chosen[0] : chosen[-1] + 1] = torch.from_numpy(images)
            images = images[[index not in reasons for index in chosen.tolist()]]
            return hashes(images), histogram(images), reasons

        block = max(1, min(16, 16_000_000 // int(np.prod(self.shape))))
        read_hashes, histograms, blocks_of_reasons = zip(
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
        )


def look_at(root: Path, paths: list[str]) -> dict[str, Header | str]:
    """The header of each file, or why it cannot be read."""

    def look_at_some(chosen: np.ndarray) -> list[tuple[str, Header | str]]:
        return [(paths[index], header_or_reason(root / paths[index])) for index in chosen]

    found = in_threads(look_at_some, len(paths), 16, "looking")
    return dict(pair for some in found for pair in some)


def header_or_reason(path: Path) -> Header | str:
    try:
        with open_picture(path) as image:
            width, height = image.size
            # Pillow has turned a TIFF already, and to look behind the pixels of a PNG it would
            # decode them
            in_header = image.format != "TIFF" and (image.format != "PNG" or "exif" in image.info)
            if in_header and image.getexif().get(ExifTags.Base.Orientation) in (5, 6, 7, 8):
                width, height = height, width
            grey = image.mode in GREY_MODES
            if image.mode in ("P", "PA"):
                colours = np.array(image.getpalette("RGB")).reshape(-1, 3)
                grey = bool((colours == colours[:, :1]).all())
            return Header(height, width, grey)
    except Exception as error:  # noqa: BLE001  whatever Pillow stumbles on
        return reason(error)


def open_picture(path: Path) -> Image.Image:
    """The picture at `path`, not yet decoded. Raises what `reason` puts into words."""
    if path.exists() and not path.is_file():  # a folder, or a pipe that would never end
        raise ValueError("not a file")
    if path.stat().st_size == 0:
        raise ValueError("empty")
    image = Image.open(path, formats=FORMATS)
    if image.width * image.height > MOST_PIXELS:
        raise Image.DecompressionBombError
    return image


def reason(error: Exception) -> str:
    """Why a file cannot be read, without its name."""
    if isinstance(error, UnidentifiedImageError):
        return f"none of {', '.join(FORMATS)}"
    if isinstance(error, Image.DecompressionBombError):
        return f"more than {MOST_PIXELS:,} pixels"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


def decode(path: Path, shape: tuple[int, int, int], resize: str | None) -> np.ndarray:
    """The picture at `path` as (C, H, W) uint8; `resize` says how it comes to H x W (see
    config.py).
    """
    channels, height, width = shape
    with open_picture(path) as image:
        image.load()
        kind = image.format
        image = exif_transpose(image)
        if image.mode.startswith(("I", "F")):
            # Netpbm's are scaled to 16 bits by Pillow; others have no fixed range
            if image.mode == "F" or (image.mode == "I" and kind not in ("PNG", "PPM")):
                raise ValueError("32 bits a pixel, of no fixed range; save it with 8 or 16")
            pixels = np.asarray(image).astype(np.uint32)
            picture = Image.fromarray(((pixels * 255 + 32767) // 65535).astype(np.uint8))
        elif image.has_transparency_data:
            black = Image.new("RGBA", image.size, "black")
            picture = Image.alpha_composite(black, image.convert("RGBA")).convert("RGB")
        else:
            picture = image
        picture = picture.convert("L" if channels == 1 else "RGB")

    size = (width, height)
    if resize is None and picture.size != size:
        raise ValueError(f"{picture.height}x{picture.width} pixels instead of {height}x{width}")
    if resize == "stretch":
        picture = picture.resize(size, Resampling.BILINEAR)
    elif resize == "crop":
        picture = fit(picture, size, Resampling.BILINEAR)
    elif resize == "pad":
        scale = min(width / picture.width, height / picture.height)
        inner = [max(1, round(side * scale)) for side in picture.size]
        whole = Image.new(picture.mode, size)
        place = ((width - inner[0]) // 2, (height - inner[1]) // 2)
        whole.paste(picture.resize((inner[0], inner[1]), Resampling.BILINEAR), place)
        picture = whole
    return np.asarray(picture).reshape(height, width, channels).transpose(2, 0, 1)


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


def cores() -> int:
    """Those that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
