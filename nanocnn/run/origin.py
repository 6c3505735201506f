"""What a run begins from: weights of a file, of another run, or published ones."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nanocnn.config.preprocessing import Preprocessing
from nanocnn.config.schema import OWN_IMAGES, Config
from nanocnn.images.content import ORIGIN, TRAINED, read_hashes, write_hashes
from nanocnn.images.listing import check_there
from nanocnn.images.report import keep_data_report
from nanocnn.images.splits import DataInfo
from nanocnn.images.training_data import TrainingData
from nanocnn.networks import timm, torchvision
from nanocnn.networks.pretrained import Weights, read_weights
from nanocnn.run.checkpoint import load_checkpoint
from nanocnn.run.restore import find_checkpoint
from nanocnn.system.errors import UserError
from nanocnn.system.files import is_sealed


def first_weights(
    config: Config, checkpoint: dict[str, Any] | None
) -> tuple[Weights | None, Preprocessing | None]:
    """The weights that a run begins with, and how they expect images to be prepared.

    A run that goes on from its `checkpoint` needs them no more, and prepares images as before.
    """
    if checkpoint:
        return None, Preprocessing.of_run(checkpoint["data"])
    if config.data.dataset in OWN_IMAGES:
        check_there(config.data)  # before weights are fetched for images that are not there
    weights = find_weights(config)
    return weights, weights.preprocessing if weights else None


def find_weights(config: Config) -> Weights | None:
    """The weights that `config.model` asks for, None where it begins anew.

    `weights` is a file, a run folder or a name of published ones, looked for in this order;
    `pretrained` means torchvision's or timm's default. Raises UserError where there are none.
    """
    typed = getattr(config.model, "weights", None)
    family, _, architecture = config.model.name.partition(".")
    if not typed:
        if not getattr(config.model, "pretrained", False):
            return None
        if family not in ("timm", "torchvision"):
            return None  # a key of the user's own network
        return (timm if family == "timm" else torchvision).published(architecture)
    path = Path(typed).expanduser()
    if is_run(path):
        return weights_of_run(path)
    if path.exists():
        tensors, digest = read_weights(path)
        source = f"{path} (sha256 {digest})"
        expected = Preprocessing(source, [], [])
        if family == "timm":
            expected = timm.preprocessing(architecture, source)
        elif family == "torchvision":
            expected = torchvision.preprocessing(architecture, source, digest)
        return Weights(tensors, expected)
    if family == "timm" and len(path.parts) == 1:
        return timm.published(architecture, typed)
    if family == "torchvision" and len(path.parts) == 1:
        return torchvision.published(architecture, typed)
    raise UserError(f"model.weights = {typed}: no such file or run folder")


def expected_preprocessing(config: Config) -> Preprocessing | None:
    """How the weights of `config.model` expect images; none is fetched for it."""
    typed = getattr(config.model, "weights", None)
    family, _, architecture = config.model.name.partition(".")
    is_published = family in ("timm", "torchvision") and not (typed and Path(typed).exists())
    if not is_published or not (typed or getattr(config.model, "pretrained", False)):
        weights = find_weights(config)
        return weights.preprocessing if weights else None
    if family == "timm":
        return timm.preprocessing(timm.name_with(architecture, typed), "")
    return torchvision.expected_by(architecture, typed or "DEFAULT")


def is_run(path: Path) -> bool:
    return path.is_dir() or (path.is_file() and is_sealed(path))


def checkpoint_of_run(path: Path) -> tuple[Path, dict[str, Any]]:
    try:
        file = find_checkpoint(path)
        return file, load_checkpoint(file)
    except UserError as error:
        raise UserError(f"model.weights: {error}") from None


def weights_of_run(path: Path) -> Weights:
    """What another run has learned, as its validation judged it, and how it saw its images."""
    file, checkpoint = checkpoint_of_run(path)
    data, options = checkpoint["data"], checkpoint["config"].get("train")
    is_mean = isinstance(options, dict) and options.get("ema")
    expected = Preprocessing(
        f"{file}, epoch {checkpoint['epoch']}",
        data["mean"],
        data["std"],
        data.get("interpolation", "bilinear"),
        data.get("crop_fraction", 1.0),
    )
    return Weights(checkpoint["ema" if is_mean else "model"], expected, of_run=True)


def keep_data(run_dir: Path, config: Config, data: TrainingData, is_new: bool) -> None:
    """Write what test.py has to know of training images, and of those of the first weights."""
    keep_data_report(run_dir, data.splits, data.hashes)
    if is_new:
        keep_origin(run_dir, config, data.info)


def keep_origin(run_dir: Path, config: Config, info: DataInfo) -> None:
    """Write the hashes of what another run, whose weights this one begins with, was trained on.

    They are those of its own images, and of what it began with in turn. An empty file says that
    they are not known: its images were prepared otherwise, or it has no list of them.
    """
    typed = getattr(config.model, "weights", None)
    path = Path(typed or "").expanduser()
    if not typed or not is_run(path):
        return
    file, checkpoint = checkpoint_of_run(path)
    before, options = checkpoint["data"], checkpoint["config"]["data"]
    lists = [file.with_name(name) for name in (TRAINED, ORIGIN)]
    there = [each for each in lists if each.is_file()]
    if lists[0] in there and seen_as(before, options) == seen_as(vars(info), dict(config.data)):
        found = [read_hashes(each) for each in there]
        digests = [digest for some in found for digest in some] if all(found) else []
    elif {info.dataset, before["dataset"]} <= set(OWN_IMAGES):
        digests = []
    else:
        return  # their test splits have nothing in common with any training images
    write_hashes(run_dir / ORIGIN, digests)
    if not digests:
        print(
            f"warning: {file}: its training images were prepared otherwise, or it has no list of "
            "them: test.py cannot tell whether test images are among them",
            file=sys.stderr,
        )


def seen_as(data: Mapping[str, Any], options: Mapping[str, Any]) -> list[Any]:
    """All that the pixels of an image depend on, besides its file."""
    defaults = {"background": "black", "interpolation": "bilinear", "crop_fraction": 1.0}
    defaults |= {"shrink": False}
    found: list[Any] = [list(data["image_shape"])]
    found += [data.get(key, default) for key, default in defaults.items()]
    value_range = options.get("value_range")
    return [*found, options.get("resize", "stretch"), value_range and list(value_range)]
