"""One picture file as uint8 pixels of a given shape, whatever kind of file it is.

Only the formats below are tried, by a file's content and never by its name, and no picture of more
than 64 million pixels is decoded. A picture is turned as its EXIF orientation says, and of an
animation the first frame is taken. What would be guessed of a TIFF is refused: bands that are
neither colour nor declared as opacity, signed values and floating point.
"""

import math
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from stat import S_ISREG
from typing import Any, Literal, NamedTuple

import numpy as np
from PIL import (
    ExifTags,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    UnidentifiedImageError,
    features,
)
from PIL.Image import Resampling
from PIL.ImageOps import exif_transpose, fit

from nanocnn.config.preprocessing import Interpolation

# those that Pillow may have been built without, and how it asks for them
OPTIONAL = {"AVIF": "avif", "JPEG2000": "jpg_2000"}
FORMATS = (
    *("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP"),
    *(name for name, feature in OPTIONAL.items() if features.check(feature)),
)
# of the files that pillow-heif reads, as they stand behind "ftyp"
HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}
TURNED = (5, 6, 7, 8)  # EXIF orientations that exchange the sides
MOST_PIXELS = 64_000_000
SMALLEST_RATIO = 4  # of a shrunk picture's sides to those it is resized to
GREY_MODES = {"1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L", "I;16N", "F"}
ALL_16_BITS = (0, 65535)
PHOTOMETRIC, BITS, SAMPLES, EXTRA, SAMPLE_FORMAT = 262, 258, 277, 338, 339  # tags of a TIFF
BANDS = {2: 3, 5: 4, 6: 3, 8: 3}  # by photometric: RGB, CMYK, YCbCr, LAB; others have one
LEVELS = {"L;2": 85, "L;4": 17}  # by how much Pillow spreads the few of a PNG
OPACITY = (1, 2, 999)  # extra bands that are, the last by Corel Draw
UNSIGNED, SIGNED, FLOATING = 1, 2, 3

METHODS = {"bilinear": Resampling.BILINEAR, "bicubic": Resampling.BICUBIC}
Background = Literal["black", "white"]


class Header(NamedTuple):
    """What a file says of its picture before it is decoded."""

    height: int  # as it is to be shown
    width: int
    grey: bool
    transparent: bool = False  # it may be
    deep: bool = False  # 16 bits, all of which are read
    cut: bool = False  # 16 bits a colour, of which Pillow reads the upper 8
    animated: bool = False  # or of several pages


class Form(NamedTuple):
    """What each picture is made into."""

    shape: tuple[int, int, int]  # (C, H, W)
    resize: str | None = None  # how it comes to H x W (see config.py); None: it has to be so itself
    background: Background = "black"  # where it is transparent
    value_range: tuple[int, int] = ALL_16_BITS  # of 16 bits: what becomes 0 and 255
    interpolation: Interpolation = "bilinear"
    crop_fraction: float = 1.0  # of the sides of the largest square, or H x W, that "crop" cuts out
    shrink: bool = False  # whether a JPEG may be decoded smaller than it is: see `shrink`

    @property
    def size(self) -> int:
        """Bytes of a picture."""
        return math.prod(self.shape)


@cache
def versions() -> tuple[str, ...]:
    """Of what the pixels come from besides this file."""
    try:
        heif = version("pillow-heif")
    except PackageNotFoundError:
        heif = ""
    return Image.__version__, str(features.version("libjpeg_turbo")), heif


def header_or_reason(path: Path) -> Header | str:
    try:
        with open_picture(path) as image:
            width, height = image.size
            # Pillow has turned a TIFF already, and to look behind the pixels of a PNG it would
            # decode them
            in_header = image.format != "TIFF" and (image.format != "PNG" or "exif" in image.info)
            if in_header and image.getexif().get(ExifTags.Base.Orientation) in TURNED:
                width, height = height, width
            raw_mode = raw_mode_of(image)
            grey = image.mode in GREY_MODES or raw_mode == "LA;16B"
            if image.mode in ("P", "PA"):
                colours = np.array(image.getpalette("RGB")).reshape(-1, 3)
                grey = bool((colours == colours[:, :1]).all())
            deep = image.mode.startswith("I")
            return Header(
                height,
                width,
                grey,
                transparent=image.has_transparency_data,
                deep=deep,
                cut=not deep and ";16" in raw_mode,
                animated=is_animated(image),
            )
    except Exception as error:  # noqa: BLE001  whatever Pillow stumbles on
        return reason(error)


def raw_mode_of(image: Image.Image) -> str:
    """How the pixels lie in the file, in Pillow's words."""
    assert isinstance(image, ImageFile.ImageFile)
    arguments = image.tile[0][3] if image.tile else None
    first = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return first if isinstance(first, str) else ""


