"""Layers that torch has not, and pieces that several networks share."""

from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def convolution(c_in: int, c_out: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """Convolution, batch normalisation and ReLU; at stride 1 the size stays."""
    return nn.Sequential(
        nn.Conv2d(c_in, c_out, kernel, stride, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(c_out),
        nn.ReLU(),
    )


class Maxout(nn.Module):
    """The largest of each `pieces` neighbouring channels: (B, pieces * C, ...) -> (B, C, ...).

    Source: Goodfellow et al., Maxout Networks (2013).
    """

    def __init__(self, pieces: int = 2):
        super().__init__()
        self.pieces = pieces

    def forward(self, x: Tensor) -> Tensor:
        return x.unflatten(1, (-1, self.pieces)).amax(2)

    def extra_repr(self) -> str:
        return f"pieces={self.pieces}"


class WhiteningConv2d(nn.Conv2d):
    """A convolution that makes the values of a patch uncorrelated and equally strong; only its bias
    is trained.

    Its 2 * C * K * K filters are the eigenvectors of the covariance of training patches (C, K, K),
    each divided by the root of its eigenvalue, and their negatives. Until `fit` has seen images
    they are random. Source: K. Jordan, 94% on CIFAR-10 in 3.29 Seconds on a Single GPU (2024),
    after D. Page, How to Train Your ResNet 8 (2019).
    """

    def __init__(self, in_channels: int, kernel_size: int):
        filters = 2 * in_channels * kernel_size**2
        super().__init__(in_channels, filters, kernel_size)
        self.weight.requires_grad_(False)

    @torch.no_grad()
    def fit(self, batches: Iterable[Tensor], eps: float = 5e-4) -> None:
        """Set the filters by normalised training images (B, C, H, W); `eps` is added to each
        eigenvalue.
        """
        values, total = self.weight[0].numel(), 0
        products = torch.zeros(values, values, dtype=torch.float64)
        for images in batches:
            patches = F.unfold(images, self.kernel_size).transpose(1, 2).flatten(0, 1).double()
            products += (patches.T @ patches).cpu()
            total += len(patches)
        eigenvalues, eigenvectors = torch.linalg.eigh(products / total)
        filters = (eigenvectors / (eigenvalues + eps).sqrt()).T.reshape(-1, *self.weight.shape[1:])
        self.weight.copy_(torch.cat([filters, -filters]))
        nn.init.zeros_(self.bias)  # type: ignore[arg-type]


def fit_whitening(model: nn.Module, sample: Callable[[], Iterable[Tensor]]) -> None:
    """Fit each WhiteningConv2d of `model` to the normalised images (B, C, H, W) of `sample()`."""
    for layer in model.modules():
        if isinstance(layer, WhiteningConv2d):
            layer.fit(sample())


class ZeroPadToFit(nn.Module):
    """Zeros at the right and bottom until windows of `kernel_size` at `stride` cover every pixel.

    With windows of 2 at stride 2 this makes odd sizes even.
    """

    def __init__(self, kernel_size: int, stride: int):
        super().__init__()
        self.kernel_size, self.stride = kernel_size, stride

    def forward(self, x: Tensor) -> Tensor:
        height, width = ((self.kernel_size - size) % self.stride for size in x.shape[-2:])
        return F.pad(x, (0, width, 0, height))

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, stride={self.stride}"


class GaussianPool2d(nn.Module):
    """A fixed binomial blur and subsampling: every `stride`-th pixel of the image blurred by 1-2-1.

    `kernel_size` 2 takes the weights 1-1, 3 takes 1-2-1, 4 takes 1-3-3-1 and so on, along both axes
    and divided by their sum. Sources: Burt and Adelson, The Laplacian Pyramid as a Compact Image
    Code (1983); Zhang, Making Convolutional Networks Shift-Invariant Again (2019).
    """

    weight: Tensor

    def __init__(self, channels: int, kernel_size: int = 3, stride: int = 2, padding: int = 0):
        super().__init__()
        self.groups = self.in_channels = self.out_channels = channels
        self.kernel_size, self.stride, self.padding = (
            (kernel_size,) * 2,
            (stride,) * 2,
            (padding,) * 2,
        )
        row = torch.ones(1, dtype=torch.float64)
        for _ in range(kernel_size - 1):
            row = F.pad(row, (0, 1)) + F.pad(row, (1, 0))
        blur = torch.outer(row, row) / row.sum() ** 2
        weight = blur.float().expand(channels, 1, -1, -1).contiguous()
        self.register_buffer("weight", weight, persistent=False)  # it never changes

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight, None, self.stride, self.padding, groups=self.groups)

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class LearnedPool2d(nn.Module):
    """A trainable weight and bias a channel, on the mean of each window.

    Source: the subsampling layers of LeCun et al., Gradient-Based Learning Applied to Document
    Recognition (1998), II.B; there the result goes through the activation.
    """

    def __init__(self, channels: int, kernel_size: int = 2, stride: int = 2):
        super().__init__()
        self.kernel_size, self.stride, self.padding = (kernel_size,) * 2, (stride,) * 2, (0, 0)
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        means = F.avg_pool2d(x, self.kernel_size, self.stride)
        return means * self.weight.view(-1, 1, 1) + self.bias.view(-1, 1, 1)

    def extra_repr(self) -> str:
        return f"{len(self.weight)}, kernel_size={self.kernel_size}, stride={self.stride}"
