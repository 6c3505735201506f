"""A network slid over images larger than those that it was trained on: scores of every place.

sliding = sliding_network(model, image_shape)
scores = sliding.scores(images)  # (B, classes, rows, columns)

Its linear layers become convolutions, so that what overlapping windows have in common is computed
once (Sermanet et al., OverFeat, 2014, 3.5). Large images are taken in tiles, in memory that does
not grow with them but for the scores.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nanocnn.networks.rewrite import fully_convolutional
from nanocnn.networks.sizes import ImageShape

LEAST_TILE = 512  # pixels a side
WINDOWS = 4  # that a tile holds side by side, if it is more


@dataclass(frozen=True)
class Sliding:
    """The network of one place after the other: place (i, j) of the scores is the window whose
    upper left pixel is (i, j) * stride.
    """

    model: nn.Module  # images (B, C, H, W) -> scores (B, classes, rows, columns)
    window: tuple[int, int]  # height and width of the images that it was trained on
    stride: tuple[int, int]  # pixels from a place to the next
    # whether each place has the logits of its window; a network with padding sees beyond a window
    exact: bool

    @torch.inference_mode()
    def scores(
        self, image: Tensor, normalise: Callable[[Tensor], Tensor], least: int = LEAST_TILE
    ) -> Tensor:
        """The scores (classes, rows, columns) of an image (C, H, W) uint8, at least as large as the
        window, on the CPU. `normalise` makes what the network takes of a tile (1, C, h, w).

        Where places are not exact a tile is half a window wider on each side, which their scores
        are made with and cut off again.
        """
        lines = [list(self.tiles(axis, size, least)) for axis, size in enumerate(image.shape[1:])]
        rows, columns = (each[-1].last + 1 for each in lines)
        whole = None
        for row in lines[0]:
            for column in lines[1]:
                tile = image[None, :, row.pixels, column.pixels]
                scores = self.model(normalise(tile)).float().cpu()[0]
                if whole is None:
                    whole = scores.new_empty(len(scores), rows, columns)
                part = scores[:, row.kept, column.kept]
                whole[:, row.first : row.last + 1, column.first : column.last + 1] = part
        assert whole is not None
        return whole

    def tiles(self, axis: int, size: int, least: int) -> Iterator["Tile"]:
        """Those along an axis of `size` pixels."""
        window, stride = self.window[axis], self.stride[axis]
        margin = 0 if self.exact else math.ceil(window / 2 / stride)  # places
        places = (size - window) // stride + 1
        some = max(1, (max(least, WINDOWS * window) - window) // stride + 1)
        for first in range(0, places, some):
            last = min(places, first + some) - 1
            start, end = max(0, first - margin), last + margin
            # what is left of the image beyond the last place belongs to it: padding follows there
            stop = size if end >= places - 1 else end * stride + window
            yield Tile(
                first, last, slice(start * stride, stop), slice(first - start, last + 1 - start)
            )


@dataclass(frozen=True)
class Tile:
    """A part of an axis."""

    first: int  # its first and its last place
    last: int
    pixels: slice
    kept: slice  # these places among all that the network makes of the pixels


def sliding_network(model: nn.Module, image_shape: ImageShape) -> Sliding:
    """Raises UserError for a network that cannot slide: see fully_convolutional."""
    scanner = fully_convolutional(model, image_shape)
    channels, height, width = image_shape
    device = next(model.parameters()).device
    blank = torch.zeros(1, channels, height, width, device=device)

    def places(axis: int, size: int) -> int:
        shape = [1, channels, height, width]
        shape[2 + axis] = size
        return scanner(blank.new_zeros(shape)).shape[2 + axis]

    with torch.inference_mode():
        stride = (
            stride_of(lambda size: places(0, size), height),
            stride_of(lambda size: places(1, size), width),
        )
        return Sliding(scanner, (height, width), stride, is_exact(model, scanner, blank, stride))


def stride_of(places: Callable[[int], int], window: int) -> int:
    """The pixels by which an image grows from two places to three."""
    least = []
    for count in (2, 3):
        low, high = window, 2 * window
        while places(high) < count:
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if places(middle) >= count else (middle, high)
        least.append(high)
    return least[1] - least[0]


def is_exact(model: nn.Module, scanner: nn.Module, blank: Tensor, stride: tuple[int, int]) -> bool:
    """Whether two windows aslant of each other have the scores of their places."""
    height, width = blank.shape[2:]
    down, right = stride
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(1, blank.shape[1], height + down, width + right, generator=generator)
    image = image.to(blank.device)
    was_training = model.training
    windows = torch.cat([image[..., :height, :width], image[..., down:, right:]])
    logits = model.eval()(windows)
    model.train(was_training)
    scores = scanner(image)[0]
    return torch.allclose(
        torch.stack([scores[:, 0, 0], scores[:, 1, 1]]), logits, rtol=1e-3, atol=1e-4
    )
