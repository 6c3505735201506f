"""ResNet: blocks with a way around them."""

from torch import Tensor, nn

from nanocnn.networks.layers import convolution
from nanocnn.networks.sizes import ImageShape, Width, is_small, scaled


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a way around them (figure 5, left, of the ResNet paper)."""

    def __init__(self, c_in: int, c_out: int, stride: int):
        super().__init__()
        self.residual = nn.Sequential(
            nn.Conv2d(c_in, c_out, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(c_out),
            nn.ReLU(),
            nn.Conv2d(c_out, c_out, 3, padding=1, bias=False),
            nn.BatchNorm2d(c_out),
        )
        self.shortcut = nn.Sequential()
        if stride != 1 or c_in != c_out:
            self.shortcut = nn.Sequential(
                nn.Conv2d(c_in, c_out, 1, stride, bias=False), nn.BatchNorm2d(c_out)
            )
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.residual(x) + self.shortcut(x))


class ResNet18(nn.Module):
    """He et al., Deep Residual Learning for Image Recognition (2016), table 1, with projections
    (B).

    Adapted: below 64 pixels the stem is a 3x3 convolution at stride 1 without pooling, as in the
    paper's networks for CIFAR-10 (4.2).
    """

    def __init__(self, image_shape: ImageShape, num_classes: int, width: Width = 1.0):
        super().__init__()
        (c1, c2, c3, c4) = scaled(((64, 128, 256, 512),), width)[0]
        if is_small(image_shape):
            self.stem = convolution(image_shape[0], c1, 3)
        else:
            self.stem = nn.Sequential(
                *convolution(image_shape[0], c1, 7, stride=2), nn.MaxPool2d(3, stride=2, padding=1)
            )
        self.blocks = nn.Sequential(
            *[BasicBlock(c1, c1, 1), BasicBlock(c1, c1, 1)],
            *[BasicBlock(c1, c2, 2), BasicBlock(c2, c2, 1)],
            *[BasicBlock(c2, c3, 2), BasicBlock(c3, c3, 1)],
            *[BasicBlock(c3, c4, 2), BasicBlock(c4, c4, 1)],
        )
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(c4, num_classes))

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(images)))
