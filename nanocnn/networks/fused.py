"""Layers that are computed together: the same function and gradients in fewer passes over memory.

Max pooling commutes with whatever never decreases, so it may go first: the activation then works on
the small map. Batch normalisation takes its mean and variance from the whole map, but what it makes
of each pixel is needed for the pooled ones only, and only they send gradients back. Large maps, not
products of matrices, are where the time of a small network goes on a CPU.
"""

import copy
import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LARGE = 2**20  # values in a map: with fewer the calls cost more than the passes saved
# what a `forward` raises that misses a layer where it was
BREAKS = (RuntimeError, ValueError, TypeError, LookupError, AttributeError, AssertionError)
RISING = (nn.ReLU, nn.LeakyReLU, nn.Tanh, nn.Sigmoid)  # a larger input never has a smaller output


def fuse_pooling(model: nn.Module, image_shape: Sequence[int]) -> nn.Module:
    """A network with the very layers, parameters and buffers of `model`, some of them in a cheaper
    order.

    In each nn.Sequential (norm, activation, max pooling) becomes (NormPool, activation), and
    (activation, max pooling) the other way round. A `forward` may use parts of such a sequence by
    themselves: where that network's outputs for images (C, H, W) are others, in training or in
    evaluation, `model` comes back as it is.
    """
    if not any(isinstance(layer, nn.MaxPool2d) for layer in model.modules()):
        return model
    trial = copy.deepcopy(model)
    device = next((parameter.device for parameter in model.parameters()), None)
    count = max(2, min(16, 2**20 // math.prod(image_shape)))
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        images = torch.rand(count, *image_shape).to(device)
        # first weights of zero would hide everything before them
        for parameter in trial.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape).to(parameter))
        for training in (True, False):
            torch.manual_seed(1)  # of dropout
            expected = tensors_of(trial.train(training)(images))
            torch.manual_seed(1)
            try:
                outputs = tensors_of(reordered(trial).train(training)(images))
            except BREAKS:
                return model  # its parts do not even fit together any more
            if len(outputs) != len(expected) or not all(map(is_close, outputs, expected)):
                return model
    return reordered(model)


def tensors_of(outputs: Any) -> list[Tensor]:
    """The tensors in what a network returns: logits, and perhaps those of auxiliary heads with
    their weights.
    """
    if isinstance(outputs, tuple):
        return [tensor for output in outputs for tensor in tensors_of(output)]
    return [torch.as_tensor(outputs)]


def is_close(one: Tensor, other: Tensor) -> bool:
    return torch.allclose(one, other, rtol=1e-3, atol=1e-3 * float(one.abs().max()))


def reordered(model: nn.Module) -> nn.Module:
    if not list(model.children()):
        return model
    fused = copy.copy(model)  # its parameters, buffers and hooks are those of the model
    children = {name: reordered(child) for name, child in model.named_children()}
    if type(model) is nn.Sequential:
        layers: list[nn.Module] = []
        for layer in children.values():
            if isinstance(layer, nn.MaxPool2d) and is_plain(layer) and not layer.return_indices:
                after = [layers.pop()] if layers and is_rising(layers[-1]) else []
                norm = layers[-1] if layers else None
                if isinstance(norm, nn.BatchNorm2d) and is_plain(norm):
                    layers[-1] = NormPool(norm, layer)
                else:
                    layers.append(layer)
                layers += after
            elif not (isinstance(layer, nn.Identity) and is_plain(layer)):
                layers.append(layer)
        children = {str(position): layer for position, layer in enumerate(layers)}
    fused._modules = dict(children)
    return fused


def is_rising(layer: nn.Module) -> bool:
    falls = isinstance(layer, nn.LeakyReLU) and layer.negative_slope < 0
    return isinstance(layer, RISING) and is_plain(layer) and not falls


def is_plain(layer: nn.Module) -> bool:
    """Whether `layer` is torch's own, and nobody watches what goes into it and what comes out."""
    return type(layer).__module__.startswith("torch.nn.") and not (
        layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks
    )


