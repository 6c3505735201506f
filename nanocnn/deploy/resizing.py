"""What `images.decode` makes of a decoded picture, as a layer that leaves in a file.

Pillow resizes along the width and then along the height, rounds after each, and counts weights in
fractions of 2^22. Here each pass is a product with a matrix of those weights. In double precision
both are exact, so the pixels are Pillow's, bit for bit; the matrices are made where the layer
works, from the sizes that it meets. Source: Pillow, src/libImaging/Resample.c.
"""

from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor, nn

from nanocnn.images.decode import Form

ONE = 2.0**22  # a weight of 1, as Pillow counts it


class Span(NamedTuple):
    """The part of the pictures that is resized along one axis, and where it then lies, in pixels;
    each () float64.
    """

    start: Tensor
    length: Tensor
    place: Tensor  # of the first pixel that it comes to
    pixels: Tensor  # that it comes to


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
        down, across = self.spans(*sides)
        rows = self.weights(images.shape[2], height, down)
        columns = self.weights(images.shape[3], width, across).T
        resized = torch.cond(
            is_vertical_first(*sides, down.pixels, across.pixels),
            lambda pixels, rows, columns: rounded(rounded(rows @ pixels) @ columns),
            lambda pixels, rows, columns: rounded(rows @ rounded(pixels @ columns)),
            (images.double(), rows, columns),
        )
        if self.form.resize == "pad" and self.form.background == "white":
            inside = is_inside(height, down)[:, None] & is_inside(width, across)
            resized = torch.where(inside, resized, 255.0)
        return resized.float()

    def spans(self, height: Tensor, width: Tensor) -> tuple[Span, Span]:
        """Those of the rows and of the columns of pictures with these sides."""
        to_height, to_width = (count(side) for side in self.form.shape[1:])
        zero = count(0)
        if self.form.resize == "pad":  # see decode.inner_size
            scale = torch.minimum(to_width / width, to_height / height)
            down, across = ((side * scale).round().clamp(min=1) for side in (height, width))
            return (
                Span(zero, height, ((to_height - down) / 2).floor(), down),
                Span(zero, width, ((to_width - across) / 2).floor(), across),
            )
        if self.form.resize == "crop":
            down, across = fitted(height, width, self.form)
            return Span(*down, zero, to_height), Span(*across, zero, to_width)
        return Span(zero, height, zero, to_height), Span(zero, width, zero, to_width)

    def weights(self, pixels: int, to_pixels: int, span: Span) -> Tensor:
        """(to_pixels, pixels) float64: how much each pixel counts in each that they come to."""
        scale = span.length / span.pixels
        places = torch.arange(to_pixels, dtype=torch.float64)[:, None] - span.place
        centres = span.start + (places + 0.5) * scale
        distances = torch.arange(pixels, dtype=torch.float64) - centres + 0.5
        distances = (distances * (1 / scale.clamp(min=1))).abs()  # what is enlarged is not blurred
        values = FILTERS[self.form.interpolation](distances)
        shares = values / values.sum(1, keepdim=True)
        whole = shares.sign() * (shares.abs() * ONE + 0.5).floor()
        return torch.where(is_inside(to_pixels, span)[:, None], whole, 0.0)


def count(number: int) -> Tensor:
    """`number`, which may be known only where the layer works, as () float64."""
    return torch.full((), number, dtype=torch.float64)


def is_vertical_first(height: Tensor, width: Tensor, down: Tensor, across: Tensor) -> Tensor:
    """Whether Pillow resizes the height first of such a picture, which comes to `down` rows and
    `across` columns.
    """
    if int(Image.__version__.partition(".")[0]) < 13:
        return (down < height) & (height > 100 * width)
    return (down < height) & (height - down > 2 * (width - across))


def rounded(sums: Tensor) -> Tensor:
    """Pixels of sums over weights."""
    return ((sums + ONE / 2) / ONE).floor().clamp(0, 255)


def is_inside(to_pixels: int, span: Span) -> Tensor:
    """Whether each of `to_pixels` (to_pixels,) belongs to the picture and not to its border."""
    places = torch.arange(to_pixels, dtype=torch.float64) - span.place
    return (places >= 0) & (places < span.pixels)


def fitted(height: Tensor, width: Tensor, form: Form) -> tuple[tuple[Tensor, Tensor], ...]:
    """Where the part of a picture that PIL.ImageOps.fit cuts out begins, and its length: of the
    rows and of the columns.
    """
    bleed = (1 - form.crop_fraction) / 2
    ratio = form.shape[2] / form.shape[1]
    edges = [bleed * side for side in (height, width)]
    tall, wide = (side - edge * 2 for side, edge in zip((height, width), edges, strict=True))
    is_wider = wide / tall >= ratio
    is_equal = wide / tall == ratio
    crop_width = torch.where(is_wider & ~is_equal, ratio * tall, wide)
    crop_height = torch.where(is_wider, tall, wide / ratio)
    parts = []
    for edge, live, length in zip(edges, (tall, wide), (crop_height, crop_width), strict=True):
        start = edge + (live - length) * 0.5
        first, end = start.float(), (start + length).float()  # as Pillow takes them
        parts.append((first.double(), (end - first).double()))
    return tuple(parts)


def bilinear(distances: Tensor) -> Tensor:
    return (1 - distances).clamp(min=0)


def bicubic(distances: Tensor) -> Tensor:
    """R. Keys, Cubic Convolution Interpolation for Digital Image Processing (1981), a = -1/2."""
    near = (1.5 * distances - 2.5) * distances * distances + 1
    far = (((distances - 5) * distances + 8) * distances - 4) * -0.5
    return torch.where(distances < 1, near, torch.where(distances < 2, far, 0.0))


FILTERS = {"bilinear": bilinear, "bicubic": bicubic}
