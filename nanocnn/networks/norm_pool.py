"""Batch normalisation and max pooling, computed together.

Batch normalisation takes its mean and variance from the whole map, but what it makes of each pixel
is needed for the pooled ones only, and only they send gradients back.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

LARGE = 2**18  # values in a map: with fewer the calls cost more than the passes saved


class NormPool(nn.Module):
    """Batch normalisation, max pooling and, if there is one, ReLU of maps (B, C, H, W).

    `joining`, where several processes train together, adds up what they have: see
    training.batch_norm.
    """

    joining: Any = None
    least = LARGE  # of values in a map that is normalised and pooled together

    def __init__(self, norm: nn.BatchNorm2d, pool: nn.MaxPool2d, relu: nn.ReLU | None = None):
        super().__init__()
        self.norm, self.pool, self.relu = norm, pool, relu

    def forward(self, x: Tensor) -> Tensor:
        norm, pool = self.norm, self.pool
        is_laid_out = x.is_contiguous(memory_format=torch.channels_last) and x.device.type == "cpu"
        if not (is_laid_out and self.pays(x.numel(), x.dtype)):
            pooled = pool(norm(x))
            return self.relu(pooled) if self.relu else pooled
        window = [pool.kernel_size, pool.stride, pool.padding, pool.dilation]
        pooled, mean, var, pixels = TrainedNormPool.apply(
            *(x, norm.weight, norm.bias),
            (norm.eps, self.joining, (self.relu is not None, *map(sides, window), pool.ceil_mode)),
        )
        self.note(mean, var, pixels)
        return pooled

    def pays(self, values: int, dtype: torch.dtype) -> bool:
        """Whether a map of so many values of this type is normalised and pooled together."""
        norm = self.norm
        is_usual = norm.affine and norm.track_running_stats and norm.momentum is not None
        if not (norm.training and is_usual and values >= self.least):
            return False
        is_known = norm.weight.dtype == torch.promote_types(dtype, torch.float32)
        # with a weight of 0 all pixels are equal, and the first is chosen
        return is_known and bool((norm.weight != 0).all())

    def note(self, mean: Tensor, var: Tensor, pixels: int) -> None:
        """Move the running statistics by the mean and biased variance (C,) of so many pixels."""
        norm = self.norm
        assert norm.running_mean is not None and norm.running_var is not None
        assert norm.num_batches_tracked is not None and norm.momentum is not None
        norm.running_mean.lerp_(mean, norm.momentum)
        norm.running_var.lerp_(var * (pixels / (pixels - 1)), norm.momentum)
        norm.num_batches_tracked.add_(1)


def sides(size: int | tuple[int, int]) -> list[int]:
    """Height and width of a window, of which torch's layers may have one number."""
    return [size, size] if isinstance(size, int) else list(size)


