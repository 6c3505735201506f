"""Airbench: a small network made to be trained in seconds."""

from collections.abc import Sequence
from typing import Annotated

from annotated_types import Len
from torch import Tensor, nn

from nanocnn.networks.layers import WhiteningConv2d
from nanocnn.networks.sizes import Count, ImageShape


class Airbench(nn.Module):
    """K. Jordan, 94% on CIFAR-10 in 3.29 Seconds on a Single GPU (2024), section 3: made to be
    trained in ten epochs.

    A layer that whitens patches, three groups of two convolutions with the pooling after the first,
    normalisations without a scale of their own, convolutions that begin as the identity, and logits
    divided by 9. Adapted: the last pooling takes the whole map, which on images of 32 pixels is the
    paper's.
    """

    def __init__(
        self,
        image_shape: ImageShape,
        num_classes: int,
        widths: Annotated[Sequence[Count], Len(3, 3)] = (64, 256, 256),
        whitening: Count = 2,
    ):
        super().__init__()
        whiten = WhiteningConv2d(image_shape[0], whitening)
        groups: list[nn.Module] = []
        c_in = whiten.out_channels
        for c_out in widths:
            groups += [
                nn.Conv2d(c_in, c_out, 3, padding=1, bias=False),
                nn.MaxPool2d(2),
                nn.BatchNorm2d(c_out, eps=1e-12, momentum=0.4),
                nn.GELU(),
                nn.Conv2d(c_out, c_out, 3, padding=1, bias=False),
                nn.BatchNorm2d(c_out, eps=1e-12, momentum=0.4),
                nn.GELU(),
            ]
            c_in = c_out
        for layer in groups:
            if isinstance(layer, nn.Conv2d):
                nn.init.dirac_(layer.weight[: layer.in_channels].data)
            elif isinstance(layer, nn.BatchNorm2d):
                layer.weight.requires_grad_(False)
        self.whiten = nn.Sequential(whiten, nn.GELU())
        self.groups = nn.Sequential(*groups)
        self.head = nn.Sequential(
            nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(c_in, num_classes, bias=False)
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.groups(self.whiten(images))) / 9
