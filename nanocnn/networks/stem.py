"""The first convolution of a network, computed together with what follows it.

Convolving, and then keeping the largest of each 2x2 pixels, is four convolutions with twice the
stride, and their largest: four planes instead of a map in which pixels are sought. Each of them is
a product of matrices with windows of the images that are cut out once. As a convolution is linear,
its mean and variance follow from those of the windows, and so does what batch normalisation adds to
the gradient of its weights: the map is not read again. The images themselves need no gradient.

It pays where windows are small, as those of 3x3 kernels on grey images.
"""

from itertools import accumulate
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from nanocnn.networks.norm_pool import NormPool, affine, gradient_sums, sides

LARGEST = 16  # values in a window, those of all channels
FAR = 4.0  # standard deviations
# of the windows' variance: what an edge filter lets through of smooth images would be the small
# difference of large sums
LEAST_PASSED = 2e-3


class ConvNormPool(NormPool):
    """Convolution, batch normalisation, 2x2 max pooling and perhaps ReLU of images (B, C, H, W)."""

    def __init__(self, conv: nn.Conv2d, after: NormPool):
        super().__init__(after.norm, after.pool, after.relu)
        self.conv, self.placing = conv, placing(conv)

    def forward(self, images: Tensor) -> Tensor:
        conv, norm = self.conv, self.norm
        is_mixed = torch.is_autocast_enabled("cpu")
        dtype = torch.get_autocast_dtype("cpu") if is_mixed else images.dtype
        left, right, top, bottom = padding_of(conv)
        rows = (images.shape[2] + top + bottom - conv.kernel_size[0]) // conv.stride[0] + 1
        columns = (images.shape[3] + left + right - conv.kernel_size[1]) // conv.stride[1] + 1
        values = len(images) * conv.out_channels * rows * columns
        # pooling leaves no pixel out: statistics are those of the windows, which are of pooled ones
        is_whole = rows % 2 == columns % 2 == 0
        is_alone = self.joining is None and not images.requires_grad
        is_laid_out = conv.weight.stride(1) == 1 and images.device.type == "cpu"
        if not (is_whole and is_alone and is_laid_out and self.pays(values, dtype)):
            return super().forward(conv(images))
        with torch.autocast("cpu", enabled=False):
            # what is far from zero for its spread would be rounded away, and the variance with it
            shift = images.mean().to(dtype).item() if is_far(images) else 0.0
            windows = windows_of(images, conv, shift, dtype)
            kernel: Tensor = conv.weight.flatten(1)
            slope: Tensor = norm.weight
            signs = None
            if (slope < 0).any():  # where the largest output comes from the smallest input
                signs = torch.where(slope < 0, -1, 1).to(slope)
                kernel, slope = kernel * signs[:, None], slope * signs
            kernels = (self.placing.to(kernel) @ kernel.t()).unflatten(0, (4, -1))
            rounded = kernels.detach().to(dtype)
            found = statistics(windows, rounded)
            if (found.var > LEAST_PASSED * found.most).all():
                pooled = TrainedConvNormPool.apply(
                    *(windows, kernels, slope, norm.bias),
                    (rounded, found, norm.eps, self.relu is not None),
                )
                mean = found.mean + shift * rounded[0].sum(0, dtype=slope.dtype)
                self.note(mean if signs is None else mean * signs, found.var, values // len(slope))
                shape = (len(images), rows // 2, columns // 2, conv.out_channels)
                return pooled.view(shape).permute(0, 3, 1, 2)
        return super().forward(conv(images))


def is_far(images: Tensor) -> bool:
    """Whether the mean is more than FAR standard deviations from zero."""
    mean, length = images.mean().item(), torch.linalg.vector_norm(images).item()
    return (1 + FAR**-2) * mean**2 * images.numel() > length**2


def windows_of(images: Tensor, conv: nn.Conv2d, shift: float, dtype: torch.dtype) -> Tensor:
    """What the convolution sees of images (B, C, H, W), less `shift`, where it makes 2x2 pixels:
    (B, positions, values), the values in the order (across, down, C).
    """
    height, width, down, right = *conv.kernel_size, *conv.stride
    images = images - shift if shift else images
    if any(edges := padding_of(conv)):
        images = F.pad(images, edges, value=-shift)
    pixels = images.to(dtype).permute(0, 2, 3, 1)
    # in two steps, of which the second one copies whole windows
    strips = pixels.unfold(1, height + down, 2 * down).transpose(3, 4).contiguous()
    windows = strips.unfold(2, width + right, 2 * right).permute(0, 1, 2, 5, 3, 4)
    return windows.flatten(1, 2).flatten(2)


def placing(conv: nn.Conv2d) -> Tensor:
    """The matrix (4 * values, C * height * width) that puts a kernel into its places in a window,
    for each of 2x2 pixels.
    """
    height, width, down, right = *conv.kernel_size, *conv.stride
    size = conv.in_channels * height * width
    each = torch.eye(size).view(size, conv.in_channels, height, width)
    places = [(x, right - x, y, down - y) for y in (0, down) for x in (0, right)]
    placed = torch.stack([F.pad(each, place) for place in places])  # (4, size, C, down, across)
    return placed.permute(0, 4, 3, 2, 1).reshape(-1, size)


def is_small_stem(conv: nn.Conv2d, pool: nn.MaxPool2d) -> bool:
    """Whether images may be convolved and pooled by small products of matrices."""
    is_usual = conv.groups == 1 and conv.bias is None and conv.padding_mode == "zeros"
    is_halving = sides(pool.kernel_size) == sides(pool.stride) == [2, 2]
    has_edges = pool.padding in (0, (0, 0)) and pool.dilation in (1, (1, 1))
    height, width, down, right = *conv.kernel_size, *conv.stride
    is_small = conv.in_channels * (height + down) * (width + right) <= LARGEST
    is_plain = is_usual and conv.dilation == (1, 1) and max(conv.kernel_size) > 1
    return is_plain and is_halving and has_edges and is_small


def padding_of(conv: nn.Conv2d) -> list[int]:
    """Pixels to the left, right, top and bottom, for F.pad."""
    if conv.padding == "same":
        return [pixels for k in reversed(conv.kernel_size) for pixels in ((k - 1) // 2, k // 2)]
    height, width = (0, 0) if conv.padding == "valid" else map(int, conv.padding)
    return [width, width, height, height]


class Statistics(NamedTuple):
    """Of the pixels of a convolution, at least in float32."""

    mean: Tensor  # (C,)
    var: Tensor  # (C,), biased
    most: Tensor  # (C,), what the variance would be if nothing in a window cancelled
    centre: Tensor  # (values,), the mean window
    by_window: Tensor  # (4, C, values): mean of (pixel - mean) * window


def statistics(windows: Tensor, kernels: Tensor) -> Statistics:
    """Of windows (B, positions, values) and kernels (4, values, C), as they were rounded."""
    kind = torch.promote_types(windows.dtype, torch.float32)
    wide, factors = windows.flatten(0, 1).to(kind), kernels.mT.to(kind)
    centre = wide.mean(0)
    wide = wide - centre
    covariance = wide.t() @ wide / len(wide)
    means = factors @ centre
    mean, products = means.mean(0), factors @ covariance
    away = means - mean
    var = ((products * factors).sum(2) + away.square()).mean(0)
    most = (factors.abs() @ covariance.diagonal().sqrt()).square().mean(0)
    return Statistics(mean, var, most, centre, products + away[..., None] * centre)


class TrainedConvNormPool(torch.autograd.Function):
    """Of windows (B, positions, values), kernels (4, values, C) and the weight and bias (C,) of a
    batch normalisation: the largest of each 4 pixels, normalised (B * positions, C).

    Sums are in float32 where windows are in bf16. No weight (C,) is negative.
    """

    @staticmethod
    def forward(
        ctx: Any,
        windows: Tensor,
        kernels: Tensor,
        weight: Tensor,
        bias: Tensor,
        options: tuple[Tensor, Statistics, float, bool],
    ) -> Tensor:
        rounded, found, eps, rectifies = options
        flat = windows.flatten(0, 1)
        maxima = [*accumulate((flat @ kernel for kernel in rounded), torch.maximum)]
        chosen = maxima[-1]
        mean, inverse_std = found.mean, (found.var + eps).rsqrt()
        pooled = rows_of(affine(maps_of(chosen), mean, weight * inverse_std, bias))
        if rectifies:
            pooled.relu_()
        shown = pooled if rectifies else None
        ctx.found = found
        ctx.save_for_backward(windows, chosen, shown, mean, inverse_std, weight, *maxima[:-1])
        return pooled

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        windows, chosen, shown, mean, inverse_std, weight, *maxima = ctx.saved_tensors
        if shown is not None:
            grad = torch.ops.aten.threshold_backward(grad.contiguous(), shown, 0)
        grad_weight, grad_bias = gradient_sums(maps_of(grad), maps_of(chosen), mean, inverse_std)

        def through(left: Tensor) -> Tensor:  # (C, values)
            per_image = left.view(len(windows), -1, left.shape[1]).transpose(1, 2) @ windows
            return per_image.sum(0, dtype=weight.dtype)

        rests = [through(grad)]
        for so_far in reversed(maxima):
            # what is left for this pixel and those before it: of equal ones the first has it
            grad = torch.eq(so_far, chosen, out=torch.empty_like(grad)).mul_(grad)
            rests.append(through(grad))
        rests.append(torch.zeros_like(rests[0]))
        sums = torch.stack(rests[::-1]).diff(dim=0)  # (4, C, values), of each pixel
        by_x = (grad_weight * inverse_std)[:, None] * ctx.found.by_window
        of_norm = (by_x + grad_bias[:, None] * ctx.found.centre) / len(sums)
        grad_kernels = (weight * inverse_std)[:, None] * (sums - of_norm)
        return None, grad_kernels.mT, grad_weight, grad_bias, None


def maps_of(rows: Tensor) -> Tensor:
    """Rows (pixels, C) as maps (1, C, pixels, 1) in channels_last."""
    return rows.t()[None, :, :, None]


def rows_of(maps: Tensor) -> Tensor:
    return maps[0, :, :, 0].t()