class TrainedNormPool(torch.autograd.Function):
    """Max pooling of a normalised batch (B, C, H, W) in channels_last, and its mean, biased
    variance (C,) and number of pixels.

    Maps may be in bf16. What is summed, and what is computed of a value before it is rounded, is in
    float32 as in torch's own batch normalisation, whose kernels do it.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, options: tuple[float, Any, tuple]
    ) -> tuple[Tensor, Tensor, Tensor, int]:
        eps, joining, (rectifies, *window) = options
        mean, var = mean_and_var(x)
        pixels = x.numel() // x.shape[1]
        if joining:
            mean, var, pixels = joining.statistics(mean, var, pixels)
        inverse_std = (var + eps).rsqrt()
        if (weight < 0).any():  # where the largest output comes from the smallest input
            sign = torch.where(weight < 0, -1, 1).to(x.dtype).view(1, -1, 1, 1)
            chosen, indices = F.max_pool2d(x * sign, *window, return_indices=True)
            chosen = chosen * sign
        else:
            chosen, indices = F.max_pool2d(x, *window, return_indices=True)
        pooled = affine(chosen, mean, weight * inverse_std, bias)
        if rectifies:
            pooled.relu_()
        ctx.window, ctx.pixels, ctx.joining = window, pixels, joining
        ctx.mark_non_differentiable(mean, var)
        shown = pooled if rectifies else None
        ctx.save_for_backward(x, chosen, indices, mean, inverse_std, weight, shown)
        return pooled, mean, var, pixels

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        """That of batch normalisation, with a gradient of zero for all pixels but the chosen
        ones.
        """
        x, chosen, indices, mean, inverse_std, weight, shown = ctx.saved_tensors
        grad = grad.contiguous(memory_format=torch.channels_last)
        if shown is not None:
            grad = torch.ops.aten.threshold_backward(grad, shown, 0)
        grad_weight, grad_bias = of_all = gradient_sums(grad, chosen, mean, inverse_std)
        if ctx.joining:
            of_all = ctx.joining.sums(grad_weight, grad_bias)
        slope, zeros = weight * inverse_std, torch.zeros_like(mean)
        grad_x = torch.ops.aten.max_pool2d_with_indices_backward(
            affine(grad, zeros, slope, zeros), x, *ctx.window, indices
        )
        by_x = -slope * inverse_std * of_all[0] / ctx.pixels
        constant = -slope * of_all[1] / ctx.pixels
        if x.dtype == mean.dtype:  # in place, without a map in between
            maps, by_x, constant = side_by_side(x, by_x, constant - by_x * mean)
            rows = side_by_side(grad_x, mean)[0].permute(0, 2, 3, 1)
            rows.addcmul_(maps.permute(0, 2, 3, 1), by_x).add_(constant)
        else:
            grad_x.add_(affine(x, mean, by_x, constant))
        return grad_x, grad_weight, grad_bias, None


def side_by_side(x: Tensor, *values: Tensor) -> tuple[Tensor, ...]:
    """Maps (B, C, H, W) in channels_last as a view (1, repeats * C, B * H * W / repeats, 1), so
    that the channels side by side fill the processor's vectors; and `values` (C,), repeated to go
    with it.
    """
    channels, pixels = x.shape[1], x.numel() // x.shape[1]
    repeats = 16 // math.gcd(16, channels)
    repeats = repeats if pixels % repeats == 0 else 1
    maps = x.permute(0, 2, 3, 1).reshape(1, pixels // repeats, 1, repeats * channels)
    beside = [torch.cat([value] * repeats) for value in values]
    return maps.permute(0, 3, 1, 2), *beside


def affine(x: Tensor, centre: Tensor, slope: Tensor, shift: Tensor) -> Tensor:
    """(x - centre) * slope + shift of maps (B, C, H, W) in channels_last; rounded once."""
    maps, mean, var, weight, bias = side_by_side(x, centre, torch.ones_like(centre), slope, shift)
    found = F.batch_norm(maps, mean, var, weight, bias, eps=0.0)
    batch, channels, height, width = x.shape
    return found.permute(0, 2, 3, 1).view(batch, height, width, channels).permute(0, 3, 1, 2)


def gradient_sums(
    grad: Tensor, x: Tensor, mean: Tensor, inverse_std: Tensor
) -> tuple[Tensor, Tensor]:
    """Of maps (B, C, H, W) in channels_last the sums (C,) of grad * (x - mean) * inverse_std, and
    those of grad.
    """
    grads, means, inverses = side_by_side(grad, mean, inverse_std)
    _, by_normed, plain = torch.ops.aten.native_batch_norm_backward(
        *(grads, side_by_side(x, mean)[0], inverses, None, None, means, inverses),
        *(True, 0.0, [False, True, True]),
    )
    channels = x.shape[1]
    return by_normed.view(-1, channels).sum(0), plain.view(-1, channels).sum(0)


def mean_and_var(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance (C,) of maps (B, C, H, W) in channels_last."""
    # statistics to be moved, without which they would be rounded to bf16
    kept = x.new_zeros(x.shape[1], dtype=torch.promote_types(x.dtype, torch.float32))
    maps, running_mean, running_var = side_by_side(x, kept, kept)
    found = torch.batch_norm_update_stats(maps, running_mean, running_var, 0.0)
    means, variances = (values.view(-1, x.shape[1]) for values in found)
    mean = means.mean(0)
    return mean, (variances + (means - mean).square()).mean(0)