def is_animated(image: Image.Image) -> bool:
    try:
        return bool(getattr(image, "is_animated", False))
    except Exception:  # noqa: BLE001  what is wrong with a second frame harms nobody
        return False


def open_picture(path: Path) -> Image.Image:
    """The picture at `path`, not yet decoded. Raises what `reason` puts into words."""
    found = path.stat()
    if not S_ISREG(found.st_mode):  # a folder, or a pipe that would never end
        raise ValueError("not a file")
    if found.st_size == 0:
        raise ValueError("empty")
    image: Image.Image
    try:
        image = Image.open(path, formats=FORMATS)
    except UnidentifiedImageError:
        refuse_unknown_tiff(path)
        if not is_heif(path):
            raise
        image = open_heif(path)
    if image.width * image.height > MOST_PIXELS:
        raise Image.DecompressionBombError
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        refuse_guesses(image.tag_v2)
    elif image.mode == "F":
        raise ValueError("32 bits a pixel, floating point, of no fixed range; save it with 8 or 16")
    return image


def is_heif(path: Path) -> bool:
    with path.open("rb") as file:
        start = file.read(12)
    return start[4:8] == b"ftyp" and start[8:] in HEIF_BRANDS


def open_heif(path: Path) -> Image.Image:
    """Raises ValueError without the package that reads these files."""
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        raise ValueError("HEIC, for which type pip install pillow-heif") from None
    if "HEIF" not in Image.OPEN:
        register_heif_opener()
    return Image.open(path, formats=("HEIF",))


def refuse_unknown_tiff(path: Path) -> None:
    """Raises ValueError if there is a TIFF at `path`, which Pillow knows no mode for."""
    with path.open("rb") as file:
        start = file.read(8)
        if start[:4] not in TiffImagePlugin.PREFIXES:
            return
        if start[2] == 43 or start[3] == 43:  # a BigTIFF, whose addresses are longer
            start += file.read(8)
        try:
            tags = TiffImagePlugin.ImageFileDirectory_v2(start)
            file.seek(tags.next)
            tags.load(file)
            refuse_guesses(tags)
            bands, bits = tags[SAMPLES], max(several(tags, BITS))
        except ValueError:
            raise
        except Exception:  # noqa: BLE001  whatever Pillow stumbles on
            raise ValueError("a TIFF that is damaged") from None
    raise ValueError(f"a TIFF of {bands} x {bits} bits a pixel, which is not read; save it as PNG")


def refuse_guesses(tags: Any) -> None:
    """Raises ValueError for a TIFF with these tags that could only be read by a guess."""
    bits, formats = max(several(tags, BITS, 1)), set(several(tags, SAMPLE_FORMAT, UNSIGNED))
    bands, needed = tags.get(SAMPLES, 1), BANDS.get(tags.get(PHOTOMETRIC, 0), 1)
    extra = several(tags, EXTRA)
    readable = needed + (extra[:1] != () and extra[0] in OPACITY)
    if bands > readable:
        raise ValueError(
            f"{bands} bands, of which only {readable} would be used: the rest is neither colour "
            "nor declared as opacity; save it with the bands that are to be used"
        )
    if FLOATING in formats or SIGNED in formats:
        kind = "floating point" if FLOATING in formats else "signed"
        raise ValueError(
            f"{bits} bits a pixel, {kind}, of no fixed range; save it with 8 or 16, unsigned"
        )
    if bits > 16:
        raise ValueError(f"{bits} bits a pixel, of no fixed range; save it with 8 or 16")


def several(tags: Any, tag: int, *default: int) -> tuple[int, ...]:
    values = tags.get(tag, default)
    return values if isinstance(values, tuple) else (values,)


def reason(error: Exception) -> str:
    """Why a file cannot be read, without its name."""
    if isinstance(error, UnidentifiedImageError):
        return f"none of {', '.join(FORMATS)}"
    if isinstance(error, Image.DecompressionBombError):
        return f"more than {MOST_PIXELS:,} pixels"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


def decode(path: Path, form: Form) -> np.ndarray:
    """The picture at `path` as (C, H, W) uint8."""
    return fitted(load(path, form), form)


def fitted(picture: Image.Image, form: Form) -> np.ndarray:
    """A picture that was loaded, as (C, H, W) uint8."""
    channels, height, width = form.shape
    picture = flat(picture, form)
    size, method = (width, height), METHODS[form.interpolation]
    if form.resize is None and picture.size != size:
        raise ValueError(f"{picture.height}x{picture.width} pixels instead of {height}x{width}")
    if form.resize in ("stretch", "pad") and picture.size == size:
        pass
    elif form.resize == "stretch":
        picture = picture.resize(size, method)
    elif form.resize == "crop":
        picture = fit(picture, size, method, bleed=(1 - form.crop_fraction) / 2)
    elif form.resize == "pad":
        left, top, right, bottom = inner_box(picture.size, size)
        whole = Image.new(picture.mode, size, form.background)
        whole.paste(picture.resize((right - left, bottom - top), method), (left, top))
        picture = whole
    return np.asarray(picture).reshape(height, width, channels).transpose(2, 0, 1)


