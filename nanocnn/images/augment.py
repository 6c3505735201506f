"""Augmentation of training images, a batch at a time: each image is changed by itself, at random.

Random numbers come from torch's global generators, which the caller seeds. Of several processes
each draws those of the whole step and uses what is for its `cut` of it (see sharing.py). Nothing
here waits for the device.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from nanocnn.config.schema import Augment, Data
from nanocnn.images.sharing import Cut, drawn
from nanocnn.images.trivial import trivial_augment
from nanocnn.images.warp import rand, rectangles, shift, uniform, warp
from nanocnn.system.errors import UserError

# keys in pixels, which make sense up to the side of an image
PIXELS = {"shift", "elastic", "elastic_sigma", "crop", "cutout"}

# data sets, or the beginnings of their names, whose images show digits or letters
CHARACTERS = ("digits", "mnist", "emnist", "kmnist", "svhn")


def check(config: Augment, image_shape: tuple[int, int, int]) -> None:
    """Raises UserError for a key that would leave nothing of images (C, H, W), or cannot be done to
    them.
    """
    height, width = image_shape[1:]
    for key, pixels in config:
        if key in PIXELS and pixels and pixels >= min(height, width):
            raise UserError(
                f"data.augment.{key} = {pixels}: should be less than the side of "
                f"{height}x{width} images"
            )


def harmful(data: Data) -> list[str]:
    """A line about each key that harms by nature: it makes images whose label is no longer
    theirs.
    """
    config, dataset_name = data.augment, data.dataset
    if not dataset_name.startswith(CHARACTERS):
        return []
    mirroring = {"data.augment.flip": config.flip, "data.average_flips": data.average_flips}
    warnings = [
        f"{key}: mirrored characters are no characters ({dataset_name})"
        for key, is_set in mirroring.items()
        if is_set
    ]
    if config.rotate > 90:
        warnings.append(
            f"data.augment.rotate = {config.rotate:g}: turns characters upside down, a 6 into a 9 "
            f"({dataset_name})"
        )
    if config.trivial_augment:
        warnings.append(
            "data.augment.trivial_augment: turns characters by up to 135 degrees, a 6 into a 9 "
            f"({dataset_name})"
        )
    return warnings


def augment(images: Tensor, config: Augment, cut: Cut | None = None) -> Tensor:
    """Images (B, C, H, W) from 0 to 255, changed as `config` says; uint8 unless a key needs
    float32.

    What has been moved comes first, then light, and what is hidden last, so that it stays hidden.
    """
    if config.flip is True:  # which are mirrored in turn, is for the batches to know
        chosen = uniform(images, 1, cut) < 0
        images = torch.where(chosen, images.flip(3), images)
    if config.warps:
        images = warp(images, config, cut)
    if config.crop:
        # mirrored, as suits pictures that fill their frame; with black edges it would be a shift
        images = shift(images, config.crop, "reflect", cut)
    if config.shift:
        images = shift(images, config.shift, cut=cut)
    if config.brightness or config.contrast:
        images = relight(images, config.brightness, config.contrast, cut)
    if config.trivial_augment:
        images = trivial_augment(images, cut)
    if config.erasing:
        images = erase(images, config.erasing, cut)
    if config.cutout:
        images = images.masked_fill(boxes(images, config.cutout, config.cutout, cut), 0)
    return images


def relight(images: Tensor, brightness: float, contrast: float, cut: Cut | None = None) -> Tensor:
    """Multiply each image by up to 1 +- `brightness`, and its distance from its mean by 1 +-
    `contrast`.

    Like torchvision's ColorJitter, but for the mean, which is that of all channels alike; float32.
    """
    images = (images * (1 + uniform(images, brightness, cut))).clamp_(0, 255)
    mean = images.mean((1, 2, 3), keepdim=True)
    return images.sub_(mean).mul_(1 + uniform(images, contrast, cut)).add_(mean).clamp_(0, 255)


def erase(images: Tensor, probability: float, cut: Cut | None = None) -> Tensor:
    """With this probability an image has noise in a box of 2 to 33% of it.

    Z. Zhong et al., Random Erasing Data Augmentation (2020; as a preprint 2017), with their areas,
    proportions and random pixels. The box lies in the image as a whole.
    """
    shape, kind, device = images.shape[1:], images.dtype, images.device
    noise = drawn(
        images,
        cut,
        lambda count: torch.randint(256, (count, *shape), dtype=kind, device=device),
    )
    chosen = rand(images, cut, 1, 1, 1) < probability
    spans = []
    sides = rectangles(images, (0.02, 0.33), 1 / 0.3, cut)
    for size, side in zip(images.shape[2:], sides, strict=True):
        start = rand(images, cut, 1, 1, 1) * (1 - side) * size
        place = torch.arange(size, device=images.device) + 0.5 - start.flatten(1)  # (B, size)
        spans.append((place >= 0) & (place < side.flatten(1) * size))
    rows, columns = spans
    inside = (rows[:, :, None] & columns[:, None, :])[:, None]
    return torch.where(inside & chosen, noise, images)


def boxes(
    images: Tensor, height: Tensor | int, width: Tensor | int, cut: Cut | None = None
) -> Tensor:
    """A mask (B, 1, H, W) with a box in each image, its centre anywhere, cut off at the edges.

    `height` and `width` are in pixels, one for all or (B, 1). Boxes of one size make the black
    squares of DeVries and Taylor, Improved Regularization of Convolutional Neural Networks with
    Cutout (2017).
    """

    def spans(size: int, length: Tensor | int) -> Tensor:  # (B, size)
        centre = drawn(
            images, cut, lambda count: torch.randint(size, (count, 1), device=images.device)
        )
        place = torch.arange(size, device=images.device) - centre + length // 2
        return (place >= 0) & (place < length)

    rows, columns = spans(images.shape[2], height), spans(images.shape[3], width)
    return (rows[:, :, None] & columns[:, None, :])[:, None]


def mix(
    images: Tensor, labels: Tensor, num_classes: int, config: Augment, cut: Cut | None = None
) -> tuple[Tensor, Tensor]:
    """Mix each image (B, C, H, W) with the one before it in the batch; labels become shares (B,
    num_classes).

    mixup: H. Zhang et al., mixup: Beyond Empirical Risk Minimization (2018), a weighted mean of two
    images. cutmix: S. Yun et al., CutMix (2019), a box of the other image, whose label counts by
    its pixels. Given both, each batch takes one of them at random. Shares and boxes are drawn for
    each image. With a `cut` the labels are those of the whole step, the images those of the cut.
    """
    total = len(labels)
    cutting = config.cutmix > 0 and (config.mixup == 0 or bool(torch.rand(()) < 0.5))  # on the CPU
    alpha = config.cutmix if cutting else config.mixup
    share = torch.distributions.Beta(alpha, alpha).sample((total, 1))  # of the other image
    share = share.to(images.device, non_blocking=True)
    if cutting:
        height, width = images.shape[2:]
        side = share.sqrt()
        step = images[:1].expand(total, -1, -1, -1)  # for its shape alone
        share = boxes(step, (height * side).long(), (width * side).long()).float()
    else:
        share = share.view(-1, 1, 1, 1)
    shares = F.one_hot(labels, num_classes).float()
    mixed = shares.lerp(shares.roll(1, 0), share.mean((2, 3)).view(-1, 1))
    if cut is None:
        return images.lerp(images.roll(1, 0), share), mixed
    made = share[cut.made[cut.own]]
    return images[cut.own].lerp(images[cut.before], made), mixed
