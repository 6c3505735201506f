"""Save, find and load checkpoints: tensors and plain Python values only, so that nobody's file runs code."""

import io
import sys
import time
import warnings
import zipfile
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn

from config import Config
from configure import config_from_dict
from dataset import DataInfo
from errors import UserError
from files import is_sealed, write_sealed
from network import build_network

FORMAT = 3


@dataclass
class Progress:
    """How far a run has come. (epoch, step) is its whole state besides model and optimizer."""

    epoch: int = 0  # epochs done, with their validation
    step: int = 0  # steps done
    partial: dict[str, Any] | None = (
        None  # the sums of an epoch begun (see Record), None between two
    )
    validation: dict[str, float | None] | None = None  # loss and accuracy of the last epoch
    val_losses: list[float] = field(default_factory=list)  # of all epochs done
    best_epoch: int = 0
    best_score: tuple[float, float] = (
        -1.0,
        0.0,
    )  # accuracy and, where that is a tie, minus the loss


POSITION = [each.name for each in fields(Progress)]
KEYS = {"format", "model", "optimizer", *POSITION, "config", "data", "data_sha256"}


def save_checkpoint(path: Path, checkpoint: dict[str, Any]) -> None:
    """Write `checkpoint` to `path`; the file there before is kept as previous.pt if its name is last.pt.

    At every moment the names that were there stay there and hold a whole checkpoint. Raises OSError.
    """
    buffer = io.BytesIO()
    torch.save({"format": FORMAT} | checkpoint, buffer)
    previous = path.with_name("previous.pt") if path.name == "last.pt" else None
    write_sealed(path, buffer.getbuffer(), previous)


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
        instead = f"; {path / 'last.pt'} is there" if (path / "last.pt").is_file() else ""
        raise UserError(f"{path}: this folder holds no best.pt{instead}")
    return path / "best.pt"


def find_seeds(path: Path | None) -> list[Path]:
    """The checkpoints to judge of the runs in `path`, if `train.py --seeds` made that folder; else none."""
    if path is None or (path / "best.pt").exists():
        return []
    found = [file for file in path.glob("seed_*/best.pt") if file.parent.name[5:].isdecimal()]
    return sorted(found, key=lambda file: int(file.parent.name[5:]))


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint to the CPU, whatever device wrote it.

    Raises UserError for a file that is damaged, even by a bit, or is no checkpoint of this project.
    """
    try:
        sealed = is_sealed(path)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    if not sealed:
        raise UserError(
            f"{path}: damaged, or no checkpoint of this project: its content does not have the checksum at its end"
        )
    try:
        with zipfile.ZipFile(path) as archive:
            if any(file.compress_type != zipfile.ZIP_STORED for file in archive.infolist()):
                raise zipfile.BadZipFile  # torch.save compresses nothing: this could fill the memory
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickles: those are refused
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # noqa: BLE001  whatever torch's zip reader and unpickler stumble on
        raise UserError(
            f"{path}: no checkpoint of this project: it cannot be read as tensors and plain values"
        ) from None
    if not isinstance(checkpoint, dict) or "format" not in checkpoint:
        raise UserError(f"{path}: no checkpoint of this project: it should hold its format")
    if checkpoint["format"] != FORMAT:
        raise UserError(
            f"{path}: its format is {checkpoint['format']}, this version reads {FORMAT}"
        )
    if missing := KEYS - checkpoint.keys():
        raise UserError(f"{path}: no checkpoint of this project: no {', '.join(sorted(missing))}")
    return checkpoint


def load_newest(run_dir: Path) -> tuple[Path, dict[str, Any]]:
    """The last checkpoint of a run and its file: where last.pt is damaged, previous.pt, and a word about it."""
    files = [run_dir / name for name in ("last.pt", "previous.pt")]
    found = [path for path in files if path.is_file()]
    if not found:
        raise UserError(f"{run_dir}: holds no checkpoint to resume from (last.pt)")
    problems: list[str] = []
    for path in found:
        try:
            checkpoint = load_checkpoint(path)
        except UserError as error:
            problems.append(str(error))
            continue
        for problem in problems:
            print(f"warning: {problem}; using {path}", file=sys.stderr)
        return path, checkpoint
    raise UserError("; ".join(problems))


class Due:
    """Whether it is time for a checkpoint, as train.checkpoint_every says."""

    def __init__(self, every: int | str | None):
        self.every = every
        self.last = time.monotonic()

    def __call__(self, step: int, epoch_is_over: bool = False) -> bool:
        if self.every is None:
            return epoch_is_over
        if isinstance(self.every, int):
            return step % self.every == 0
        now = time.monotonic()
        due = now - self.last >= float(self.every.removesuffix("s"))
        if due:
            self.last = now
        return due


def parse_config(path: Path, checkpoint: dict[str, Any]) -> Config:
    if not isinstance(checkpoint["config"], dict):
        raise UserError(f"{path}: its config should be a dict")
    return config_from_dict(checkpoint["config"], lambda key: f"{path}, its config")


def load_weights(weights: dict[str, Tensor], model: nn.Module) -> None:
    """Raises UserError where model.py no longer makes a network that the weights fit."""
    try:
        model.load_state_dict(weights)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise UserError(
            f"the checkpoint's weights do not fit the network as model.py has it now: {error}"
        ) from None


def load_state(checkpoint: dict[str, Any], parts: dict[str, Any], data_sha256: str) -> Progress:
    """Set each of `parts` (model, optimizer ...) to what it was, and say how far the run had come.

    Raises UserError where the images, or the networks and optimizers of this version, are others.
    """
    if checkpoint["data_sha256"] != data_sha256:
        raise UserError("the images are not those that the run began with: their checksum differs")
    try:
        for name, part in parts.items():
            if isinstance(part, nn.Module):
                load_weights(checkpoint[name], part)
            else:
                part.load_state_dict(checkpoint[name])
        return TypeAdapter(Progress).validate_python({key: checkpoint[key] for key in POSITION})
    except (ValidationError, ValueError, TypeError, KeyError, AttributeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"the checkpoint's state does not fit this version: {error}") from None


def restore(path: Path) -> tuple[dict[str, Any], Config, DataInfo, nn.Module]:
    """The checkpoint at `path`, its config, what it knows of its data, and its trained network.

    Raises UserError where this version of the project cannot make that network.
    """
    checkpoint = load_checkpoint(path)
    config = parse_config(path, checkpoint)
    try:
        info = TypeAdapter(DataInfo).validate_python(checkpoint["data"])
    except ValidationError as error:
        raise UserError(f"{path}: its data: {error}") from None
    model = build_network(config, info, trained=True)
    try:
        load_weights(checkpoint.get("ema", checkpoint["model"]), model)  # what was validated
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    return checkpoint, config, info, model
