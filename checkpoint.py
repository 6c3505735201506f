"""Save, find and load checkpoints: tensors and plain Python values only, so that nobody's file runs code."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import torch

from errors import UserError

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
    if not path.exists():
        raise UserError(f"{path}: no such run folder or checkpoint")
    if path.is_file():
        return path
    if not (path / "best.pt").is_file():
        raise UserError(f"{path}: this folder holds no best.pt")
    return path / "best.pt"


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint to the CPU, whatever device wrote it."""
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # noqa: BLE001  whatever torch's zip reader and unpickler stumble on
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise UserError(f"{path}: not a checkpoint of this project, or damaged: {reason}") from None
    if not isinstance(checkpoint, dict) or not checkpoint.keys() >= KEYS:
        raise UserError(
            f"{path}: not a checkpoint of this project: it should hold {', '.join(sorted(KEYS))}"
        )
    if checkpoint["format"] != FORMAT:
        raise UserError(
            f"{path}: its format is {checkpoint['format']}, this version reads {FORMAT}"
        )
    return checkpoint
