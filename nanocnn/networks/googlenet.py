"""GoogLeNet: four views of a map side by side, and two more heads that help it learn."""

from collections.abc import Sequence
from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor, nn

from nanocnn.networks.layers import convolution
from nanocnn.networks.sizes import Count, ImageShape, Share, Width, is_small, scaled


class Inception(nn.Module):
    """Four views of one map, side by side (figure 2b of the GoogLeNet paper)."""

    def __init__(self, c_in: int, widths: Sequence[int], large_kernel: int):
        super().__init__()
        one, reduce3, three, reduce5, five, pooled = widths
        self.branch1 = convolution(c_in, one, 1)
        self.branch2 = nn.Sequential(convolution(c_in, reduce3, 1), convolution(reduce3, three, 3))
        self.branch3 = nn.Sequential(
            convolution(c_in, reduce5, 1), convolution(reduce5, five, large_kernel)
        )
        self.branch4 = nn.Sequential(
            nn.MaxPool2d(3, stride=1, padding=1), convolution(c_in, pooled, 1)
        )
        self.channels = one + three + five + pooled

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)], 1)


CHANNELS = (
    (64, 64, 192),  # of the stem
    (64, 96, 128, 16, 32, 32),  # 3a
    (128, 128, 192, 32, 96, 64),
    (192, 96, 208, 16, 48, 64),  # 4a
    (160, 112, 224, 24, 64, 64),
    (128, 128, 256, 24, 64, 64),
    (112, 144, 288, 32, 64, 64),
    (256, 160, 320, 32, 128, 128),
    (256, 160, 320, 32, 128, 128),  # 5a
    (384, 192, 384, 48, 128, 128),
)


class GoogLeNet(nn.Module):
    """Szegedy et al., Going Deeper with Convolutions (2015), table 1.

    Adapted: batch normalisation after each convolution instead of local response normalisation
    twice. Below 64 pixels the first convolution is 3x3 at stride 1 and the second pooling is left
    out. The losses of the auxiliary heads count `auxiliary_weight` in training. `large_kernel`:
    torchvision's has 3.
    """

    def __init__(
        self,
        image_shape: ImageShape,
        num_classes: int,
        width: Width = 1.0,
        dropout: Share = 0.4,
        auxiliary_weight: Annotated[float, Ge(0)] = 0.3,
        large_kernel: Count = 5,
    ):
        super().__init__()
        small = is_small(image_shape)
        (c1, c2, c3), *inceptions = scaled(CHANNELS, width)
        c_in = c3
        modules = []
        for widths in inceptions:
            modules.append(Inception(c_in, widths, large_kernel))
            c_in = modules[-1].channels
        a3, b3, a4, b4, c4, d4, e4, a5, b5 = modules

        def halve() -> nn.Module:
            return nn.MaxPool2d(3, stride=2, ceil_mode=True)

        self.stem = nn.Sequential(
            convolution(image_shape[0], c1, 3 if small else 7, 1 if small else 2),
            halve(),
            convolution(c1, c2, 1),
            convolution(c2, c3, 3),
            nn.Identity() if small else halve(),
        )
        self.to_4a = nn.Sequential(a3, b3, halve(), a4)
        self.to_4d = nn.Sequential(b4, c4, d4)
        self.to_5b = nn.Sequential(e4, halve(), a5, b5)
        self.head = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(dropout), nn.Linear(c_in, num_classes)
        )
        self.auxiliary_weight = auxiliary_weight
        ((reduced, hidden),) = scaled(((128, 1024),), width)
        self.auxiliary = nn.ModuleList(
            nn.Sequential(
                nn.AdaptiveAvgPool2d(4),
                convolution(module.channels, reduced, 1),
                nn.Flatten(),
                nn.Linear(16 * reduced, hidden),
                nn.ReLU(),
                nn.Dropout(0.7),
                nn.Linear(hidden, num_classes),
            )
            for module in (a4, d4)
        )

    def forward(self, images: Tensor) -> Tensor | tuple:
        early = self.to_4a(self.stem(images))
        middle = self.to_4d(early)
        logits = self.head(self.to_5b(middle))
        if not self.training:
            return logits
        maps = zip(self.auxiliary, (early, middle), strict=True)
        return logits, *[(self.auxiliary_weight, head(x)) for head, x in maps]
