"""From the name of a network to the network itself, sized by the images and tried on one."""

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from nanocnn.config.schema import Config
from nanocnn.networks.initialisation import initialise
from nanocnn.networks.pretrained import Weights, begin_with, say_anew
from nanocnn.networks.sizes import ImageShape
from nanocnn.networks.table import LayerError, size_text, trace
from nanocnn.system.errors import UserError, did_you_mean, place_in_model_file

# what torch raises where a constructor got arguments that make no layer
BUILD_ERRORS = (ValueError, RuntimeError, AssertionError, IndexError, ZeroDivisionError)


class Networks:
    """The networks that a config can name: those of a MODELS, torchvision.NAME and timm.NAME."""

    def __init__(self, models: Mapping[str, Callable[..., nn.Module]]):
        self.models = models

    def __eq__(self, other: object) -> bool:
        """Two catalogues of the same networks are one: a schema is made once for both."""
        return isinstance(other, Networks) and self.models == other.models

    def __hash__(self) -> int:
        return hash(tuple(self.models))

    @property
    def names(self) -> list[str]:
        return list(self.models)

    def find(self, name: str) -> Callable[..., nn.Module]:
        """What builds the network `name`. Raises UserError where there is none."""
        if name in self.models:
            return self.models[name]
        family, _, architecture = name.partition(".")
        if family == "timm":
            from nanocnn.networks.timm import Timm, check_name

            check_name(architecture)
            return partial(Timm, architecture=architecture)
        if family != "torchvision":
            raise UserError(f"model.name = {name} is unknown{did_you_mean(name, self.models)}")
        import torchvision

        from nanocnn.networks.torchvision import Torchvision

        known = torchvision.models.list_models(module=torchvision.models)
        if architecture not in known:
            raise UserError(f"model.name = {name} is unknown{did_you_mean(architecture, known)}")
        return partial(Torchvision, architecture=architecture)

    def keys(self, name: str) -> list[inspect.Parameter]:
        """The keys of a network: what its constructor takes after image_shape and num_classes."""
        network = self.find(name)
        fixed = network.keywords if isinstance(network, partial) else {}
        parameters = list(inspect.signature(network, eval_str=True).parameters.values())[2:]
        variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        return [each for each in parameters if each.name not in fixed and each.kind not in variadic]


def catalogue(models: Mapping[str, Callable[..., nn.Module]]) -> Networks:
    """The networks of `models`, as `load_config` and `restore` take them."""
    return Networks(models)


def build_network(
    config: Config,
    networks: Networks,
    image_shape: ImageShape,
    num_classes: int,
    trained: bool = False,
    weights: Weights | None = None,
) -> nn.Module:
    """The network of `config` on the CPU, in its first weights, or `trained`: in any.

    The weights are drawn from config.seed; torch's own generator stays as it was. Of `weights`,
    those that the config asks for, it then has all that fit. Raises UserError where the config
    describes no network for images (C, H, W) of so many classes, or they are of another one.
    """
    drawn = trained or weights is not None
    arguments = {"logistic": config.loss.logistic} | config.model.arguments(drawn)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(config.seed)
        model = build_model(networks, config.model.name, image_shape, num_classes, **arguments)
    if weights:
        say_anew(weights, begin_with(model, weights, image_shape))
    if config.train.channels_last is True and all(w.ndim != 4 for w in model.parameters()):
        raise UserError(
            f"train.channels_last: cannot act on {config.model.name}, which has no convolution"
        )
    return model


def build_model(
    networks: Networks,
    name: str,
    image_shape: ImageShape,
    num_classes: int,
    init: dict[str, Any] | None = None,
    logistic: bool = False,
    **arguments: Any,
) -> nn.Module:
    """The network `name`, sized by the data, tried on a blank image, initialised by `init`.

    A `logistic` network tells two classes apart by one output (see `two_logits`). Raises UserError
    where the arguments make no network, or where a layer cannot take what reaches it, such as a map
    smaller than its kernel.
    """
    if logistic and num_classes != 2:
        raise UserError(
            f"loss.name = bce: one logistic output tells two classes apart, not {num_classes}"
        )
    if init is not None and arguments.get("pretrained"):
        raise UserError(
            "model.init would replace the weights that model.pretrained = true asks for"
        )
    network = networks.find(name)
    try:
        model = network(image_shape, 1 if logistic else num_classes, **arguments)
        if logistic:
            model.register_forward_hook(two_logits)
        _, logits = trace(model, image_shape)
    except LayerError as error:
        message = f"model {name} cannot take {size_text(image_shape)} images: {error}"
        size = smallest_size(network, image_shape, num_classes, arguments)
        if size:
            message += f"; the smallest size that works is {size}x{size}"
        raise UserError(message) from None
    except UserError:
        raise
    except BUILD_ERRORS as error:
        place, said = place_in_model_file(error), " ".join(str(error).split())
        raise UserError(f"{place and f'{place}: '}model {name}: {said}") from None
    if logits.shape != (1, num_classes):
        raise UserError(
            f"model {name} returns {size_text(logits.shape)} for an image, "
            f"not 1x{num_classes} logits"
        )
    if init is not None:
        initialise(model, image_shape, **init)
    return model


def two_logits(network: nn.Module, images: Any, outputs: Any) -> Any:
    """A hook that gives one output z (B, 1) as the logits (0, z) of two classes (B, 2).

    Their softmax is (1 - s, s) with the logistic function s of z, and the larger one is the second
    where z > 0: whatever uses logits works as it is.
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
    """The side of the smallest square image above `image_shape` that the network takes."""
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
