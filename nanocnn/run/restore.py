"""From a run folder or a checkpoint back to its network."""

from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from nanocnn.config.hints import checkpoint_option, run_folder_of
from nanocnn.config.load import config_from_dict
from nanocnn.config.schema import OWN_IMAGES, Config
from nanocnn.evaluation.evaluate import AverageFlips
from nanocnn.images.content import ORIGIN, TRAINED, read_hashes
from nanocnn.images.splits import DataInfo, Split, class_names, image_hashes, image_shape
from nanocnn.networks.build import Networks, build_network
from nanocnn.networks.fast_view import fast_view
from nanocnn.networks.rewrite import Folding, fold_batch_norm
from nanocnn.networks.weights import load_weights
from nanocnn.run.checkpoint import load_checkpoint
from nanocnn.system.errors import UserError


class Restored(NamedTuple):
    model: nn.Module  # trained: what the run's validation judged
    config: Config
    info: DataInfo  # what the network knows of its data: class names, normalisation, image shape
    checkpoint: dict[str, Any]
    path: Path  # of the file


def restore(path: Path | str, *, networks: Networks) -> Restored:
    """The network of a checkpoint, or of a run folder's best.pt, and what belongs to it.

    Raises UserError where there is none, or where `networks` cannot make it.
    """
    path = find_checkpoint(Path(path))
    checkpoint = load_checkpoint(path)
    config = parse_config(path, checkpoint, networks)
    info = parse_info(path, checkpoint, config)
    model = build_network(config, networks, info.image_shape, len(info.classes), trained=True)
    try:
        # what was validated
        load_weights(checkpoint.get("ema", {}) if config.train.ema else checkpoint["model"], model)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    return Restored(model, config, info, checkpoint, path)


def faster(
    model: nn.Module, info: DataInfo, fold: bool, average_flips: bool
) -> tuple[nn.Module, Folding]:
    """The same function of images, and what was folded for it."""
    folding = Folding(model, 0, exact=True)
    if fold:
        folding = fold_batch_norm(model, info.image_shape)
    fused = fast_view(folding.model, info.image_shape)
    return AverageFlips(fused) if average_flips else fused, folding


def temperature_of(checkpoint: dict[str, Any]) -> float | None:
    """That of its weights, of which there is none between two epochs."""
    return validation_of(checkpoint).get("temperature")


def validation_of(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """What the validation of its weights found; nothing between two epochs."""
    return (checkpoint["validation"] or {}) if checkpoint["partial"] is None else {}


def came_to(values: dict[str, Any]) -> str:
    """The precision of a run with a config of these `values`.

    Earlier versions kept `auto`, which on a processor meant bf16 with AMX alone.
    """
    precision = str(values.get("precision", "auto"))
    has_others = torch.cuda.is_available() or torch.cpu._is_amx_tile_supported()
    return "fp32" if precision == "auto" and not has_others else precision


def parse_config(path: Path, checkpoint: dict[str, Any], networks: Networks) -> Config:
    """The config of a checkpoint that was read from `path`."""
    values = checkpoint["config"]
    values = values | {"precision": came_to(values)}
    data = values.get("data")
    if isinstance(data, dict) and data.get("dataset") in OWN_IMAGES:
        earlier = {"background": "black", "shrink": False}  # of versions without these keys
        values = values | {"data": earlier | data}
    config = config_from_dict(values, networks, lambda key: f"{path}, its config")
    if checkpoint["epoch"] > config.train.epochs:
        raise UserError(
            f"{path}: its epoch {checkpoint['epoch']} is beyond the {config.train.epochs} of its "
            "config"
        )
    return config


def parse_info(path: Path, checkpoint: dict[str, Any], config: Config) -> DataInfo:
    """What a checkpoint that was read from `path` knows of the data of its `config`."""
    known = {field.name for field in fields(DataInfo)}
    info = DataInfo(**{key: value for key, value in checkpoint["data"].items() if key in known})
    if info.dataset != config.data.dataset:
        raise UserError(
            f"{path}: its data is of {info.dataset}, its config of {config.data.dataset}"
        )
    if info.dataset not in OWN_IMAGES:
        expected = class_names(config.data), image_shape(config.data)
        if (info.classes, info.image_shape) != expected:
            raise UserError(f"{path}: its data does not have the classes and sizes of its config")
    return info


def find_checkpoint(path: Path | None) -> Path:
    """The file meant by `path`: itself, a run folder's best.pt, or None: the newest in runs/."""
    if path is None:
        found = sorted(Path("runs").rglob("best.pt"), key=lambda file: file.stat().st_mtime)
        if not found:
            raise UserError("no run with a checkpoint under runs/; 'python train.py' makes one")
        return found[-1]
    try:
        if not path.exists():
            raise UserError(f"{path}: no such run folder or checkpoint")
    except OSError as error:  # such as a name that is too long
        raise UserError(f"{path}: {error.strerror}") from None
    run = run_folder_of(path)
    if path.is_file() and (path.suffix == ".pt" or not run):
        return path
    if path.is_file():
        instead = checkpoint_option(path)
        raise UserError(f"{path}: no checkpoint{'; type ' * bool(instead)}{instead}")
    if not (path / "best.pt").is_file():
        instead = checkpoint_option(path)
        raise UserError(f"{path}: this folder holds no best.pt{'; type ' * bool(instead)}{instead}")
    return path / "best.pt"


def find_checkpoints(path: Path | None) -> list[Path]:
    """The files to judge for `path`: one, or those of all runs that --seeds made together.

    None is the newest run in runs/, with its seeds if it is one of several.
    """
    if path is not None:
        return find_seeds(path) or [find_checkpoint(path)]
    newest = find_checkpoint(None)
    seeds = find_seeds(newest.parent.parent)
    return seeds if len(seeds) > 1 and newest in seeds else [newest]


def find_seeds(path: Path | None) -> list[Path]:
    """The checkpoints to judge of the runs in a folder that `train.py --seeds` made, else none."""
    if path is None or (path / "best.pt").exists():
        return []
    found = [file for file in path.glob("seed_*/best.pt") if file.parent.name[5:].isdecimal()]
    return sorted(found, key=lambda file: int(file.parent.name[5:]))


def trained_on(run_dir: Path, split: Split, info: DataInfo) -> int | None:
    """How many images of `split` the run, or one whose weights it began with, was trained on, as
    `info` says; None if it is not known.

    Raises UserError where the list of the training images is damaged.
    """
    path, origin = run_dir / TRAINED, run_dir / ORIGIN
    earlier = read_hashes(origin) if origin.exists() else []
    if not path.exists() or (origin.exists() and not earlier):
        return None
    training = read_hashes(path)
    if info.class_counts and len(training) != sum(info.class_counts):
        raise UserError(
            f"{path}: damaged: {len(training):,} hashes of {sum(info.class_counts):,} training "
            "images; without this file it is not told how many of the images were trained on"
        )
    known = {*training, *earlier}
    return sum(digest in known for digest in image_hashes(split))
