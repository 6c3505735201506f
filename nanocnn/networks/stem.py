"""The first convolution of a network, computed together with what follows it.

Convolving, and then keeping the largest of each 2x2 pixels, is four convolutions with twice the
stride, and their largest: four planes instead of a map in which pixels are sought. Each of them is
a product of matrices with windows of the images that are cut out once. As a convolution is linear,
its mean and variance follow from those of the windows, and so does what batch normalisation adds to
the gradient of its weights: the map is not read again. The images themselves need no gradient.

It pays where windows are small, as those of 3x3 kernels on grey images.
"""

from functools import reduce
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
        self.conv = conv

    def forward(self, images: Tensor) -> Tensor:
        conv, norm = self.conv, self.norm
        is_mixed = torch.is_autocast_enabled("cpu")
        dtype = torch.get_autocast_dtype("cpu") if is_mixed else images.dtype
        height, width, down, right = *conv.kernel_size, *conv.stride
        left, right_edge, top, bottom = padding_of(conv)
        rows = (images.shape[2] + top + bottom - height) // down + 1
        columns = (images.shape[3] + left + right_edge - width) // right + 1
        values = len(images) * conv.out_channels * rows * columns
        # pooling leaves no pixel out: statistics are those of the windows, which are of pooled ones
        is_whole = rows % 2 == columns % 2 == 0
        is_alone = self.joining is None and not images.requires_grad
        is_laid_out = conv.weight.stride(1) == 1 and images.device.type == "cpu"
        if not (is_whole and is_alone and is_laid_out and self.pays(values, dtype)):
            return super().forward(conv(images))
        with torch.autocast("cpu", enabled=False):
            std, mean = torch.std_mean(images)
            # what is far from zero for its spread would be rounded away, and the variance with it
            shift = float(mean.to(dtype)) if abs(mean) > FAR * std else 0.0
            centred = F.pad(images - shift, padding_of(conv), value=-shift)
            pixels = centred.to(dtype).permute(0, 2, 3, 1)
            windows = pixels.unfold(1, height + down, 2 * down).unfold(2, width + right, 2 * right)
            # where the largest output comes from the smallest input
            sign = torch.where(norm.weight < 0, -1, 1).to(norm.weight)
            kernel = conv.weight * sign.view(-1, 1, 1, 1)
            places = [(x, right - x, y, down - y) for y in (0, down) for x in (0, right)]
            kernels = torch.stack([F.pad(kernel, place) for place in places]).flatten(2)
            windows = windows.flatten(1, 2).flatten(2)
            found = statistics(windows, kernels.detach().to(dtype))
            if (found.var > LEAST_PASSED * found.most).all():
                pooled = TrainedConvNormPool.apply(
                    *(windows, kernels, norm.weight * sign, norm.bias),
                    (found, norm.eps, self.relu is not None),
                )
                running = (found.mean + shift * kernels[0].detach().to(dtype).sum(1)) * sign
                self.note(running, found.var, values // len(sign))
                shape = (len(images), rows // 2, columns // 2, conv.out_channels)
                return pooled.view(shape).permute(0, 3, 1, 2)
        return super().forward(conv(images))


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
    """Of windows (B, positions, values) and kernels (4, C, values), as they were rounded."""
    kind = torch.promote_types(windows.dtype, torch.float32)
    wide, factors = windows.flatten(0, 1).to(kind), kernels.to(kind)
    centre = wide.mean(0)
    wide = wide - centre
    covariance = wide.t() @ wide / len(wide)
    means = factors @ centre
    mean, products = means.mean(0), factors @ covariance
    var = ((products * factors).sum(2) + (means - mean).square()).mean(0)
    most = (factors.abs() @ covariance.diagonal().sqrt()).square().mean(0)
    return Statistics(mean, var, most, centre, products + (means - mean)[..., None] * centre)


class TrainedConvNormPool(torch.autograd.Function):
    """Of windows (B, positions, values), kernels (4, C, values) and the weight and bias (C,) of a
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
        options: tuple[Statistics, float, bool],
    ) -> Tensor:
        found, eps, rectifies = options
        flat = windows.flatten(0, 1)
        planes = [flat @ kernel.t() for kernel in kernels.to(windows.dtype)]
        chosen = reduce(torch.maximum, planes)
        mean, inverse_std = found.mean, (found.var + eps).rsqrt()
        pooled = rows_of(affine(maps_of(chosen), mean, weight * inverse_std, bias))
        if rectifies:
            pooled.relu_()
        shown = pooled if rectifies else None
        ctx.found = found
        ctx.save_for_backward(windows, chosen, shown, mean, inverse_std, weight, *planes)
        return pooled

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        windows, chosen, shown, mean, inverse_std, weight, *planes = ctx.saved_tensors
        if shown is not None:
            grad = torch.ops.aten.threshold_backward(grad.contiguous(), shown, 0)
        grad_weight, grad_bias = gradient_sums(maps_of(grad), maps_of(chosen), mean, inverse_std)
        left, sums = grad.clone(), []
        for plane in planes:
            own = left
            if plane is not planes[-1]:
                own = torch.eq(plane, chosen, out=torch.empty_like(left)).mul_(left)
                left -= own  # of equal pixels the first one has the gradient
            per_image = own.view(len(windows), -1, own.shape[1]).transpose(1, 2) @ windows
            sums.append(per_image.sum(0, dtype=weight.dtype))
        by_x = (grad_weight * inverse_std)[:, None] * ctx.found.by_window
        of_norm = (by_x + grad_bias[:, None] * ctx.found.centre) / len(planes)
        slope = (weight * inverse_std)[:, None]
        return None, slope * (torch.stack(sums) - of_norm), grad_weight, grad_bias, None


def maps_of(rows: Tensor) -> Tensor:
    """Rows (pixels, C) as maps (1, C, pixels, 1) in channels_last."""
    return rows.t()[None, :, :, None]


def rows_of(maps: Tensor) -> Tensor:
    return maps[0, :, :, 0].t()
