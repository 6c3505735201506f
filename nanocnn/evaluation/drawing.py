"""Numbers as small pictures: filters, maps, patches, and sheets of them."""

import base64
import io
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw
from torch import Tensor

GAP = 2  # pixels between the tiles of a mosaic
LARGEST = 12  # pixels a side of one that is drawn larger
GREY = (136, 136, 136)  # behind what is transparent, where a file cannot be
MARGIN, SPACE, LINE = 8, 4, 14  # pixels of a sheet
BACK = (214, 219, 226)  # of a sheet: neither black nor white, which tiles are


class Cell(NamedTuple):
    """Pictures side by side and what stands above them."""

    caption: str
    pictures: Sequence[Image.Image]


def signed(values: Tensor) -> np.ndarray:
    """Values as uint8 of the same shape: zero is 128, the largest in size 0 or 255."""
    array = values.cpu().double().numpy()
    largest = float(np.abs(array).max(initial=0))
    scaled = array / largest if 0 < largest < np.inf else np.zeros_like(array)
    return np.round(128 + 127 * scaled).astype(np.uint8)


def shades(values: Tensor) -> np.ndarray:
    """Values as uint8 of the same shape, as `signed` or, where none is below zero, from 0 on."""
    if (values < 0).any():
        return signed(values)
    array = values.cpu().double().numpy()
    largest = float(array.max(initial=0))
    return np.round(255 * array / largest if largest > 0 else array).astype(np.uint8)


def picture_of(pixels: np.ndarray) -> Image.Image:
    """Of pixels (C, H, W) uint8: grey, grey and opacity, colours, or colours and opacity."""
    return Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))


def fitted(picture: Image.Image, side: int, largest: int = LARGEST) -> Image.Image:
    """`picture` with at most `side` pixels along its longer side: larger in squares of at most
    `largest` for a pixel, or smaller.
    """
    scale = side / max(picture.size)
    if scale >= 1:
        scale = min(largest, int(scale))
    width, height = (max(1, round(each * scale)) for each in picture.size)
    how = Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.BOX
    return picture.resize((width, height), how)


def mosaic(tiles: Sequence[Image.Image], columns: int) -> Image.Image:
    """Tiles of one size and kind in rows, on nothing."""
    width, height = (each + GAP for each in tiles[0].size)
    rows = -(-len(tiles) // columns)
    kind = "LA" if tiles[0].mode in ("L", "LA") else "RGBA"
    whole = Image.new(kind, (columns * width - GAP, rows * height - GAP))
    for place, tile in enumerate(tiles):
        row, column = divmod(place, columns)
        whole.paste(tile.convert(kind), (column * width, row * height))
    return whole


def sheet(cells: Sequence[Cell], width: int = 1000) -> Image.Image:
    """Cells in rows, at most about `width` pixels wide."""
    text = ImageDraw.Draw(Image.new("L", (1, 1)))
    widths = [
        max(
            sum(each.width + SPACE for each in cell.pictures) - SPACE, text.textlength(cell.caption)
        )
        for cell in cells
    ]
    step = int(max(widths)) + MARGIN
    columns = max(1, min(len(cells), (width - MARGIN) // step))
    rows = [cells[first : first + columns] for first in range(0, len(cells), columns)]
    heights = [max(each.height for cell in row for each in cell.pictures) for row in rows]
    modes = {picture.mode for cell in cells for picture in cell.pictures}
    kind = "L" if modes <= {"L", "LA"} else "RGB"  # which makes larger files
    size = columns * step + MARGIN, sum(heights) + len(rows) * (LINE + MARGIN) + MARGIN
    whole = Image.new("RGB", size, BACK).convert(kind)
    draw = ImageDraw.Draw(whole)
    top = MARGIN
    for row, height in zip(rows, heights, strict=True):
        for column, cell in enumerate(row):
            left = MARGIN + column * step
            draw.text((left, top), cell.caption, fill="black")
            for picture in cell.pictures:
                shown = picture.convert("RGBA")
                whole.paste(shown.convert(kind), (left, top + LINE), shown.getchannel("A"))
                left += picture.width + SPACE
        top += height + LINE + MARGIN
    return whole


def file_of(picture: Image.Image) -> bytes:
    """As a PNG file."""
    file = io.BytesIO()
    picture.save(file, "png")
    return file.getvalue()


def uri_of(picture: Image.Image, is_photo: bool = False) -> str:
    """The address of a picture that holds it; a photo as JPEG, on grey where it is transparent."""
    file, kind = io.BytesIO(), "jpeg" if is_photo else "png"
    if is_photo:
        shown = picture.convert("RGBA")
        picture = Image.new("RGB", picture.size, GREY)
        picture.paste(shown, (0, 0), shown)
        picture.save(file, kind, quality=82)
    else:
        picture.save(file, kind)
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"
