"""The networks. To add one: a class or function here, and its line in MODELS.

python model.py --config mnist.yaml      # the layer table: output shape, parameters, multiply-accumulates

A network is built from the image shape (channels, height, width) and the number of classes, which come from
the data, and then the keys that `model:` in the config may set. It takes images (B, C, H, W) and returns
logits (B, classes). In training it may return (logits, (weight, logits), ...), the further ones of auxiliary
heads whose losses are added with that weight. `nn.LazyLinear` takes its input size from the first image.
"""

import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge, Gt, Len, Lt
from torch import Tensor, nn

from errors import ArgumentParser, UserError, did_you_mean, exit_code
from initialisation import initialise
from layer_table import LayerError, by, layer_table, trace
from layers import GaussianPool2d, LearnedPool2d, Maxout, WhiteningConv2d, ZeroPadToFit

ImageShape = tuple[int, int, int]  # channels, height, width
Count = Annotated[int, Gt(0)]
Width = Annotated[float, Gt(0)]
Share = Annotated[float, Ge(0), Lt(1)]
Padding = Annotated[int, Ge(0)] | Literal["same"]
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


class LeNet(nn.Module):
    """LeCun's pattern of 1998 with batch normalisation, ReLU and max pooling: 1,425,139 parameters on digits.

    A convolution before a batch normalisation has no bias: the mean subtraction would remove it.
    """

    def __init__(self, image_shape: ImageShape, num_classes: int):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(image_shape[0], 25, kernel_size=3, bias=False),  # (B, 25, 26, 26) for 28x28
            nn.BatchNorm2d(25),
            nn.ReLU(),
            nn.MaxPool2d(2),  # (B, 25, 13, 13)
            nn.Conv2d(25, 50, kernel_size=3, bias=False),  # (B, 50, 11, 11)
            nn.BatchNorm2d(50),
            nn.ReLU(),
            nn.MaxPool2d(2),  # (B, 50, 5, 5)
        )
        self.classifier = nn.Sequential(
            nn.Flatten(),  # (B, 1250)
            nn.LazyLinear(1024),
            nn.ReLU(),
            nn.Linear(1024, 128),
            nn.ReLU(),
            nn.Linear(128, num_classes),
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.features(images))


