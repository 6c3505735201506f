"""Where data.root has its splits, and what to do where it has them somewhere else."""

import os
import re
import shlex
from pathlib import Path

from nanocnn.config.schema import Data
from nanocnn.system.errors import UserError

# what others call the splits, in small letters
OTHER_NAMES = {
    "train": ("training",),
    "val": ("valid", "validation", "validate", "dev", "eval", "evaluation", "holdout"),
    "test": ("testing",),
}
NAMED = 3  # folders that a message names


def has_split(data: Data, split: str) -> bool:
    """Raises UserError where it is there under another name."""
    refuse_misnamed(data, split)
    return place(data, split).exists()


def place(data: Data, split: str) -> Path:
    """Where data.root lists the images of `split`."""
    return Path(data.root) / (split if data.dataset == "folder" else f"{split}.csv")


def refuse_misnamed(data: Data, split: str) -> None:
    """Raises UserError where `split` is not there, but under a name that others give it.

    It would not be read, without a word.
    """
    right = place(data, split)
    if right.exists() or not right.parent.is_dir():
        return
    names = {f"{name}{right.suffix}" for name in (split, *OTHER_NAMES[split])}
    for path in visible(right.parent):
        if path.name.casefold() in names:
            raise UserError(
                f"{path}: would not be read: {split} images belong in {right.name}; "
                f"rename it: mv {shlex.quote(str(path))} {shlex.quote(str(right))}"
            )


def refuse_missing(data: Data, split: str, option: str) -> None:
    """Raises UserError where `split` is not there; `option` says what data.root is set with."""
    where = place(data, split)
    if data.dataset == "folder" and not where.is_dir():
        what = f"no such folder; data.dataset = folder reads {where}/<class>/*"
    elif data.dataset == "csv" and not where.is_file():
        what = "no such file; data.dataset = csv reads lines of path,label there"
    else:
        return
    raise UserError(f"{where}: {what}{remedy(data, split, option)}")


def remedy(data: Data, split: str, option: str) -> str:
    """The end of a message that `split` is not there: what is, and how to have it read."""
    root = Path(data.root)
    if not root.is_dir():
        if root.exists():
            return f"; {root} is a file"
        here = "" if root.is_absolute() else f" in {Path.cwd()}, where a relative data.root begins"
        return f"; {root} does not exist{here}"
    dataset = "csv" if data.dataset == "folder" else "folder"
    listed = place(data.model_copy(update={"dataset": dataset}), split)
    if listed.exists():
        return f"; there is {listed}, which data.dataset={dataset} reads"
    folders = [path for path in visible(root) if path.is_dir()]
    parent = root.parent if root.parent != root else root.absolute().parent
    for other in (parent, *folders):  # one level too deep, or too high
        if os.path.exists(place(data.model_copy(update={"root": str(other)}), split)):
            return f"; {other} has it: {option}{shlex.quote(str(other))}"
    if folders and data.dataset == "folder":
        named = ", ".join(path.name for path in folders[:NAMED])
        more = " and others" if len(folders) > NAMED else ""
        return f"; if {named}{more} are the classes, move these folders into {place(data, split)}"
    return ""


def visible(folder: Path) -> list[Path]:
    entries = [path for path in folder.iterdir() if not path.name.startswith(".")]
    return sorted(entries, key=lambda path: natural(path.name))


def natural(name: str) -> tuple[str, str]:
    """A sorting key by which 2 comes before 10."""
    return re.sub(r"\d+", lambda digits: digits[0].zfill(20), name), name
