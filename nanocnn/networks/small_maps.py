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
LEAST_PRODUCTS, LEAST_WITH_STRIDE = 2**28, 2**25  # with fewer it takes longer than it gains


class SmallMapConv2d(nn.Conv2d):
    """A convolution; in bf16 on a processor its small maps train by `ConvolvedSmall`."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.makes_small_maps(x):
            return super().forward(x)
        weight, bias = self.weight.bfloat16(), self.bias
        bias = None if bias is None else bias.bfloat16()
        return ConvolvedSmall.apply(x.bfloat16(), weight, bias, self.stride, self.padding)

    def makes_small_maps(self, x: Tensor) -> bool:
        """Whether `x` is a batch to train on that becomes maps of few pixels, in bf16."""
        is_mixed = torch.is_autocast_enabled("cpu")
        is_bf16 = is_mixed and torch.get_autocast_dtype("cpu") == torch.bfloat16
        is_usual = self.groups == 1 and self.dilation == (1, 1) and self.padding_mode == "zeros"
        is_known = x.ndim == 4 and x.device.type == "cpu" and not isinstance(self.padding, str)
        if not (is_bf16 and is_usual and is_known and self.weight.requires_grad and is_zen_5()):
            return False
        if not (torch.is_grad_enabled() and x.is_contiguous(memory_format=torch.channels_last)):
            return False
        assert not isinstance(self.padding, str)  # as was asked
        sizes = zip(x.shape[2:], self.kernel_size, self.stride, self.padding, strict=True)
        height, width = ((side + 2 * edge - k) // stride + 1 for side, k, stride, edge in sizes)
        pixels = height * width
        least = LEAST_PRODUCTS if self.stride == (1, 1) else LEAST_WITH_STRIDE
        return 0 < pixels <= LARGEST_MAP and len(x) * pixels * self.weight.numel() >= least


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
        ctx.options, ctx.has_bias = (stride, padding, (1, 1), False, (0, 0), 1), bias is not None
        ctx.save_for_backward(x, weight)
        return F.conv2d(x, weight, bias, stride, padding)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        (down, right), (top, left), *_ = ctx.options
        height, width = weight.shape[2:]
        grad = grad.contiguous(memory_format=torch.channels_last)
        pixels = grad.permute(0, 2, 3, 1).flatten(0, 2)
        # that of the bias too would be made from the gradient of the weights
        grad_x, *_ = torch.ops.aten.convolution_backward(
            *(grad, x, weight, None, *ctx.options),
            [ctx.needs_input_grad[0], False, False],
        )
        seen = F.pad(x.permute(0, 2, 3, 1), (0, 0, left, left, top, top))
        windows = seen.unfold(1, height, down).unfold(2, width, right)  # (B, y, x, C, down, across)
        products = pixels.t() @ windows.permute(0, 1, 2, 4, 5, 3).flatten(0, 2).flatten(1)
        grad_weight = products.view(len(weight), height, width, -1).permute(0, 3, 1, 2)
        kind = torch.promote_types(grad.dtype, torch.float32)
        grad_bias = pixels.sum(0, dtype=kind).to(grad.dtype) if ctx.has_bias else None
        return grad_x, grad_weight, grad_bias, None, None
