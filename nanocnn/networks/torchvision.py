"""The classifiers of torchvision, fitted to the images and classes at hand."""

from typing import Any

from torch import Tensor, nn

from nanocnn.networks.sizes import ImageShape
from nanocnn.system.errors import UserError


class Torchvision(nn.Module):
    """Any classifier of torchvision, its first convolution and its last layers fitted to the data.

    `pretrained` takes torchvision's weights for ImageNet; what has to be fitted starts anew, but
    for the first convolution on grey images, which takes the sum over its colours.
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
    """Replace the first convolution of a network for ImageNet, and each layer with its 1000
    outputs.
    """
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
