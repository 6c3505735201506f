"""The classifiers of torchvision, fitted to the images and classes at hand."""

import sys
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from nanocnn.config.preprocessing import Preprocessing
from nanocnn.networks.pretrained import Published, Weights, begin_with
from nanocnn.networks.sizes import ImageShape
from nanocnn.system.errors import UserError, did_you_mean


class Torchvision(Published):
    """Any classifier of torchvision, its first convolution and its last layers fitted to the data.

    `pretrained` takes torchvision's weights for ImageNet; what has to be fitted starts anew, but
    for the first convolution on grey images, which takes the sum over its colours.
    """

    def __init__(
        self, image_shape: ImageShape, num_classes: int, architecture: str, pretrained: bool = False
    ):
        super().__init__()
        import torchvision  # takes a second

        sizes: dict[str, Any] = {}
        if architecture.startswith("vit_"):
            height, width = image_shape[1:]
            if height != width:
                raise UserError(
                    f"model.name = torchvision.{architecture} takes square images, these are "
                    f"{height}x{width}: type data.image_size={min(height, width)}"
                )
            sizes["image_size"] = height
        elif architecture.startswith("maxvit"):
            sizes["input_size"] = image_shape[1:]
        self.network = torchvision.models.get_model(architecture, weights=None, **sizes)
        fit_stem(self.network, image_shape[0])
        self.heads = fit_heads(self.network, num_classes)
        if pretrained:
            begin_with(self, published(architecture), image_shape)

    def forward(self, images: Tensor) -> Tensor | tuple:
        outputs = self.network(images)
        if isinstance(outputs, Tensor):
            return outputs
        logits, *auxiliary = outputs  # GoogLeNet's and Inception's, in training
        return logits, *[(0.3, extra) for extra in auxiliary if extra is not None]


def fit_stem(network: nn.Module, channels: int) -> None:
    """Let the first convolution of a network for colours take images of so many channels.

    On grey ones it has the sum over the colours; it stays of its kind, which may pad on its own.
    """
    stem = next((layer for layer in network.modules() if isinstance(layer, nn.Conv2d)), None)
    if stem is None or channels == stem.in_channels:
        return
    stem.in_channels = channels
    stem.weight = nn.Parameter(stem.weight.data.sum(1, keepdim=True))


def fit_heads(network: nn.Module, num_classes: int) -> list[str]:
    """Replace each layer with the 1000 outputs of ImageNet; the names of them all."""
    heads = []
    for name, layer in list(network.named_modules()):
        if isinstance(layer, nn.Linear) and layer.out_features == 1000:
            network.set_submodule(name, nn.Linear(layer.in_features, num_classes))
            heads.append(name)
        elif isinstance(layer, nn.Conv2d) and layer.out_channels == 1000:
            network.set_submodule(name, nn.Conv2d(layer.in_channels, num_classes, kernel_size=1))
            heads.append(name)
    return heads


def preprocessing(architecture: str, source: str, sha256: str = "") -> Preprocessing:
    """What torchvision's weights of this network expect: those of a file with this checksum, whose
    begin torchvision's names of files have, else its default ones.
    """
    import torchvision

    known = list(torchvision.models.get_model_weights(architecture))
    default = torchvision.models.get_model_weights(architecture).DEFAULT
    member = next((w for w in known if sha256 and f"-{sha256[:8]}." in w.url), default)
    expected = member.transforms()
    is_bicubic = expected.interpolation.value == "bicubic"
    halves = [0.5] * 3  # what these two turn ImageNet's into, where torchvision builds them
    is_inception = architecture in ("googlenet", "inception_v3")
    return Preprocessing(
        source,
        halves if is_inception else list(expected.mean),
        halves if is_inception else list(expected.std),
        "bicubic" if is_bicubic else "bilinear",
        expected.crop_size[0] / expected.resize_size[0],
    )


def published(architecture: str, name: str = "DEFAULT") -> Weights:
    """torchvision's weights of that name, fetched where they are not here yet."""
    import torch

    member = member_called(architecture, name)
    try:
        tensors = member.get_state_dict(progress=sys.stderr.isatty(), check_hash=True)
    except (OSError, RuntimeError) as error:  # the latter of a checksum
        folder = Path(torch.hub.get_dir(), "checkpoints")
        raise UserError(
            f"the weights of {architecture} could not be downloaded ({error}): fetch {member.url} "
            f"where there is a network, and put it into {folder} or type model.weights=FILE"
        ) from None
    return Weights(tensors, expected_by(architecture, name))


def expected_by(architecture: str, name: str = "DEFAULT") -> Preprocessing:
    """What torchvision's weights of that name expect; nothing is fetched."""
    member = member_called(architecture, name)
    source = f"torchvision's {architecture} {member.name}"
    return preprocessing(architecture, source, member.url.rpartition("-")[2][:8])


def member_called(architecture: str, name: str) -> Any:
    """torchvision's entry of these weights. Raises UserError where it has none of that name."""
    import torchvision

    known = torchvision.models.get_model_weights(architecture)
    if name not in known.__members__:
        raise UserError(
            f"model.weights = {name}: neither a file, a run folder nor weights of "
            f"torchvision.{architecture}{did_you_mean(name, known.__members__)}"
        )
    return known[name]