def flat(picture: Image.Image, form: Form) -> Image.Image:
    """A picture that was loaded, grey or in colour, with the background where it is transparent."""
    if picture.mode == "RGBA":
        below = Image.new("RGBA", picture.size, form.background)
        picture = Image.alpha_composite(below, picture).convert("RGB")
    mode = "L" if form.shape[0] == 1 else "RGB"
    return picture if picture.mode == mode else picture.convert(mode)


def load(path: Path, form: Form | None = None) -> Image.Image:
    """The picture at `path`, upright, of 8 bits; RGBA if it may be transparent.

    `form` is what it is to be made into, from which follow its range and its size.
    """
    with open_picture(path) as image:
        raw_mode = raw_mode_of(image)
        if form and form.shrink:
            shrink(image, form)
        image.load()
        white_is_zero = (
            isinstance(image, TiffImagePlugin.TiffImageFile) and image.tag_v2.get(PHOTOMETRIC) == 0
        )
        level = image.info.get("transparency")  # of grey pictures, as the file counts
        if isinstance(level, int) and raw_mode in LEVELS:
            image.info["transparency"] = level * LEVELS[raw_mode]
        if isinstance(image, JpegImagePlugin.JpegImageFile | PngImagePlugin.PngImageFile):
            exif_transpose(image, in_place=True)  # without a copy, which takes time
        else:
            image = exif_transpose(image)
        return of_8_bits(image, form.value_range if form else ALL_16_BITS, white_is_zero)


def of_8_bits(
    image: Image.Image, value_range: tuple[int, int], white_is_zero: bool = False
) -> Image.Image:
    """A picture in memory, upright, of 8 bits; RGBA if it may be transparent."""
    if not image.mode.startswith("I"):
        if image.mode == "La":  # which Pillow converts to nothing else
            image = image.convert("LA")
        return image.convert("RGBA") if image.has_transparency_data else image
    values, level = np.asarray(image), image.info.get("transparency")
    grey = to_8_bits(values, *value_range)
    # which Pillow heeds in pictures of fewer bits only
    picture = Image.fromarray(255 - grey if white_is_zero else grey)
    if isinstance(level, int):
        picture.putalpha(Image.fromarray(((values != level) * 255).astype(np.uint8)))
        picture = picture.convert("RGBA")
    return picture


def shrink(image: Image.Image, form: Form) -> None:
    """Let a JPEG be decoded at a half, a quarter or an eighth of its sides.

    That takes less time, since most of what is decoded would be averaged away. Only as long as
    both sides of what is resized are at least SMALLEST_RATIO times those that they come to: nearer
    than that it moves what a network says. Other formats would hand out a thumbnail of their own.
    """
    if not isinstance(image, JpegImagePlugin.JpegImageFile) or form.resize is None:
        return
    is_turned = image.getexif().get(ExifTags.Base.Orientation) in TURNED
    sides = image.size[::-1] if is_turned else image.size
    target = form.shape[2], form.shape[1]
    if form.resize == "pad":
        target = inner_size(sides, target)
    share = form.crop_fraction if form.resize == "crop" else 1
    least = [math.ceil(SMALLEST_RATIO * side / share) for side in target]
    image.draft(None, (least[1], least[0]) if is_turned else (least[0], least[1]))


def inner_size(sides: tuple[int, int], most: tuple[int, int]) -> tuple[int, int]:
    """(width, height) of the largest picture with the ratio of these `sides` that fits `most`."""
    scale = min(most[0] / sides[0], most[1] / sides[1])
    return max(1, round(sides[0] * scale)), max(1, round(sides[1] * scale))


def inner_box(sides: tuple[int, int], whole: tuple[int, int]) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) of it in the middle of a picture of the sides `whole`."""
    width, height = inner_size(sides, whole)
    left, top = (whole[0] - width) // 2, (whole[1] - height) // 2
    return left, top, left + width, top + height


def to_8_bits(values: np.ndarray, low: int, high: int) -> np.ndarray:
    """Values of 16 bits as uint8: `low` becomes 0 and `high` 255, what is beyond them too."""
    inside = values.astype(np.uint32).clip(low, high) - low
    return ((inside * 255 + (high - low) // 2) // (high - low)).astype(np.uint8)
