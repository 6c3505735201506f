"""Where a network looks: what it loses when a part of an image is hidden."""

import torch
from torch import Tensor, nn

GRID = 7  # squares a side


@torch.inference_mode()
def occlusion(
    model: nn.Module,
    images: Tensor,
    classes: Tensor | None = None,
    grid: int = GRID,
    batch_size: int = 64,
) -> Tensor:
    """How much of the probability of `classes` (B,), by default those predicted, each of
    grid x grid squares carries.

    Images (B, C, H, W) are normalised, so that a square of zeros has the mean colour of the
    training images. Returns (B, grid, grid): the probability of the whole image less that with the
    square hidden, squares of half a square more on each side. M. Zeiler, R. Fergus, Visualizing and
    Understanding Convolutional Networks (2014), section 4.2.
    """
    model.eval()
    height, width = images.shape[2:]

    def probabilities(some: Tensor) -> Tensor:
        return torch.cat([model(part).double().softmax(1) for part in some.split(batch_size)]).cpu()

    whole = probabilities(images)
    classes = whole.argmax(1) if classes is None else classes.cpu()
    maps = torch.empty(len(images), grid, grid, dtype=torch.float64)
    for row in range(grid):
        top, bottom = part_of(height, row, grid)
        for column in range(grid):
            left, right = part_of(width, column, grid)
            hidden = images.clone()
            hidden[:, :, top:bottom, left:right] = 0
            lost = whole - probabilities(hidden)
            maps[:, row, column] = lost.gather(1, classes[:, None]).squeeze(1)
    return maps


def part_of(size: int, place: int, grid: int) -> tuple[int, int]:
    """Where the `place`-th of `grid` parts of `size` pixels begins and ends, half a part wider on
    each side, and a pixel at least.
    """
    side = size / grid
    first = max(0, round((place - 0.5) * side))
    return first, min(size, max(first + 1, round((place + 1.5) * side)))
