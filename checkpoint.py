"""Save, find and load checkpoints: tensors and plain Python values only, so that nobody's file runs code."""

import json
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import torch
from pydantic import TypeAdapter, ValidationError
from torch import nn

from config import Config
from configure import config_from_dict
from dataset import DataInfo
from errors import UserError
from model import build_model

FORMAT = 1
KEYS = {"format", "model", "optimizer", "epoch", "step", "validation", "config", "data"}


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to write, which takes the name `path` once it is whole and on disk: never half a file there."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: dict[str, Any]) -> None:
    with replacing(path) as file:
        file.write((json.dumps(value, indent=2) + "\n").encode())


def save_checkpoint(path: Path, checkpoint: dict[str, Any]) -> None:
    with replacing(path) as file:
        torch.save({"format": FORMAT} | checkpoint, file)


def find_checkpoint(path: Path | None) -> Path:
    """The file meant by `path`: itself, a run folder's best.pt, or with None that of the newest run in runs/."""
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
    if path.is_file():
        return path
    if not (path / "best.pt").is_file():
        raise UserError(f"{path}: this folder holds no best.pt")
    return path / "best.pt"


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint to the CPU, whatever device wrote it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickles: those are refused
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # noqa: BLE001  whatever torch's zip reader and unpickler stumble on
        raise UserError(
            f"{path}: no checkpoint of this project, or damaged: it cannot be read as tensors and plain values"
        ) from None
    if not isinstance(checkpoint, dict) or not checkpoint.keys() >= KEYS:
        raise UserError(
            f"{path}: no checkpoint of this project: it should hold {', '.join(sorted(KEYS))}"
        )
    if checkpoint["format"] != FORMAT:
        raise UserError(
            f"{path}: its format is {checkpoint['format']}, this version reads {FORMAT}"
        )
    return checkpoint


def restore(path: Path) -> tuple[dict[str, Any], Config, DataInfo, nn.Module]:
    """The checkpoint at `path`, its config, what it knows of its data, and its trained network.

    Raises UserError where this version of the project cannot make that network.
    """
    checkpoint = load_checkpoint(path)
    if not isinstance(checkpoint["config"], dict):
        raise UserError(f"{path}: its config should be a dict")
    config = config_from_dict(checkpoint["config"], lambda key: f"{path}, its config")
    try:
        info = TypeAdapter(DataInfo).validate_python(checkpoint["data"])
    except ValidationError as error:
        raise UserError(f"{path}: its data: {error}") from None
    shape, classes = info.image_shape, len(info.classes)
    arguments = config.model.arguments() | {"init": None}  # the weights are here
    if "pretrained" in arguments:
        arguments["pretrained"] = False
    model = build_model(config.model.name, shape, classes, **arguments)
    try:
        model.load_state_dict(checkpoint["model"])
    except (RuntimeError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path}: its weights do not fit the network {config.model.name} as model.py has it now: {error}"
        ) from None
    return checkpoint, config, info, model
