"""Convolutions of maps so small that each pixel sees all of them.

The last maps of deep networks are of 2x2 pixels, or one: small images come to that. A 3x3 kernel
reaches over their edges from everywhere, and most of its products are with the zeros there: 20 of
36, or 8 of 9. What is left is a linear layer from all pixels to all pixels, whose weights are those
of the kernel, some of them in several places.
"""

from itertools import product

import torch
from torch import Tensor, nn

from nanocnn.networks.linear import linear
from nanocnn.networks.small_maps import SmallMapConv2d

LEAST_IMAGES, LEAST_WEIGHTS = 32, 2**14  # with fewer images, or channels, it gains nothing


class TinyMapConv2d(SmallMapConv2d):
    """A convolution for which `keeps_size` holds; of tiny maps computed as a linear layer."""

    def forward(self, x: Tensor) -> Tensor:
        is_known = x.ndim == 4 and x.device.type == "cpu" and len(x) >= LEAST_IMAGES
        if not (is_known and self.sees_all(*x.shape[2:]) and keeps_size(self)):
            return super().forward(x)
        weight, bias = self.weight, self.bias
        height, width = x.shape[2:]
        pixels = list(product(range(height), range(width)))
        rows, columns = (size // 2 for size in self.kernel_size)
        places = [  # in the kernel, of each pixel seen from each
            (y - own_y + rows) * self.kernel_size[1] + x - own_x + columns
            for own_y, own_x in pixels
            for y, x in pixels
        ]
        taps = weight.permute(0, 2, 3, 1).flatten(1, 2)  # (out, places, in)
        chosen = taps.index_select(1, torch.tensor(places))
        each = chosen.view(weight.shape[0] * len(pixels), len(pixels) * weight.shape[1])
        bias = None if bias is None else bias.repeat_interleave(len(pixels))
        found = linear(x.permute(0, 2, 3, 1).flatten(1), each, bias)
        is_last = x.is_contiguous(memory_format=torch.channels_last)
        return found.view(len(x), -1, height, width).contiguous(
            memory_format=torch.channels_last if is_last else torch.contiguous_format
        )

    def sees_all(self, height: int, width: int) -> bool:
        """Whether the kernel reaches each pixel of such a map from each, and beyond."""
        sizes = zip((height, width), self.kernel_size, strict=True)
        is_seen = all(side <= size // 2 + 1 for side, size in sizes)
        return is_seen and height * width < self.kernel_size[0] * self.kernel_size[1]


def keeps_size(conv: nn.Conv2d) -> bool:
    """Whether maps stay as large as they are, and there are channels enough."""
    is_odd = all(size % 2 for size in conv.kernel_size)
    is_padded = conv.padding in ("same", tuple(size // 2 for size in conv.kernel_size))
    is_dense = conv.stride == conv.dilation == (1, 1) and conv.groups == 1
    is_wide = conv.in_channels * conv.out_channels >= LEAST_WEIGHTS
    return is_odd and is_padded and is_dense and is_wide and conv.padding_mode == "zeros"
