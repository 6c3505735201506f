"""Whether the best checkpoint of a run that goes on is still there."""

import os
import sys
from itertools import count
from pathlib import Path
from typing import Any

from nanocnn.run.checkpoint import load_checkpoint
from nanocnn.system.errors import UserError
from nanocnn.system.output import in_shell


def check_best(path: Path, checkpoint: dict[str, Any], epochs: int) -> dict[str, Any]:
    """The `checkpoint` of a run of `epochs` in all, without its best epoch where best.pt is lost.

    Then the best of the epochs to come is kept. Raises UserError where none is to come, or where
    the last one is the best one and there to be copied from `path`, its file.
    """
    best = path.with_name("best.pt")
    if checkpoint["best_epoch"] == 0 and not checkpoint.get("head"):
        return checkpoint
    try:
        found = load_checkpoint(best)["epoch"]
        if found >= checkpoint["best_epoch"]:
            return checkpoint
        problem = f"{best}: holds epoch {found}, not {checkpoint['best_epoch']}, the best one"
    except UserError as error:
        problem = str(error)
    if checkpoint["best_epoch"] == checkpoint["epoch"] and checkpoint["partial"] is None:
        aside = ""
        if best.is_symlink() or (best.exists() and not best.is_file()):  # cp would write into it
            aside = f"mv {in_shell(best)} {in_shell(unused(best))} && "
        copy = f"{aside}cp {in_shell(path)} {in_shell(best)}"
        raise UserError(f"{problem}; the last epoch was the best one; type {copy}")
    if checkpoint["epoch"] >= epochs:
        raise UserError(
            f"{problem}; {path} holds epoch {checkpoint['epoch']}, the last one, which python "
            f"test.py --ckpt {in_shell(path)} judges"
        )
    print(f"warning: {problem}; the best of the epochs to come is kept instead", file=sys.stderr)
    return checkpoint | {"best_epoch": checkpoint["epoch"], "best_score": (-1.0, 0.0)}


def unused(path: Path) -> Path:
    """A name beside `path` that nothing has."""
    names = (path.with_name(f"{path.name}.old{n or ''}") for n in count())
    return next(name for name in names if not os.path.lexists(name))
