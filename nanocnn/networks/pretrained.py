"""Weights that a network begins with: read from a file, and given to the layers that they fit."""

import hashlib
import io
import re
import warnings
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from nanocnn.config.preprocessing import Preprocessing
from nanocnn.networks.sizes import ImageShape
from nanocnn.networks.table import size_text, trace
from nanocnn.networks.weights import check_tensor, load_weights
from nanocnn.system.errors import UserError
from nanocnn.system.files import read_file

NAMED = 3  # tensors that do not fit, in an error
WRAPPERS = ("state_dict", "model", "model_state_dict")  # under which training scripts save weights
POSITIONS = (
    "pos_embed",
    "relative_position",
    "rel_pos",
)  # in the names of what depends on the size
EFFICIENTNET_STRIDE = 32  # images of a multiple of it are padded alike by both


class Published(nn.Module):
    """A network of a library, with the names that it has there."""

    network: nn.Module
    heads: list[str]  # its layers that tell the classes apart


class Weights(NamedTuple):
    """Tensors by name, and what they were trained to expect."""

    tensors: Mapping[str, Tensor]
    preprocessing: Preprocessing
    of_run: bool = False  # of another run: layers that do not fit may begin anew

    @property
    def source(self) -> str:
        return self.preprocessing.weights


def read_weights(path: Path) -> tuple[dict[str, Tensor], str]:
    """The tensors in the file at `path`, by name, and its SHA-256.

    Raises UserError for what is no state dict of torch.save or safetensors; no code in it is run.
    """
    content = read_file(path)
    digest = hashlib.sha256(content).hexdigest()
    try:
        values = parse_safetensors(content) if path.suffix == ".safetensors" else parse(content)
    except UserError as error:
        raise UserError(f"model.weights = {path}: {error}") from None
    if isinstance(values, Mapping):
        values = next((values[key] for key in WRAPPERS if is_weights(values.get(key))), values)
    if not is_weights(values):
        raise UserError(
            f"model.weights = {path}: holds no weights; it should be a state dict, tensors by name"
        )
    if all(name.startswith("module.") for name in values):  # of DataParallel
        values = {name.removeprefix("module."): tensor for name, tensor in values.items()}
    return dict(values), digest


def parse(content: bytes) -> Any:
    try:
        if zipfile.is_zipfile(io.BytesIO(content)):
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                if any(file.compress_type != zipfile.ZIP_STORED for file in archive.infolist()):
                    raise zipfile.BadZipFile  # torch.save compresses nothing: it could fill memory
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickles: those are refused
            return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception:  # noqa: BLE001  whatever torch's reader stumbles on
        raise UserError(
            "damaged, or not of tensors alone, so that it could run code; it should be a "
            "state_dict() that torch.save wrote"
        ) from None


def parse_safetensors(content: bytes) -> Any:
    try:
        from safetensors.torch import load
    except ImportError:
        raise UserError(f"needs the package safetensors: {PHOTOS}") from None
    try:
        return load(content)
    except Exception:  # noqa: BLE001  whatever its reader stumbles on
        raise UserError("damaged, or no file of safetensors") from None


PHOTOS = 'pip install "nanocnn[photos]", or pip install -e ".[photos]" in a clone'


def is_weights(values: Any) -> bool:
    return (
        isinstance(values, Mapping)
        and bool(values)
        and all(isinstance(name, str) for name in values)
        and all(isinstance(value, Tensor) for value in values.values())
    )


def begin_with(model: nn.Module, weights: Weights, image_shape: ImageShape) -> list[str]:
    """Give `model`, for images (C, H, W), all `weights` but those of its last layer.

    A first convolution on grey images takes the sum over the colours. Returns the layers that have
    none of them. Raises UserError where a file does not fit in everything else, or nothing of a
    run does.
    """
    target, heads = model, output_layers(model, image_shape)
    if isinstance(model, Published) and not weights.of_run:  # files have the library's names
        target, heads = model.network, model.heads
    own = target.state_dict()
    tensors = in_timms_names(weights, own, image_shape)
    stem = next((n for n, layer in target.named_modules() if isinstance(layer, nn.Conv2d)), None)
    if f"{stem}.weight" in tensors:
        first = tensors[f"{stem}.weight"]
        if first.ndim == 4 and first.shape[1] == 3 and own[f"{stem}.weight"].shape[1] == 1:
            tensors[f"{stem}.weight"] = first.sum(1, keepdim=True)

    def is_of_head(name: str) -> bool:
        return any(name.startswith(f"{head}.") for head in heads)

    body = {name: tensor for name, tensor in tensors.items() if not is_of_head(name)}
    fits = {n: t for n, t in body.items() if n in own and t.shape == own[n].shape}
    lacking = [
        name
        for name in own
        if name not in fits and not is_of_head(name) and not name.endswith("num_batches_tracked")
    ]
    if not weights.of_run:
        refuse_misfits(weights.source, body, own, lacking)
    elif not any(tensor.ndim > 1 for tensor in fits.values()):
        raise UserError(f"{weights.source}: no layer of it fits this network")
    for name, tensor in fits.items():
        if tensor.is_floating_point() and own[name].is_floating_point():
            fits[name] = tensor.to(own[name].dtype)
        check_tensor(fits[name], own[name], f"{weights.source}: {name}")
    load_weights(own | fits, target)
    return list(dict.fromkeys([*layers_of(lacking), *heads]))


