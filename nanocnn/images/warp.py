"""Images moved: by whole pixels, or each sampled anew from places between its pixels."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from nanocnn.config.schema import Augment
from nanocnn.images.sharing import Cut, drawn


def uniform(images: Tensor, most: float, cut: Cut | None = None) -> Tensor:
    """A random number from -most to most for each image, (B, 1, 1, 1)."""
    return (2 * rand(images, cut, 1, 1, 1) - 1) * most


def rand(images: Tensor, cut: Cut | None, *shape: int) -> Tensor:
    """Random numbers from 0 to 1, (B, *shape)."""
    return drawn(images, cut, lambda count: torch.rand(count, *shape, device=images.device))


def shift(images: Tensor, pixels: int, padding: str = "constant", cut: Cut | None = None) -> Tensor:
    """Move each image (B, C, H, W) by up to `pixels` along both axes.

    What comes in at the edges is black ("constant") or the image mirrored there ("reflect").
    """
    batch, _, height, width = images.shape
    offsets = drawn(images, cut, lambda count: torch.randint(2 * pixels + 1, (2, count)), 1)
    offsets = offsets.to(images.device, non_blocking=True)
    padded = F.pad(images, (pixels,) * 4, padding)
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)  # (B, C, down, right, H, W), a view
    return windows[torch.arange(batch, device=images.device), :, offsets[0], offsets[1]]


def warp(images: Tensor, config: Augment, cut: Cut | None = None) -> Tensor:
    """Rotate, scale and shear about the centre, distort elastically and cut out, in one bilinear
    sampling; float32.

    Black comes in at the edges. The affine map is torchvision's of the same angle (clockwise),
    scale and horizontal shear. The elastic distortion is that of Simard, Steinkraus and Platt, Best
    Practices for Convolutional Neural Networks Applied to Visual Document Analysis (2003): uniform
    noise smoothed by a Gaussian, scaled here to a standard deviation in pixels. Their sigma of 4
    and alpha of 34 give 1.4.

    What is cut out is a box that lies in the image as a whole, as in C. Szegedy et al., Going
    Deeper with Convolutions (2015), and is enlarged to its size.
    """
    batch, _, height, width = images.shape
    # from each pixel of the result back to where it is sampled; for the whole step, since a product
    # of fewer matrices may round otherwise
    total = cut.total if cut else batch
    step = images[:1].expand(total, -1, -1, -1)  # for its shape alone
    angle = uniform(step, math.radians(config.rotate))
    factor = 1 + uniform(step, config.scale)
    slope = uniform(step, math.radians(config.shear)).tan()
    cos, sin = angle.cos(), angle.sin()
    inverse = torch.stack([cos - slope * sin, sin + slope * cos, -sin, cos], 1) / factor[:, None]
    inverse = inverse.view(total, 2, 2)
    if config.random_resized_crop:
        places = inverse @ cut_out(step, config.random_resized_crop).flatten(2)
        places = places.view(total, 2, height, width)
    else:
        places = mapped(inverse, pixels_of(images))
    if cut:
        places = places[cut.made]

    if config.elastic:
        noise = rand(images, cut, *places.shape[1:]).sub_(0.5)
        sigma = config.elastic_sigma or 4.0
        for size in (width, height):
            axis = torch.arange(size, device=images.device)
            kernel = (-((axis[:, None] - axis) ** 2) / (2 * sigma**2)).exp()
            kernel = kernel / kernel.norm(dim=1, keepdim=True)  # keeps the noise's deviation
            noise = (noise @ kernel.T).mT
        places.add_(noise, alpha=config.elastic * 12**0.5)  # 12 ** -0.5 is what it was
    return sample(images, places)


def cut_out(images: Tensor, areas: Sequence[float]) -> Tensor:
    """Where the pixels of a box of each image are, enlarged to its size, (B, 2, H, W)."""
    down, across = rectangles(images, areas, 4 / 3)
    sides = torch.cat([across, down], 1)  # as shares
    size = sides.new_tensor([images.shape[3], images.shape[2]]).view(1, 2, 1, 1)
    centre = (torch.rand(sides.shape, device=images.device) - 0.5) * (1 - sides) * size
    edge = (size - 1) / 2  # beyond it the pixels of the edge go on
    return (pixels_of(images) * sides + centre).clamp(-edge, edge)


def pixels_of(images: Tensor) -> Tensor:
    """Where the pixels are, (2, H, W): across and down from the centre."""
    x, y = (
        torch.arange(size, device=images.device) - (size - 1) / 2
        for size in (images.shape[3], images.shape[2])
    )
    return torch.stack(torch.meshgrid(x, y, indexing="xy"))


def mapped(matrices: Tensor, pixels: Tensor) -> Tensor:
    """Where matrices (B, 2, 2) send `pixels` (2, H, W): (B, 2, H, W)."""
    # one product of matrices: F.affine_grid makes one for each image and takes 20 times as long
    return torch.einsum("bij,jhw->bihw", matrices, pixels)


def sample(images: Tensor, places: Tensor) -> Tensor:
    """Images (B, C, H, W) at `places` (B, 2, H, W), which are changed; float32, black outside."""
    height, width = images.shape[2:]
    places[:, 0] *= 2 / width  # grid_sample counts from -1 to 1
    places[:, 1] *= 2 / height
    return F.grid_sample(images.float(), places.permute(0, 2, 3, 1), align_corners=False)


def rectangles(
    images: Tensor, areas: Sequence[float], most: float, cut: Cut | None = None
) -> tuple[Tensor, Tensor]:
    """Height and width (B, 1, 1, 1) of a box for each image, as shares of the image's own.

    The share of its area is uniform, and the logarithm of height by width as well, up to `most`
    either way as far as a box of that area still fits.
    """
    low, high = areas
    area = (low + high) / 2 + uniform(images, (high - low) / 2, cut)
    half = (-area.log()).clamp(max=math.log(most)) / 2
    stretch = (uniform(images, 1, cut) * half).exp()
    side = area.sqrt()
    return (side * stretch).clamp(max=1), (side / stretch).clamp(max=1)
