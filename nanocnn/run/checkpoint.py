"""Save and load checkpoints: tensors and plain Python values only, so that nobody's file runs
code.
"""

import io
import sys
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch

from nanocnn.run.progress import POSITION
from nanocnn.system.errors import UserError
from nanocnn.system.files import is_sealed, write_sealed

FORMAT = 3
KEYS = {"format", "model", "optimizer", *POSITION, "config", "data", "data_sha256"}


def save_checkpoint(path: Path, checkpoint: dict[str, Any]) -> None:
    """Write `checkpoint` to `path`; the file there before is kept as previous.pt if its name is
    last.pt.

    At every moment the names that were there stay there and hold a whole checkpoint. Raises
    OSError.
    """
    buffer = io.BytesIO()
    torch.save({"format": FORMAT} | checkpoint, buffer)
    previous = path.with_name("previous.pt") if path.name == "last.pt" else None
    write_sealed(path, buffer.getbuffer(), previous)


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
            f"{path}: damaged, or no checkpoint of this project: its content does not have the "
            "checksum at its end"
        )
    try:
        with zipfile.ZipFile(path) as archive:
            if any(file.compress_type != zipfile.ZIP_STORED for file in archive.infolist()):
                # torch.save compresses nothing: this could fill the memory
                raise zipfile.BadZipFile
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
    """The last checkpoint of a run and its file: where last.pt is damaged, previous.pt, and a word
    about it.
    """
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
