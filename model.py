"""The network you change. To add one: a class here, and its line in MODELS.

python model.py --config mnist.yaml      # the layer table: sizes, parameters, multiply-accumulates

A network is built from the image shape (channels, height, width) and the number of classes, which
come from the data, and then the keys that `model:` in the config may set. It takes images (B, C, H,
W) and returns logits (B, classes). In training it may return (logits, (weight, logits), ...), the
further ones of auxiliary heads whose losses are added with that weight. `nn.LazyLinear` takes its
input size from the first image.
"""

if __name__ == "__main__":
    from nanocnn.system.signals import exit_on_signal

    exit_on_signal()  # the imports below take their time

import sys
from collections.abc import Callable, Sequence

from torch import Tensor, nn

from nanocnn.networks.sizes import ImageShape
from nanocnn.networks.zoo import ZOO


class LeNet(nn.Module):
    """LeCun's pattern of 1998 with batch normalisation, ReLU and max pooling.

    Two blocks of convolution, normalisation, activation and pooling find features, three linear
    layers tell the classes apart: 1,425,139 parameters on images of 1x28x28. A convolution before a
    batch normalisation has no bias: the mean subtraction would remove it.
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


MODELS: dict[str, Callable[..., nn.Module]] = {
    "lenet": LeNet,
    # convnet, mlp, lenet5, alexnet, zfnet, vgg11, vgg13, vgg16, googlenet, resnet18, airbench
    **ZOO,
}


def main(arguments: Sequence[str]) -> None:
    from nanocnn.commands import layers

    layers.main(arguments, MODELS)


if __name__ == "__main__":
    from nanocnn.system.errors import exit_code

    sys.exit(exit_code(lambda: main(sys.argv[1:])))
