"""Convolutions that make small maps, whose weights have their gradient from one product.

oneDNN works off the gradient of weights map by map, in rows that are short in small ones. What the
kernel saw, cut out into rows of all maps together, is multiplied at twice to five times its rate.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from nanocnn.networks.linear import is_zen_5

LARGEST_MAP = 16  # pixels; with more, cutting out takes as long as it gains
LEAST, LEAST_STRIDED = 2**28, 2**25  # products; with fewer it takes longer than it gains


class SmallMapConv2d(nn.Conv2d):
    """A convolution; in bf16 on Zen 5 its small maps train by `ConvolvedSmall`."""

    least, least_strided = LEAST, LEAST_STRIDED

    def forward(self, x: Tensor) -> Tensor:
        if not self.makes_small_maps(x):
            return super().forward(x)
        weight, bias = self.weight.bfloat16(), self.bias
        bias = None if bias is None else bias.bfloat16()
        return ConvolvedSmall.apply(x.bfloat16(), weight, bias, self.stride, self.padding)

    def makes_small_maps(self, x: Tensor) -> bool:
        """Whether `x` is a batch to train on that becomes maps of few pixels, in bf16."""
        is_mixed = torch.is_autocast_enabled("cpu")
        if not (is_mixed and torch.get_autocast_dtype("cpu") == torch.bfloat16 and is_zen_5()):
            return False
        # others stay as they are with autocast too
        is_rounded = {x.dtype, self.weight.dtype} <= {torch.float32, torch.bfloat16}
        is_trained = torch.is_grad_enabled() and self.weight.requires_grad
        is_usual = self.groups == 1 and self.dilation == (1, 1) and self.padding_mode == "zeros"
        stride, padding = self.stride, self.padding
        # which may have been set to something else since
        are_pairs = all(isinstance(each, tuple) and len(each) == 2 for each in (stride, padding))
        if not (is_rounded and is_trained and is_usual and are_pairs):
            return False
        if x.device.type != "cpu" or not x.is_contiguous(memory_format=torch.channels_last):
            return False
        sizes = zip(x.shape[2:], self.kernel_size, stride, map(int, padding), strict=True)
        height, width = ((side + 2 * edge - k) // step + 1 for side, k, step, edge in sizes)
        pixels = height * width
        least = self.least if stride == (1, 1) else self.least_strided
        return pixels <= LARGEST_MAP and len(x) * pixels * self.weight.numel() >= least


class ConvolvedSmall(torch.autograd.Function):
    """Maps (B, C, H, W) in channels_last convolved by a weight and bias, all of one dtype."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        stride: tuple[int, int],
        padding: tuple[int, int],
    ) -> Tensor:
        ctx.stride, ctx.padding, ctx.has_bias = stride, padding, bias is not None
        ctx.save_for_backward(x, weight)
        return F.conv2d(x, weight, bias, stride, padding)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        (down, right), (top, left) = ctx.stride, ctx.padding
        height, width = weight.shape[2:]
        grad = grad.contiguous(memory_format=torch.channels_last)
        # of the bias nothing is asked: oneDNN would compute the gradient of the weights for it
        grad_x, *_ = torch.ops.aten.convolution_backward(
            *(grad, x, weight, None, ctx.stride, ctx.padding, (1, 1), False, (0, 0), 1),
            [ctx.needs_input_grad[0], False, False],
        )
        seen = x.permute(0, 2, 3, 1)
        if top or left:
            seen = F.pad(seen, (0, 0, left, left, top, top))
        windows = seen.unfold(1, height, down).unfold(2, width, right)  # (B, y, x, C, down, across)
        rows = windows.permute(0, 1, 2, 4, 5, 3).flatten(0, 2).flatten(1)
        pixels = grad.permute(0, 2, 3, 1).flatten(0, 2)
        grad_weight = (pixels.t() @ rows).view(len(weight), height, width, -1).permute(0, 3, 1, 2)
        return grad_x, grad_weight, pixels.sum(0) if ctx.has_bias else None, None, None
