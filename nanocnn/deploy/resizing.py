"""What `images.decode` makes of a decoded picture, as a layer that leaves in a file.

Pillow resizes along the width and then along the height, or the other way round, rounds after each,
and counts weights in fractions of 2^22. Here each pass is a product of such weights, in double
precision, in which both are exact: the pixels are Pillow's, bit for bit. The weights are made where
the layer works, from the size that it meets. Both orders are computed and one is taken; a file
computes that one alone (see graph.py). Source: Pillow, src/libImaging/Resample.c.
"""

import math
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor, nn

from nanocnn.images.decode import Form

ONE = 2.0**22  # a weight of 1, as Pillow counts it
BLOCK = 32  # pixels that are computed together: they need few of the picture's


class Span(NamedTuple):
    """The part of the pictures that is resized along one axis, and where it then lies, in pixels;
    each () float64.
    """

    start: Tensor
    length: Tensor
    place: Tensor  # of the first pixel that it comes to
    pixels: Tensor  # that it comes to


class Band(NamedTuple):
    """What the pixels along one axis are made of, T blocks of B pixels, each of the same K."""

    sources: Tensor  # (T, K) int64
    weights: Tensor  # (T, B, K) float64, whole numbers


class Resizing(nn.Module):
    """Pictures (N, C, height, width) uint8 of any one size to (N, C, H, W) float32, whole numbers
    from 0 to 255, as `form` says; where it has no word on that they are stretched.
    """

    def __init__(self, form: Form):
        super().__init__()
        self.form = form

    def forward(self, images: Tensor) -> Tensor:
        _, height, width = self.form.shape
        sides = count(images.shape[2]), count(images.shape[3])
        down, across = spans(*sides, self.form)
        most = self.most_shrunk(images.shape[2], images.shape[3])
        down_band = self.band(images.shape[2], height, down, most[0])
        across_band = self.band(images.shape[3], width, across, most[1])
        resized = torch.where(
            is_height_first(*sides, down.pixels, across.pixels),
            along_width(along_height(images, down_band, height), across_band, width),
            along_height(along_width(images, across_band, width), down_band, height),
        )
        if self.form.resize == "pad" and self.form.background == "white":
            inside = is_inside(height, down)[:, None] & is_inside(width, across)
            resized = torch.where(inside, resized, 255.0)
        if self.form.resize == "crop" and self.form.crop_fraction < 1:
            return resized.float()
        rows, columns = (torch.full((), side) for side in images.shape[2:])
        is_ready = (rows == height) & (columns == width)
        return torch.where(is_ready, first_pixels(images, height, width), resized.float())

    def most_shrunk(self, height: int, width: int) -> tuple[int, int]:
        """No more pixels of the rows and of the columns become one."""
        _, down, across = self.form.shape
        most = (height + down - 1) // down, (width + across - 1) // across
        if self.form.resize == "pad":  # by the same number, but that 1.5 pixels may become one
            more = (3 * torch.sym_max(*most) + 1) // 2
            return more, more
        return most

    def band(self, pixels: int, to_pixels: int, span: Span, most: int) -> Band:
        block = min(BLOCK, to_pixels)
        reach = REACH[self.form.interpolation]
        scale = span.length / span.pixels
        blur = scale.clamp(min=1)  # what is enlarged is not blurred
        places = torch.arange(math.ceil(to_pixels / block) * block).view(-1, block)
        centres = span.start + (places - span.place + 0.5) * scale
        first = (centres[:, :1] - reach * blur).floor()
        needed = first + torch.arange((block + 2 * reach) * most + 2)
        distances = needed[:, None] - centres[:, :, None] + 0.5
        values = FILTERS[self.form.interpolation]((distances * (1 / blur)).abs())
        is_there = (needed >= 0) & (needed < pixels)
        values = torch.where(is_there[:, None], values, 0.0)
        shares = values / values.sum(2, keepdim=True)
        whole = shares.sign() * (shares.abs() * ONE + 0.5).floor()
        inside = is_inside(places.numel(), span).view(-1, block, 1)
        weights = torch.where(inside, whole, 0.0)
        return Band(needed.clamp(0, pixels - 1).long(), weights)


