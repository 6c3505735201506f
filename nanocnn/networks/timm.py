"""The classifiers of timm, fitted to the images and classes at hand; an extra, `photos`."""

from typing import Any

from torch import Tensor

from nanocnn.config.preprocessing import Interpolation, Preprocessing
from nanocnn.networks.pretrained import PHOTOS, Published, Weights, begin_with
from nanocnn.networks.sizes import ImageShape
from nanocnn.networks.torchvision import fit_stem
from nanocnn.system.errors import UserError, did_you_mean


def import_timm() -> Any:
    """The package, which takes two seconds. Raises UserError where it is not installed."""
    try:
        import timm
    except ImportError:
        raise UserError(f"model.name = timm.NAME needs the package timm: {PHOTOS}") from None
    return timm


class Timm(Published):
    """Any classifier of timm, its first convolution and its last layer fitted to the data.

    `pretrained` takes the weights that timm has under this name.
    """

    def __init__(
        self, image_shape: ImageShape, num_classes: int, architecture: str, pretrained: bool = False
    ):
        super().__init__()
        timm = import_timm()
        sizes: dict[str, Any] = {}
        if timm.get_pretrained_cfg(architecture).fixed_input_size:
            sizes["img_size"] = image_shape[1:]
        network = timm.create_model(architecture, **sizes)
        fit_stem(network, image_shape[0])
        network.reset_classifier(num_classes)
        head = network.get_classifier()
        self.heads = [name for name, layer in network.named_modules() if layer is head]
        self.network = network
        if pretrained:
            begin_with(self, published(architecture), image_shape)

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images)


def check_name(architecture: str) -> None:
    """Raises UserError for what timm has no classifier of."""
    timm = import_timm()
    name, _, tag = architecture.partition(".")
    if not timm.is_model(name):
        known = timm.list_models(f"{name[:4]}*") or timm.list_models("resnet*")
        raise UserError(f"model.name = timm.{architecture} is unknown{did_you_mean(name, known)}")
    if tag and tag not in tags_of(name):
        raise UserError(
            f"model.name = timm.{architecture} is unknown{did_you_mean(tag, tags_of(name))}"
        )


def tags_of(name: str) -> list[str]:
    """What timm calls the weights that it has for a network."""
    return [each.partition(".")[2] for each in import_timm().list_pretrained(f"{name}.*")]


def preprocessing(architecture: str, source: str) -> Preprocessing:
    """What timm's weights of this name expect."""
    expected = import_timm().get_pretrained_cfg(architecture)
    interpolation: Interpolation = "bicubic" if expected.interpolation == "bicubic" else "bilinear"
    return Preprocessing(
        source, [*expected.mean], [*expected.std], interpolation, float(expected.crop_pct)
    )


def name_with(architecture: str, tag: str | None) -> str:
    """timm's name of a network with the weights that it calls `tag`, by default its own."""
    return f"{architecture.partition('.')[0]}.{tag}" if tag else architecture


def published(architecture: str, tag: str | None = None) -> Weights:
    """The weights of that name, fetched from the hub where they are not here yet."""
    timm = import_timm()
    name, tags = name_with(architecture, tag), tags_of(architecture.partition(".")[0])
    if not tags or (tag and tag not in tags):
        what = f"weights = {tag}: neither a file, a run folder nor" if tag else "pretrained:"
        raise UserError(
            f"model.{what} weights that timm has for {architecture}{did_you_mean(tag or '', tags)}"
        )
    expected = timm.get_pretrained_cfg(name)
    try:
        network = timm.create_model(name, pretrained=True)
    except Exception as error:  # noqa: BLE001  whatever the hub's client stumbles on
        url = expected.url
        if expected.hf_hub_id:
            url = f"https://huggingface.co/{expected.hf_hub_id}/resolve/main/model.safetensors"
        raise UserError(
            f"the weights of timm.{name} could not be downloaded ({type(error).__name__}): fetch "
            f"{url} where there is a network, and type model.weights=FILE"
        ) from None
    source = f"timm's {expected.architecture}.{expected.tag}".removesuffix(".")
    return Weights(network.state_dict(), preprocessing(name, source))
