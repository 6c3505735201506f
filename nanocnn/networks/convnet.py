"""ConvNet, the pattern behind most networks of the line, and those that are cases of it."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

from torch import Tensor, nn

from nanocnn.networks.layers import GaussianPool2d, LearnedPool2d, Maxout, ZeroPadToFit
from nanocnn.networks.sizes import Count, ImageShape, Padding, Share, Width, is_small, scaled
from nanocnn.system.errors import UserError

Norm = Literal["batch", "none"]
Activation = Literal["relu", "leaky_relu", "tanh", "sigmoid", "gelu", "maxout"]
Pool = Literal["max", "average", "gaussian", "learned", "none"]

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "gelu": nn.GELU,
    "maxout": Maxout,
}


class ConvNet(nn.Module):
    """INPUT -> [[CONV -> NORM -> ACT] x N -> POOL] x M -> [FC -> ACT -> DROPOUT] x K -> FC.

    `channels` has a list for each of the M blocks with the channels of its N convolutions. kernel,
    stride (of a block's first convolution), padding, groups and pool take one value, or a list of
    one a block. Windows of a pooling that do not fill the map are dropped (`odd: floor`) or filled
    with zeros (`odd: pad`). A maxout layer computes twice the channels and keeps the larger of each
    two.
    """

    def __init__(  # noqa: PLR0913  the arguments are the keys of `model:`
        self,
        image_shape: ImageShape,
        num_classes: int,
        channels: Sequence[Sequence[Count]] = ((32,), (64,)),
        kernel: Count | Sequence[Count] = 3,
        stride: Count | Sequence[Count] = 1,
        padding: Padding | Sequence[Padding] = "same",
        groups: Count | Sequence[Count] = 1,
        norm: Norm = "batch",
        activation: Activation = "relu",
        pool: Pool | Sequence[Pool] = "max",
        pool_kernel: Count = 2,
        pool_stride: Count = 2,
        odd: Literal["floor", "pad"] = "floor",
        hidden: Sequence[Count] = (128,),
        dropout: Share = 0.0,
    ):
        super().__init__()
        act = ACTIVATIONS[activation]
        pieces = 2 if activation == "maxout" else 1
        windows = {"kernel": kernel, "stride": stride, "padding": padding, "groups": groups}
        each_block = one_a_block(len(channels), windows | {"pool": pool})

        features: list[nn.Module] = []
        c_in = image_shape[0]
        for widths, (kernel_size, first_stride, pad, parts, pooling) in zip(
            channels, each_block, strict=True
        ):
            for position, c_out in enumerate(widths):
                conv_stride = first_stride if position == 0 else 1
                bias = norm == "none"  # the mean subtraction would remove it
                features.append(
                    nn.Conv2d(
                        c_in, pieces * c_out, kernel_size, conv_stride, pad, groups=parts, bias=bias
                    )
                )
                if norm == "batch":
                    features.append(nn.BatchNorm2d(pieces * c_out))
                features.append(act())
                c_in = c_out
            if pooling != "none" and odd == "pad":
                features.append(ZeroPadToFit(pool_kernel, pool_stride))
            features += pooling_layers(pooling, c_in, pool_kernel, pool_stride)
            if pooling == "learned" and activation != "maxout":  # which would halve the channels
                features.append(act())

        classifier: list[nn.Module] = [nn.Flatten()]
        for width in hidden:
            classifier += [nn.LazyLinear(pieces * width), act()]
            if dropout:
                classifier.append(nn.Dropout(dropout))
        self.features = nn.Sequential(*features)
        self.classifier = nn.Sequential(*classifier, nn.LazyLinear(num_classes))

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.features(images))


def one_a_block(blocks: int, keys: dict[str, Any]) -> list[tuple[Any, ...]]:
    """For each block its value of each key, given as one value or as a list of one a block.

    Raises UserError for a list of another length.
    """
    columns = []
    for key, value in keys.items():
        values = [value] * blocks if isinstance(value, int | str) else value
        if len(values) != blocks:
            raise UserError(
                f"model.{key} = {list(values)}: should be one value, or one for each of "
                f"the {blocks} blocks of model.channels"
            )
        columns.append(values)
    return list(zip(*columns, strict=True))


def pooling_layers(pool: Pool, channels: int, kernel: int, stride: int) -> list[nn.Module]:
    match pool:
        case "max":
            return [nn.MaxPool2d(kernel, stride)]
        case "average":
            return [nn.AvgPool2d(kernel, stride)]
        case "gaussian":  # one pixel wider on each side: it blurs beyond its window
            return [GaussianPool2d(channels, kernel + 2, stride, padding=1)]
        case "learned":
            return [LearnedPool2d(channels, kernel, stride)]
    return []


# The line: each says where it departs from its paper; `width` scales the channels.


def mlp(
    image_shape: ImageShape,
    num_classes: int,
    hidden: Sequence[Count] = (300, 100),
    activation: Activation = "relu",
    dropout: Share = 0.0,
) -> ConvNet:
    """The fully connected baseline of LeCun et al. (1998), 784-300-100-10, by default with ReLU."""
    return ConvNet(
        image_shape, num_classes, channels=(), hidden=hidden, activation=activation, dropout=dropout
    )


def lenet5(image_shape: ImageShape, num_classes: int, modern: bool = False) -> ConvNet:
    """LeCun et al., Gradient-Based Learning Applied to Document Recognition (1998), figure 2.

    Adapted: C3 sees all maps of S2 instead of a table of some, tanh is not scaled, and the output
    is a linear layer instead of distances to drawn letters. Images below the paper's 32x32 are
    padded by 2. `modern`: max pooling and ReLU instead of trainable subsampling and tanh.
    """
    subsampling: Pool = "max" if modern else "learned"
    return ConvNet(
        image_shape,
        num_classes,
        channels=((6,), (16,), (120,)),
        kernel=5,
        padding=(2 if min(image_shape[1:]) < 32 else 0, 0, 0),
        norm="none",
        activation="relu" if modern else "tanh",
        pool=(subsampling, subsampling, "none"),
        hidden=(84,),
    )


def alexnet(
    image_shape: ImageShape,
    num_classes: int,
    width: Width = 1.0,
    hidden: Sequence[Count] = (4096, 4096),
    dropout: Share = 0.5,
) -> ConvNet:
    """Krizhevsky, One Weird Trick for Parallelizing Convolutional Neural Networks (2014): AlexNet
    in one piece.

    Adapted: no local response normalisation. Below 64 pixels the first convolution is 5x5 at stride
    1 instead of 11x11 at stride 4.
    """
    small = is_small(image_shape)
    return ConvNet(
        image_shape,
        num_classes,
        channels=scaled(((64,), (192,), (384, 256, 256)), width),
        kernel=(5 if small else 11, 5, 3),
        stride=(1 if small else 4, 1, 1),
        padding=(2, 2, 1),
        norm="none",
        pool_kernel=3,
        hidden=hidden,
        dropout=dropout,
    )


def zfnet(
    image_shape: ImageShape,
    num_classes: int,
    width: Width = 1.0,
    hidden: Sequence[Count] = (4096, 4096),
    dropout: Share = 0.5,
) -> ConvNet:
    """Zeiler and Fergus, Visualizing and Understanding Convolutional Networks (2014), figure 3.

    Adapted: no contrast normalisation. Below 64 pixels the first two convolutions are 5x5 at stride
    1 instead of 7x7 and 5x5 at stride 2.
    """
    small = is_small(image_shape)
    return ConvNet(
        image_shape,
        num_classes,
        channels=scaled(((96,), (256,), (384, 384, 256)), width),
        kernel=(5 if small else 7, 5, 3),
        stride=(1 if small else 2, 1 if small else 2, 1),
        padding=(2, 2, 1) if small else (1, 0, 1),
        norm="none",
        pool_kernel=3,
        odd="pad",
        hidden=hidden,
        dropout=dropout,
    )


def vgg(  # noqa: PLR0913  keys of `model:`
    image_shape: ImageShape,
    num_classes: int,
    convolutions: Sequence[int],
    norm: Norm = "none",
    width: Width = 1.0,
    hidden: Sequence[Count] = (4096, 4096),
    dropout: Share = 0.5,
) -> ConvNet:
    """Simonyan and Zisserman, Very Deep Convolutional Networks for Large-Scale Image Recognition
    (2015).

    `convolutions` in each of the five blocks make configurations A, B and D of table 1. Adapted: a
    map of odd size is padded before it is halved, so that any image is large enough.
    """
    channels = [[c] * n for c, n in zip((64, 128, 256, 512, 512), convolutions, strict=True)]
    return ConvNet(
        image_shape,
        num_classes,
        channels=scaled(channels, width),
        norm=norm,
        padding=1,
        odd="pad",
        hidden=hidden,
        dropout=dropout,
    )