def first_pixels(images: Tensor, height: int, width: int) -> Tensor:
    """(N, C, height, width) float32, the pictures themselves where they have that size already."""
    sides = zip((height, width), images.shape[2:], strict=True)
    rows, columns = (torch.arange(most).clamp(max=side - 1) for most, side in sides)
    return images[:, :, rows][:, :, :, columns].float()


def along_width(images: Tensor, band: Band, width: int) -> Tensor:
    """(N, C, height, any) to (N, C, height, width) float64."""
    blocks = images[..., band.sources].movedim(3, 0).double()  # (T, N, C, height, K)
    sums = blocks @ band.weights.mT[:, None, None]
    return rounded(sums.movedim(0, 3).flatten(3)[..., :width])


def along_height(images: Tensor, band: Band, height: int) -> Tensor:
    """(N, C, any, width) to (N, C, height, width) float64."""
    blocks = images[:, :, band.sources].double()  # (N, C, T, K, width)
    return rounded((band.weights @ blocks).flatten(2, 3)[:, :, :height])


def rounded(sums: Tensor) -> Tensor:
    """Pixels of sums over weights."""
    return ((sums + ONE / 2) / ONE).floor().clamp(0, 255)


def count(number: int) -> Tensor:
    """`number`, which may be known only where the layer works, as () float64."""
    return torch.full((), number, dtype=torch.float64)


def spans(height: Tensor, width: Tensor, form: Form) -> tuple[Span, Span]:
    """Those of the rows and of the columns of pictures with these sides."""
    to_height, to_width = (count(side) for side in form.shape[1:])
    zero = count(0)
    if form.resize == "pad":  # see decode.inner_box
        scale = torch.minimum(to_width / width, to_height / height)
        down, across = ((side * scale).round().clamp(min=1) for side in (height, width))
        return (
            Span(zero, height, ((to_height - down) / 2).floor(), down),
            Span(zero, width, ((to_width - across) / 2).floor(), across),
        )
    if form.resize == "crop":
        rows, columns = cut_out(height, width, form)
        return Span(*rows, zero, to_height), Span(*columns, zero, to_width)
    return Span(zero, height, zero, to_height), Span(zero, width, zero, to_width)


def cut_out(height: Tensor, width: Tensor, form: Form) -> tuple[tuple[Tensor, Tensor], ...]:
    """Where the part of a picture that PIL.ImageOps.fit cuts out begins, and its length: of the
    rows and of the columns.
    """
    bleed = (1 - form.crop_fraction) / 2
    ratio = form.shape[2] / form.shape[1]
    edges = bleed * height, bleed * width
    tall, wide = height - edges[0] * 2, width - edges[1] * 2
    is_wider = wide / tall >= ratio
    is_equal = wide / tall == ratio
    across = torch.where(is_wider & ~is_equal, ratio * tall, wide)
    down = torch.where(is_wider, tall, wide / ratio)
    parts = []
    for edge, whole, length in zip(edges, (tall, wide), (down, across), strict=True):
        start = edge + (whole - length) * 0.5
        first, end = start.float(), (start + length).float()  # as Pillow takes them
        parts.append((first.double(), (end - first).double()))
    return tuple(parts)


def is_height_first(height: Tensor, width: Tensor, down: Tensor, across: Tensor) -> Tensor:
    """Whether Pillow first resizes the height of a picture that comes to `down` rows and `across`
    columns.
    """
    if int(Image.__version__.partition(".")[0]) < 13:
        return (down < height) & (height > 100 * width)
    return (down < height) & (height - down > 2 * (width - across))


def is_inside(to_pixels: int, span: Span) -> Tensor:
    """Whether each of `to_pixels` (to_pixels,) belongs to the picture and not to its border."""
    places = torch.arange(to_pixels) - span.place
    return (places >= 0) & (places < span.pixels)


def bilinear(distances: Tensor) -> Tensor:
    return (1 - distances).clamp(min=0)


def bicubic(distances: Tensor) -> Tensor:
    """R. Keys, Cubic Convolution Interpolation for Digital Image Processing (1981), a = -1/2."""
    near = (1.5 * distances - 2.5) * distances * distances + 1
    far = (((distances - 5) * distances + 8) * distances - 4) * -0.5
    return torch.where(distances < 1, near, torch.where(distances < 2, far, 0.0))


FILTERS = {"bilinear": bilinear, "bicubic": bicubic}
REACH = {"bilinear": 1, "bicubic": 2}  # in pixels of the smaller picture
