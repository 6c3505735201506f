"""Save and load checkpoints: tensors and plain values only, so that no file runs code."""

import io
import sys
import warnings
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from nanocnn.run.contents import FORMAT, Checkpoint, check_contents
from nanocnn.system.errors import UserError
from nanocnn.system.files import Sealed, is_sealed
from nanocnn.system.output import in_shell
from nanocnn.system.version import __version__

# What the keys of a config mean, raised whenever the same config trains otherwise than before.
# 1: version 0.1. 2: losses are summed and divided once by the weight of all images; Muon's AdamW.
# 3: the mean of the weights (train.ema) begins with a short memory; balanced class weights are of
# the images that train.overfit_batches leaves; validation images are carved from, and data.limit
# chooses of, those that data.skip_unreadable leaves
SEMANTICS = 3


def save_checkpoint(run_dir: Path, names: Sequence[str], checkpoint: dict[str, Any]) -> None:
    """Write `checkpoint` to each of `names` in the folder, in this order.

    The last.pt that is replaced is kept as previous.pt. At every moment the names that were there
    stay there and hold a whole checkpoint. The files share no bytes on disk: one bad block would
    else take them all. Raises OSError.
    """
    buffer = io.BytesIO()
    versions = {"format": FORMAT, "version": __version__, "semantics": SEMANTICS}
    torch.save(versions | checkpoint, buffer)
    content = Sealed(buffer.getbuffer())
    for name in names:
        previous = run_dir / "previous.pt" if name == "last.pt" else None
        content.write(run_dir / name, previous)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint to the CPU, whatever device wrote it.

    Raises UserError for a file that is damaged, even by a bit, or is no checkpoint of this project.
    """
    try:
        if not path.is_file():  # a pipe would be waited for
            raise UserError(f"{path}: {what_it_is(path)}")
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
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("format"), int):
        raise UserError(f"{path}: no checkpoint of this project: it should hold its format")
    if checkpoint["format"] != FORMAT:
        raise UserError(
            f"{path}: its format is {checkpoint['format']}, this version reads {FORMAT}"
        )
    try:
        check_contents(Checkpoint, checkpoint)
    except UserError as error:
        raise UserError(f"{path}: no checkpoint of this project: {error}") from None
    return checkpoint


def what_it_is(path: Path) -> str:
    """What stands in the place of a file that is none."""
    if path.is_dir():
        return "a folder, should be a checkpoint"
    if path.is_symlink():
        return "a link to nothing, should be a checkpoint"
    return "no file, should be a checkpoint" if path.exists() else "missing"


def load_newest(run_dir: Path) -> tuple[Path, dict[str, Any]]:
    """The last checkpoint of a run and its file; where last.pt is damaged, previous.pt."""
    files = [run_dir / name for name in ("last.pt", "previous.pt")]
    found = [path for path in files if path.exists()]
    if not found:
        raise UserError(
            f"{run_dir}: holds no checkpoint to resume from (last.pt); to begin anew there, type "
            f"--config {in_shell(run_dir / 'config.yaml')} --run-dir {in_shell(run_dir)} "
            "--resume auto"
        )
    problems = [] if files[0] in found else [f"{files[0]}: missing"]
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
