"""The first convolution of a network, computed together with what follows it.

Convolving, and then keeping the largest of each 2x2 pixels, is four convolutions with twice the
stride, and their largest: four planes instead of a map in which pixels are sought. Each of them is
a product of matrices with windows of the images that are cut out once. As a convolution is linear,
its mean and variance follow from those of the windows, and so does what batch normalisation adds to
the gradient of its weights: the map is not read again. The images themselves need no gradient.

It pays where windows are small, as those of 3x3 kernels on grey images.
"""

from functools import reduce
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nanocnn.networks.norm_pool import NormPool, affine, gradient_sums, sides

LARGEST = 16  # values in a window, those of all channels
FAR = 4.0  # standard deviations


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
        is_whole = rows % 2 == columns % 2 == 0  # pooling leaves no pixel out
        is_possible = is_whole and not images.requires_grad and images.device.type == "cpu"
        if not (is_possible and self.pays(values, dtype)):
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
            pooled, mean, var, count = TrainedConvNormPool.apply(
                *(windows.flatten(1, 2).flatten(2), kernels, norm.weight * sign, norm.bias),
                (norm.eps, self.joining, self.relu is not None, shift),
            )
            self.note(mean * sign, var, count)
        return pooled.view(len(images), rows // 2, columns // 2, -1).permute(0, 3, 1, 2)


def is_small_stem(conv: nn.Conv2d, pool: nn.MaxPool2d) -> bool:
    """Whether images may be convolved and pooled by small products of matrices."""
    is_usual = conv.groups == 1 and conv.bias is None and conv.padding_mode == "zeros"
    is_halving = sides(pool.kernel_size) == sides(pool.stride) == [2, 2]
    has_edges = pool.padding in (0, (0, 0)) and pool.dilation in (1, (1, 1))
    height, width, down, right = *conv.kernel_size, *conv.stride
    is_small = conv.in_channels * (height + down) * (width + right) <= LARGEST
    return is_usual and is_halving and has_edges and is_small and conv.dilation == (1, 1)


def padding_of(conv: nn.Conv2d) -> list[int]:
    """Pixels to the left, right, top and bottom, for F.pad."""
    if conv.padding == "same":
        return [pixels for k in reversed(conv.kernel_size) for pixels in ((k - 1) // 2, k // 2)]
    height, width = (0, 0) if conv.padding == "valid" else map(int, conv.padding)
    return [width, width, height, height]


class TrainedConvNormPool(torch.autograd.Function):
    """Of windows (B, positions, values) from which `shift` was subtracted, kernels (4, C, values)
    and the weight and bias (C,) of a batch normalisation: the largest of each 4 pixels, normalised
    (B * positions, C), and the mean, biased variance (C,) and number of all pixels.

    Sums and statistics are in float32 where windows are in bf16. No weight (C,) is negative.
    """

    @staticmethod
    def forward(
        ctx: Any, windows: Tensor, kernels: Tensor, weight: Tensor, bias: Tensor, options: tuple
    ) -> tuple[Tensor, Tensor, Tensor, int]:
        eps, joining, rectifies, shift = options
        flat, rounded = windows.flatten(0, 1), kernels.to(windows.dtype)
        planes = [flat @ kernel.t() for kernel in rounded]
        chosen = reduce(torch.maximum, planes)
        wide, factors = flat.to(weight.dtype, copy=True), rounded.to(weight.dtype)
        centre = wide.mean(0)
        wide -= centre
        by_window = factors @ (wide.t() @ wide / len(wide))  # covariances of pixels and windows
        means = factors @ centre
        mean, pixels = means.mean(0), len(planes) * len(flat)
        var = ((by_window * factors).sum(2) + (means - mean).square()).mean(0)
        of_shift = shift * factors[0].sum(1)
        running_mean = mean + of_shift
        if joining:
            running_mean, var, pixels = joining.statistics(running_mean, var, pixels)
            mean = running_mean - of_shift
        inverse_std = (var + eps).rsqrt()
        pooled = rows_of(affine(maps_of(chosen), mean, weight * inverse_std, bias))
        if rectifies:
            pooled.relu_()
        by_window += (means - mean)[..., None] * centre
        ctx.pixels, ctx.joining, shown = pixels, joining, pooled if rectifies else None
        ctx.mark_non_differentiable(running_mean, var)
        ctx.save_for_backward(
            *(windows, chosen, shown, mean, inverse_std, weight, centre, by_window, *planes)
        )
        return pooled, running_mean, var, pixels

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        windows, chosen, shown, mean, inverse_std, weight, *kept = ctx.saved_tensors
        centre, by_window, *planes = kept
        if shown is not None:
            grad = torch.ops.aten.threshold_backward(grad.contiguous(), shown, 0)
        grad_weight, grad_bias = of_all = gradient_sums(
            maps_of(grad), maps_of(chosen), mean, inverse_std
        )
        if ctx.joining:
            of_all = ctx.joining.sums(grad_weight, grad_bias)
        left, found = grad.clone(), []
        for plane in planes:
            own = left
            if plane is not planes[-1]:
                own = torch.eq(plane, chosen, out=torch.empty_like(left)).mul_(left)
                left -= own  # of equal pixels the first one has the gradient
            per_image = own.view(len(windows), -1, own.shape[1]).transpose(1, 2) @ windows
            found.append(per_image.sum(0, dtype=weight.dtype))
        by_x, constant = (each[:, None] / ctx.pixels for each in of_all)
        of_norm = by_x * inverse_std[:, None] * by_window + constant * centre
        slope = (weight * inverse_std)[:, None]
        grad_kernels = slope * (torch.stack(found) - len(chosen) * of_norm)
        return None, grad_kernels, grad_weight, grad_bias, None


def maps_of(rows: Tensor) -> Tensor:
    """Rows (pixels, C) as maps (1, C, pixels, 1) in channels_last."""
    return rows.t()[None, :, :, None]


def rows_of(maps: Tensor) -> Tensor:
    return maps[0, :, :, 0].t()