def refuse_misfits(
    source: str, body: Mapping[str, Tensor], own: Mapping[str, Tensor], lacking: Iterable[str]
) -> None:
    """Raises UserError unless `body` has the tensors of `own`, in their shapes."""
    problems = [f"{name}, which the network has not" for name in body if name not in own]
    problems += [
        f"{name} of {size_text(body[name].shape)}, not {size_text(own[name].shape)}"
        if name in body
        else f"no {name}"
        for name in [*lacking, *(n for n in body if n in own and body[n].shape != own[n].shape)]
    ]
    if problems := list(dict.fromkeys(problems)):
        more = f" and {len(problems) - NAMED:,} more" if len(problems) > NAMED else ""
        text = (
            f"{source}: not weights of this network: it holds {', '.join(problems[:NAMED])}{more}"
        )
        if all(any(part in problem for part in POSITIONS) for problem in problems):
            text += (
                "; positions are learnt for one size of images: set data.image_size to the one "
                "that these weights were trained at, such as 224"
            )
        raise UserError(text)


def layers_of(names: Iterable[str]) -> list[str]:
    return [name.rpartition(".")[0] for name in names]


def output_layers(model: nn.Module, image_shape: ImageShape) -> list[str]:
    """The names of the layers that tell the classes apart; of auxiliary heads only a published
    network's are known.
    """
    if isinstance(model, Published):
        return [f"network.{name}" for name in model.heads]
    return [last_layer(model, image_shape)]


def last_layer(model: nn.Module, image_shape: ImageShape) -> str:
    """The name of the last convolution or linear layer that works on an image."""
    calls, _ = trace(model, image_shape)
    found = [call.name for call in calls if isinstance(call.layer, _ConvNd | nn.Linear)]
    return found[-1] if found else ""


def in_timms_names(
    weights: Weights, own: Mapping[str, Tensor], image_shape: ImageShape
) -> dict[str, Tensor]:
    """The tensors, with timm's names where they have those of efficientnet_pytorch.

    (L. Melas-Kyriazi, EfficientNet-PyTorch, 2019; efficientnet-lite-pytorch keeps them.) That
    network pads images as TensorFlow does for one size alone: raises UserError for sides at which
    timm's gives other logits.
    """
    tensors = dict(weights.tensors)
    if "_conv_stem.weight" not in tensors or "conv_stem.weight" not in own:
        return tensors
    if any(side % EFFICIENTNET_STRIDE for side in image_shape[1:]):
        down = max(1, min(image_shape[1:]) // EFFICIENTNET_STRIDE) * EFFICIENTNET_STRIDE
        raise UserError(
            f"{weights.source}: padded for images whose sides are multiples of "
            f"{EFFICIENTNET_STRIDE}, these are {size_text(image_shape[1:])}: type "
            f"data.image_size={down} or data.image_size={down + EFFICIENTNET_STRIDE}"
        )
    blocks = list(dict.fromkeys(m[1] for n in own if (m := re.match(r"(blocks\.\d+\.\d+)\.", n))))
    return {in_timms_name(name, tensors.keys(), blocks): t for name, t in tensors.items()}


def in_timms_name(name: str, names: Iterable[str], blocks: list[str]) -> str:
    """What timm calls the tensor that efficientnet_pytorch calls `name`."""
    block = re.match(r"_blocks\.(\d+)\.(.*)", name)
    if not block:
        outside = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head"}
        outside |= {"_bn1": "bn2", "_fc": "classifier"}
        layer, _, rest = name.partition(".")
        return f"{outside.get(layer, layer)}.{rest}"
    number, inner = int(block[1]), block[2]
    expands = f"_blocks.{number}._expand_conv.weight" in names
    inside = {"_depthwise_conv": "conv_dw", "_se_reduce": "se.conv_reduce"}
    inside |= {"_se_expand": "se.conv_expand"}
    if expands:
        inside |= {"_expand_conv": "conv_pw", "_bn0": "bn1", "_bn1": "bn2"}
        inside |= {"_project_conv": "conv_pwl", "_bn2": "bn3"}
    else:
        inside |= {"_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
    layer, _, rest = inner.partition(".")
    place = blocks[number] if number < len(blocks) else f"_blocks.{number}"
    return f"{place}.{inside.get(layer, layer)}.{rest}"


def say_anew(weights: Weights, anew: list[str]) -> None:
    """One line of what a network begins with, and how it expects images."""
    shown = ", ".join(anew[:NAMED]) + (f" and {len(anew) - NAMED:,} more" * (len(anew) > NAMED))
    expected = weights.preprocessing
    how = f"{expected.interpolation}, crop {expected.crop_fraction:.3g}"
    if expected.mean:
        mean, std = (" ".join(f"{v:.3g}" for v in each) for each in (expected.mean, expected.std))
        how = f"mean {mean}, standard deviation {std}, {how}"
    print(f"weights: {weights.source}; anew: {shown}; they expect {how}")
