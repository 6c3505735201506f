"""The network that is computed: the same function as that of model.py, faster on this machine."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from nanocnn.networks.exchange import exchanged
from nanocnn.networks.fused import fuse_pooling
from nanocnn.networks.linear import OneDNNLinear, is_faster
from nanocnn.networks.tiny_maps import TinyMapConv2d, keeps_size


def fast_view(model: nn.Module, image_shape: Sequence[int]) -> nn.Module:
    """A network with the very parameters and buffers of `model`, and the same function up to
    rounding: see `fuse_pooling` and `class_for`.
    """
    return exchanged(fuse_pooling(model, image_shape), class_for)


def class_for(layer: nn.Module) -> type[nn.Module]:
    """That of a layer which computes the same as `layer`, and faster here."""
    if type(layer) is nn.Flatten:
        return LaidOutFlatten
    if type(layer) is nn.Linear and is_faster():
        return OneDNNLinear
    return TinyMapConv2d if type(layer) is nn.Conv2d and keeps_size(layer) else type(layer)


class LaidOutFlatten(nn.Flatten):
    """A flattening whose gradient lies in memory as the maps do.

    It would come as (B, C, H, W), and layers whose map and gradient lie differently are slow.
    """

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim == 4 and x.requires_grad and x.is_contiguous(memory_format=torch.channels_last):
            x.register_hook(lambda grad: grad.contiguous(memory_format=torch.channels_last))
        return super().forward(x)
