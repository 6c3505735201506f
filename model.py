"""The networks. To add one: a class here, and its line in MODELS.

A network's constructor takes the image shape (channels, height, width) and the number of classes, which
come from the data, and then the keys that `model:` in the config may set. Its forward takes images
(B, C, H, W) and returns logits (B, classes). `nn.LazyLinear` takes its input size from the first image.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from errors import UserError

ImageShape = tuple[int, int, int]  # channels, height, width


class LeNet(nn.Module):
    """LeCun's pattern of 1998 with batch normalisation, ReLU and max pooling: 1,425,139 parameters on digits.

    A convolution before a batch normalisation has no bias: the mean subtraction would remove it.
    """

    def __init__(self, image_shape: ImageShape, num_classes: int):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(
                image_shape[0], 25, kernel_size=3, bias=False
            ),  # (B, 25, 26, 26) for 28x28 images
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
}


def build_model(
    name: str, image_shape: ImageShape, num_classes: int, **arguments: Any
) -> nn.Module:
    """The network `name`, sized by the data and tried on one blank image.

    Raises UserError where a layer cannot take what reaches it, such as a map smaller than its kernel.
    """
    model = MODELS[name](image_shape, num_classes, **arguments)
    entered: list[tuple[str, nn.Module, Tensor]] = []
    hooks = [
        layer.register_forward_pre_hook(
            lambda layer, inputs, layer_name=layer_name: entered.append(
                (layer_name, layer, inputs[0])
            )
        )
        for layer_name, layer in model.named_modules()
        if not any(layer.children())
    ]
    model.eval()  # the blank image must leave no trace in the batch normalisation
    try:
        with torch.no_grad():
            logits = model(torch.zeros(1, *image_shape))
    except RuntimeError as error:
        if not entered:
            raise
        layer_name, layer, images = entered[-1]
        raise UserError(
            f"model {name} cannot take {by(image_shape)} images: its layer {layer_name} = {layer} "
            f"got an input of {by(images.shape[1:])} ({error})"
        ) from None
    for hook in hooks:
        hook.remove()
    if logits.shape != (1, num_classes):
        raise UserError(
            f"model {name} returns {by(logits.shape[1:])} values an image, not {num_classes} logits"
        )
    return model.train()


def by(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))
