"""The networks that the field went through, by name: what model.py adds its own to."""

from collections.abc import Callable
from functools import partial

from torch import nn

from nanocnn.networks.airbench import Airbench
from nanocnn.networks.convnet import ConvNet, alexnet, lenet5, mlp, vgg, zfnet
from nanocnn.networks.googlenet import GoogLeNet
from nanocnn.networks.resnet import ResNet18

ZOO: dict[str, Callable[..., nn.Module]] = {
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