class NormPool(nn.Module):
    """Batch normalisation and then max pooling of maps (B, C, H, W).

    `joining`, where several processes train together, adds up what they have: see
    training.batch_norm.
    """

    joining: Any = None

    def __init__(self, norm: nn.BatchNorm2d, pool: nn.MaxPool2d):
        super().__init__()
        self.norm, self.pool = norm, pool

    def forward(self, x: Tensor) -> Tensor:
        norm, pool = self.norm, self.pool
        is_usual = norm.affine and norm.track_running_stats and norm.momentum is not None
        is_laid_out = x.is_contiguous(memory_format=torch.channels_last) and x.device.type == "cpu"
        # what is summed here in bf16, torch's own sums in float32
        is_exact = x.dtype == norm.weight.dtype
        if not (norm.training and is_usual and is_laid_out and is_exact and x.numel() >= LARGE):
            return pool(norm(x))
        window = [pool.kernel_size, pool.stride, pool.padding, pool.dilation]
        sides = [[side, side] if isinstance(side, int) else list(side) for side in window]
        pooled, mean, var, pixels = TrainedNormPool.apply(
            x, norm.weight, norm.bias, (norm.eps, (*sides, pool.ceil_mode), self.joining)
        )
        assert norm.running_mean is not None and norm.running_var is not None
        assert norm.num_batches_tracked is not None and norm.momentum is not None
        norm.running_mean.lerp_(mean, norm.momentum)
        norm.running_var.lerp_(var * (pixels / (pixels - 1)), norm.momentum)
        norm.num_batches_tracked += 1
        return pooled


class TrainedNormPool(torch.autograd.Function):
    """Max pooling of a normalised batch (B, C, H, W) in channels_last, and its mean, biased
    variance (C,) and number of pixels.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, options: tuple[float, tuple, Any]
    ) -> tuple[Tensor, Tensor, Tensor, int]:
        eps, window, joining = options
        mean, var = mean_and_var(x)
        pixels = x.numel() // x.shape[1]
        if joining:
            mean, var, pixels = joining.statistics(mean, var, pixels)
        inverse_std = (var + eps).rsqrt()
        slope = weight * inverse_std
        if (weight < 0).any():  # where the largest output comes from the smallest input
            sign = per_channel(torch.where(weight < 0, -1, 1).to(x.dtype))
            chosen, indices = F.max_pool2d(x * sign, *window, return_indices=True)
            chosen = chosen * sign
        else:
            chosen, indices = F.max_pool2d(x, *window, return_indices=True)
        ctx.window, ctx.pixels, ctx.joining = window, pixels, joining
        ctx.save_for_backward(x, chosen, indices, mean, inverse_std, weight)
        ctx.mark_non_differentiable(mean, var)
        pooled = torch.addcmul(per_channel(bias - slope * mean), chosen, per_channel(slope))
        return pooled, mean, var, pixels

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        """That of batch normalisation, with a gradient of zero for all pixels but the chosen
        ones.
        """
        x, chosen, indices, mean, inverse_std, weight = ctx.saved_tensors
        grad = grad.contiguous(memory_format=torch.channels_last)
        grad_bias = sums(grad)
        grad_weight = (sums(grad * chosen) - mean * grad_bias) * inverse_std
        slope = weight * inverse_std
        of_all = grad_weight, grad_bias
        if ctx.joining:
            of_all = ctx.joining.sums(grad_weight, grad_bias)
        by_x = -slope * inverse_std * of_all[0] / ctx.pixels
        constant = -slope * of_all[1] / ctx.pixels - by_x * mean
        grad_chosen = grad * per_channel(slope)
        grad_x = torch.ops.aten.max_pool2d_with_indices_backward(
            grad_chosen, x, *ctx.window, indices
        )
        side_by_side(grad_x).addcmul_(side_by_side(x), repeated(by_x, x)).add_(
            repeated(constant, x)
        )
        return grad_x, grad_weight, grad_bias, None


def per_channel(values: Tensor) -> Tensor:
    return values.view(1, -1, 1, 1)


def repeats(x: Tensor) -> int:
    """How many pixels of maps (B, C, H, W) have, side by side, values that fill the processor's
    vectors.
    """
    count = 16 // math.gcd(16, x.shape[1])
    return count if x.numel() // x.shape[1] % count == 0 else 1


def side_by_side(x: Tensor) -> Tensor:
    """A view (B * H * W / repeats, repeats * C) of maps (B, C, H, W) in channels_last."""
    return x.permute(0, 2, 3, 1).reshape(-1, repeats(x) * x.shape[1])


def repeated(values: Tensor, x: Tensor) -> Tensor:
    """Values (C,) as (repeats * C,), to go with `side_by_side(x)`."""
    return values.repeat(repeats(x))


def sums(x: Tensor) -> Tensor:
    """(C,) of maps (B, C, H, W) in channels_last."""
    return side_by_side(x).sum(0).view(-1, x.shape[1]).sum(0)


def mean_and_var(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance (C,) of maps (B, C, H, W) in channels_last."""
    found = torch.batch_norm_update_stats(side_by_side(x), None, None, 0.0)
    means, variances = (values.view(-1, x.shape[1]) for values in found)
    mean = means.mean(0)
    return mean, (variances + (means - mean).square()).mean(0)