class ConvNet(nn.Module):
    """INPUT -> [[CONV -> NORM -> ACT] x N -> POOL] x M -> [FC -> ACT -> DROPOUT] x K -> FC.

    `channels` has a list for each of the M blocks with the channels of its N convolutions. kernel, stride
    (of a block's first convolution), padding, groups and pool take one value, or a list of one a block.
    Windows of a pooling that do not fill the map are dropped (`odd: floor`) or filled with zeros
    (`odd: pad`). A maxout layer computes twice the channels and keeps the larger of each two.
    """

    def __init__(
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

        def per_block(key: str, value: Any) -> Sequence[Any]:
            values = [value] * len(channels) if isinstance(value, int | str) else value
            if len(values) != len(channels):
                raise UserError(
                    f"model.{key} = {list(values)}: should be one value, or one for each of "
                    f"the {len(channels)} blocks of model.channels"
                )
            return values

        kernels, strides = per_block("kernel", kernel), per_block("stride", stride)
        paddings, all_groups = per_block("padding", padding), per_block("groups", groups)
        pools = per_block("pool", pool)

        features: list[nn.Module] = []
        c_in = image_shape[0]
        for block, widths in enumerate(channels):
            for position, c_out in enumerate(widths):
                features.append(
                    nn.Conv2d(
                        c_in,
                        pieces * c_out,
                        kernels[block],
                        strides[block] if position == 0 else 1,
                        paddings[block],
                        groups=all_groups[block],
                        bias=norm == "none",  # the mean subtraction would remove it
                    )
                )
                if norm == "batch":
                    features.append(nn.BatchNorm2d(pieces * c_out))
                features.append(act())
                c_in = c_out
            if pools[block] != "none" and odd == "pad":
                features.append(ZeroPadToFit(pool_kernel, pool_stride))
            match pools[block]:
                case "max":
                    features.append(nn.MaxPool2d(pool_kernel, pool_stride))
                case "average":
                    features.append(nn.AvgPool2d(pool_kernel, pool_stride))
                case "gaussian":  # one pixel wider on each side: it blurs beyond its window
                    features.append(GaussianPool2d(c_in, pool_kernel + 2, pool_stride, padding=1))
                case "learned":
                    features.append(LearnedPool2d(c_in, pool_kernel, pool_stride))
                    if activation != "maxout":  # which would halve the channels
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


# The line: presets of ConvNet. Each says where it departs from its paper; `width` scales the channels.


def is_small(image_shape: ImageShape) -> bool:
    """Whether a stem made for photographs of 224 pixels would leave nothing of these images."""
    return min(image_shape[1:]) < 64


def scaled(channels: Sequence[Sequence[int]], width: float) -> list[list[int]]:
    return [[max(1, round(width * c)) for c in block] for block in channels]


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

    Adapted: C3 sees all maps of S2 instead of a table of some, tanh is not scaled, and the output is a
    linear layer instead of distances to drawn letters. Images below the paper's 32x32 are padded by 2.
    `modern`: max pooling and ReLU instead of trainable subsampling and tanh.
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
    """Krizhevsky, One Weird Trick for Parallelizing Convolutional Neural Networks (2014): AlexNet in one piece.

    Adapted: no local response normalisation. Below 64 pixels the first convolution is 5x5 at stride 1
    instead of 11x11 at stride 4.
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

    Adapted: no contrast normalisation. Below 64 pixels the first two convolutions are 5x5 at stride 1
    instead of 7x7 and 5x5 at stride 2.
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


def vgg(
    image_shape: ImageShape,
    num_classes: int,
    convolutions: Sequence[int],
    norm: Norm = "none",
    width: Width = 1.0,
    hidden: Sequence[Count] = (4096, 4096),
    dropout: Share = 0.5,
) -> ConvNet:
    """Simonyan and Zisserman, Very Deep Convolutional Networks for Large-Scale Image Recognition (2015).

    `convolutions` in each of the five blocks make configurations A, B and D of table 1. Adapted: a map of
    odd size is padded before it is halved, so that any image is large enough.
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


def convolution(c_in: int, c_out: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """Convolution, batch normalisation and ReLU; at stride 1 the size stays."""
    return nn.Sequential(
        nn.Conv2d(c_in, c_out, kernel, stride, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(c_out),
        nn.ReLU(),
    )


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


class GoogLeNet(nn.Module):
    """Szegedy et al., Going Deeper with Convolutions (2015), table 1.

    Adapted: batch normalisation after each convolution instead of local response normalisation twice.
    Below 64 pixels the first convolution is 3x3 at stride 1 and the second pooling is left out. The losses
    of the auxiliary heads count `auxiliary_weight` in training. `large_kernel`: torchvision's has 3.
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
        (c1, c2, c3), *inceptions = scaled(
            (
                (64, 64, 192),
                (64, 96, 128, 16, 32, 32),  # 3a
                (128, 128, 192, 32, 96, 64),
                (192, 96, 208, 16, 48, 64),  # 4a
                (160, 112, 224, 24, 64, 64),
                (128, 128, 256, 24, 64, 64),
                (112, 144, 288, 32, 64, 64),
                (256, 160, 320, 32, 128, 128),
                (256, 160, 320, 32, 128, 128),  # 5a
                (384, 192, 384, 48, 128, 128),
            ),
            width,
        )
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
    """He et al., Deep Residual Learning for Image Recognition (2016), table 1, with projections (B).

    Adapted: below 64 pixels the stem is a 3x3 convolution at stride 1 without pooling, as in the paper's
    networks for CIFAR-10 (4.2).
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


class Airbench(nn.Module):
    """K. Jordan, 94% on CIFAR-10 in 3.29 Seconds on a Single GPU (2024), section 3: made to be trained in ten epochs.

    A layer that whitens patches, three groups of two convolutions with the pooling after the first, normalisations
    without a scale of their own, convolutions that begin as the identity, and logits divided by 9. Adapted: the last
    pooling takes the whole map, which on images of 32 pixels is the paper's.
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


class Torchvision(nn.Module):
    """Any classifier of torchvision, its first convolution and its last layers fitted to the data.

    `pretrained` takes torchvision's weights for ImageNet; what has to be fitted starts anew, but for the
    first convolution on grey images, which takes the sum over its colours.
    """

    def __init__(
        self, image_shape: ImageShape, num_classes: int, architecture: str, pretrained: bool = False
    ):
        super().__init__()
        import torchvision  # takes a second

        try:
            weights = "DEFAULT" if pretrained else None
            sizes: dict[str, Any] = {}
            if architecture.startswith("vit_"):
                sizes["image_size"] = 224 if pretrained else image_shape[1]
            elif architecture.startswith("maxvit"):
                sizes["input_size"] = (224, 224) if pretrained else image_shape[1:]
            self.network = torchvision.models.get_model(architecture, weights=weights, **sizes)
        except OSError as error:
            raise UserError(
                f"the weights of {architecture} could not be downloaded: {error}"
            ) from None
        if hasattr(self.network, "transform_input"):  # from ImageNet's colours to others
            self.network.transform_input = False
        fit_to_data(self.network, image_shape[0], num_classes)

    def forward(self, images: Tensor) -> Tensor | tuple:
        outputs = self.network(images)
        if isinstance(outputs, Tensor):
            return outputs
        logits, *auxiliary = outputs  # GoogLeNet's and Inception's, in training
        return logits, *[(0.3, extra) for extra in auxiliary if extra is not None]


def fit_to_data(network: nn.Module, channels: int, num_classes: int) -> None:
    """Replace the first convolution of a network for ImageNet, and each layer with its 1000 outputs."""
    layers = list(network.named_modules())
    name, stem = next((name, layer) for name, layer in layers if isinstance(layer, nn.Conv2d))
    if channels != stem.in_channels:
        fitted = nn.Conv2d(
            channels,
            stem.out_channels,
            stem.kernel_size,  # type: ignore[arg-type]
            stem.stride,  # type: ignore[arg-type]
            stem.padding,  # type: ignore[arg-type]
            bias=stem.bias is not None,
        )
        if channels == 1:
            fitted.weight.data = stem.weight.data.sum(1, keepdim=True)
        network.set_submodule(name, fitted)
    for name, layer in layers:
        if isinstance(layer, nn.Linear) and layer.out_features == 1000:
            network.set_submodule(name, nn.Linear(layer.in_features, num_classes))
        elif isinstance(layer, nn.Conv2d) and layer.out_channels == 1000:
            network.set_submodule(name, nn.Conv2d(layer.in_channels, num_classes, kernel_size=1))


MODELS: dict[str, Callable[..., nn.Module]] = {
    "lenet": LeNet,
    "convnet": ConvNet,
    "mlp": mlp,
    "lenet5": lenet5,
    "alexnet": alexnet,
    "zfnet": zfnet,
    "vgg11": partial(vgg, convolutions=(1, 1, 2, 2, 2)),
    "vgg13": partial(vgg, convolutions=(2, 2, 2, 2, 2)),
    "vgg16": partial(vgg, convolutions=(2, 2, 3, 3, 3)),
    "googlenet": GoogLeNet,
    "resnet18": ResNet18,
    "airbench": Airbench,
}


# what torch raises where a constructor got arguments that make no layer
BUILD_ERRORS = (ValueError, RuntimeError, AssertionError, IndexError, ZeroDivisionError)


def find_network(name: str) -> Callable[..., nn.Module]:
    """What builds the network `name`: an entry of MODELS, or torchvision.NAME."""
    if name in MODELS:
        return MODELS[name]
    family, _, architecture = name.partition(".")
    if family != "torchvision":
        raise UserError(f"model.name = {name} is unknown{did_you_mean(name, MODELS)}")
    import torchvision

    known = torchvision.models.list_models(module=torchvision.models)
    if architecture not in known:
        raise UserError(f"model.name = {name} is unknown{did_you_mean(architecture, known)}")
    return partial(Torchvision, architecture=architecture)


def build_model(
    name: str,
    image_shape: ImageShape,
    num_classes: int,
    init: dict[str, Any] | None = None,
    logistic: bool = False,
    **arguments: Any,
) -> nn.Module:
    """The network `name`, sized by the data, tried on one blank image and initialised as `init` says.

    A `logistic` network tells two classes apart by one output (see `two_logits`). Raises UserError where the
    arguments make no network, or where a layer cannot take what reaches it, such as a map smaller than its
    kernel.
    """
    if logistic and num_classes != 2:
        raise UserError(
            f"loss.name = bce: one logistic output tells two classes apart, not {num_classes}"
        )
    if init is not None and arguments.get("pretrained"):
        raise UserError(
            "model.init would replace the weights that model.pretrained = true asks for"
        )
    network = find_network(name)
    try:
        model = network(image_shape, 1 if logistic else num_classes, **arguments)
        if logistic:
            model.register_forward_hook(two_logits)
        _, logits = trace(model, image_shape)
    except LayerError as error:
        message = f"model {name} cannot take {by(image_shape)} images: {error}"
        size = smallest_size(network, image_shape, num_classes, arguments)
        if size:
            message += f"; the smallest size that works is {size}x{size}"
        raise UserError(message) from None
    except UserError:
        raise
    except BUILD_ERRORS as error:
        raise UserError(f"model {name}: {error}") from None
    if logits.shape != (1, num_classes):
        raise UserError(
            f"model {name} returns {by(logits.shape)} for an image, not 1x{num_classes} logits"
        )
    if init is not None:
        initialise(model, image_shape, **init)
    return model


def two_logits(network: nn.Module, images: Any, outputs: Any) -> Any:
    """A hook that gives one output z (B, 1) as the logits (0, z) of two classes (B, 2).

    Their softmax is (1 - s, s) with the logistic function s of z, and the larger one is the second where
    z > 0: whatever uses logits works as it is.
    """
    if isinstance(outputs, Tensor):
        return torch.cat([torch.zeros_like(outputs), outputs], 1)
    logits, *auxiliary = outputs
    return two_logits(network, images, logits), *(
        (weight, two_logits(network, images, extra)) for weight, extra in auxiliary
    )


def smallest_size(
    network: Callable[..., nn.Module],
    image_shape: ImageShape,
    num_classes: int,
    arguments: dict[str, Any],
) -> int | None:
    """The side of the smallest square image, larger than `image_shape`, that the network can take."""
    if "pretrained" in arguments:  # sizes need no weights
        arguments = arguments | {"pretrained": False}

    def takes(size: int, device: str) -> bool:
        shape = (image_shape[0], size, size)
        try:
            with torch.device(device):
                trace(network(shape, num_classes, **arguments), shape)
        except BUILD_ERRORS:  # a LayerError is a ValueError
            return False
        return True

    # sizes without numbers, which miss some errors; where a large image does not help, no size will
    sizes = range(min(image_shape[1:]) + 1, 513) if takes(512, "meta") else range(0)
    size = next((size for size in sizes if takes(size, "meta")), None)
    return size if size is not None and takes(size, "cpu") else None


def main() -> None:
    parser = ArgumentParser("model.py", description="Print the layer table of a config's network.")
    parser.add_argument(
        "--config", default="digits.yaml", metavar="FILE", help="default: digits.yaml"
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="change any key of the config"
    )
    args = parser.parse_intermixed_args()

    from configure import load_config
    from dataset import class_names, image_shape

    config = load_config(args.config, args.overrides)
    shape, classes = image_shape(config.data), len(class_names(config.data))
    arguments = {"logistic": config.loss.logistic} | config.model.arguments()
    model = build_model(config.model.name, shape, classes, **arguments)
    print(layer_table(model, shape))
    print(
        "F, S, P, G: side of the window (with a dilation from its first pixel to its last), stride, padding,"
    )
    print("groups; multiply-accumulates are those of convolutions and linear layers")


if __name__ == "__main__":
    sys.exit(exit_code(main))
