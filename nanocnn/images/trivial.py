"""One change at random for each image: S. G. Müller and F. Hutter, TrivialAugment: Tuning-free Yet
State-of-the-Art Data Augmentation (2021), with the wide ranges of its table 7.

Adapted: images are sheared about their centre, sampled bilinearly, and moved by at most the share
of their side that AutoAugment's 150 of 331 pixels are, which small images would else leave.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from nanocnn.images.sharing import Cut
from nanocnn.images.warp import mapped, pixels_of, sample

GEOMETRIC = ("shear_x", "shear_y", "translate_x", "translate_y", "rotate")
BLENDS = ("brightness", "color", "contrast", "sharpness")
OTHERS = ("identity", "posterize", "solarize", "autocontrast", "equalize")
OPERATIONS = GEOMETRIC + BLENDS + OTHERS
LEVELS = 31  # of strength, from none to the strongest
MOST_PIXELS, MOST_OF_SIDE = 32, 150 / 331  # that an image moves by
LUMINANCE = (0.299, 0.587, 0.114)


def trivial_augment(images: Tensor, cut: Cut | None = None) -> Tensor:
    """Each image (B, C, H, W) from 0 to 255 after one operation of a random strength; float32.

    On grey images `color`, which has nothing to change there, is none of them.
    """
    operations = [name for name in OPERATIONS if name != "color" or images.shape[1] == 3]
    # drawn on the CPU, which then knows the groups: nothing waits for the device
    total = cut.total if cut else len(images)
    chosen = torch.randint(len(operations), (total,))
    strength = torch.randint(LEVELS, (total,)) / (LEVELS - 1)
    sign = 2 * torch.randint(2, (total,)) - 1
    made = cut.made.cpu() if cut else torch.arange(total)
    images = images.float().round()  # some operations need whole levels
    changed = images.clone()
    for number, name in enumerate(operations):
        members = (chosen[made] == number).nonzero().flatten()
        group = (chosen == number).nonzero().flatten()  # in the whole step
        if len(members) == 0:
            continue
        if len(members) == 1 < len(group):  # a sum over one image is added up in another order
            members = members.repeat(2)
        theirs = made[members]
        how = [each[theirs].view(-1, 1, 1, 1) for each in (strength, sign)]
        where, *how = (each.to(images.device, non_blocking=True) for each in (members, *how))
        if cut and name in GEOMETRIC:  # a product of fewer matrices may round otherwise
            amount = (strength * sign)[group].view(-1, 1, 1, 1).to(images.device)
            places = places_of(name, images, amount)
            mine = torch.searchsorted(group, theirs).to(images.device)
            changed[where] = sample(images[where], places[mine])
        else:
            changed[where] = operate(name, images[where], *how)
    return changed


def operate(name: str, images: Tensor, strength: Tensor, sign: Tensor) -> Tensor:
    """The operation `name` on images (B, C, H, W) float32 of whole levels.

    `strength` from 0 to 1 and `sign`, -1 or 1, are (B, 1, 1, 1).
    """
    if name in GEOMETRIC:
        return sample(images, places_of(name, images, strength * sign))
    match name:
        case "brightness":
            return blend(images, torch.zeros_like(images), strength * sign)
        case "color":
            return blend(images, grey(images), strength * sign)
        case "contrast":
            mean = grey(images).floor().mean((1, 2, 3), keepdim=True)
            return blend(images, mean.expand_as(images), strength * sign)
        case "sharpness":
            return blend(images, smooth(images), strength * sign)
        case "posterize":
            step = 2 ** (6 * strength).round()
            return (images / step).floor() * step
        case "solarize":
            return torch.where(images >= 256 * (1 - strength), 255 - images, images)
        case "autocontrast":
            return autocontrast(images)
        case "equalize":
            return equalize(images)
    return images


def places_of(name: str, images: Tensor, amount: Tensor) -> Tensor:
    """Where a geometric operation of each `amount` (G, 1, 1, 1) from -1 to 1 samples images of this
    size, (G, 2, H, W).
    """
    height, width = images.shape[2:]
    none, one = torch.zeros_like(amount), torch.ones_like(amount)
    matrix, across, down = [one, none, none, one], none, none
    # from a pixel of the result back to where it is sampled
    match name:
        case "shear_x":
            matrix[1] = 0.99 * amount
        case "shear_y":
            matrix[2] = 0.99 * amount
        case "translate_x":
            across = -amount * min(MOST_PIXELS, MOST_OF_SIDE * width)
        case "translate_y":
            down = -amount * min(MOST_PIXELS, MOST_OF_SIDE * height)
        case "rotate":
            cos, sin = ((135 * amount).deg2rad().cos(), (135 * amount).deg2rad().sin())
            matrix = [cos, sin, -sin, cos]
    places = mapped(torch.cat(matrix, 1).view(-1, 2, 2), pixels_of(images))
    return places + torch.cat([across, down], 1)


def blend(images: Tensor, other: Tensor, amount: Tensor) -> Tensor:
    """Nearer to `other` or further from it, `amount` from -1 to 1."""
    return other.lerp(images, (1 + 0.99 * amount).expand_as(images)).clamp_(0, 255)


def grey(images: Tensor) -> Tensor:
    """The luminance of colours (Rec. 601), in as many channels; grey images as they are."""
    if images.shape[1] != 3:
        return images
    weights = images.new_tensor(LUMINANCE).view(1, 3, 1, 1)
    return (images * weights).sum(1, keepdim=True).expand_as(images)


def smooth(images: Tensor) -> Tensor:
    """A mean of each pixel, five times, and its neighbours; those at the edges stay."""
    channels, height, width = images.shape[1:]
    if min(height, width) < 3:
        return images
    kernel = images.new_ones(channels, 1, 3, 3)
    kernel[:, :, 1, 1] = 5
    smoothed = images.clone()
    smoothed[:, :, 1:-1, 1:-1] = F.conv2d(images, kernel / 13, groups=channels)
    return smoothed


def autocontrast(images: Tensor) -> Tensor:
    """Each channel stretched to 0 and 255, unless it has one level alone."""
    low, high = images.amin((2, 3), keepdim=True), images.amax((2, 3), keepdim=True)
    return torch.where(high > low, (images - low) * 255 / (high - low).clamp(min=1), images)


def equalize(images: Tensor) -> Tensor:
    """Levels spread so that each channel has them about equally often, as Pillow does it."""
    levels = images.flatten(2).long()
    ones = torch.ones_like(levels)
    counts = levels.new_zeros(*levels.shape[:2], 256).scatter_add_(2, levels, ones)
    below = counts.cumsum(2) - counts  # pixels that are darker
    brightest = counts.gather(2, levels.amax(2, keepdim=True))
    step = (levels.shape[2] - brightest) // 255
    table = ((below + step // 2) // step.clamp(min=1)).clamp(max=255)
    spread = table.gather(2, levels).view_as(images).float()
    return torch.where(step[..., None] > 0, spread, images)
