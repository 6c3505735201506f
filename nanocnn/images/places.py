"""Where data.root has its splits, and what to do where it has them somewhere else."""

import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from nanocnn.config.schema import Data
from nanocnn.images.names import nfc
from nanocnn.system.errors import UserError
from nanocnn.system.output import in_shell

# what people call the splits, in small letters
SPLIT_NAMES = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "validate", "dev", "eval", "evaluation"),
    "test": ("test", "testing"),
}
# what a file is called that may well be a picture; whether it is one, its content says
PICTURE_SUFFIXES = {
    *(".avif", ".bmp", ".gif", ".heic", ".heif", ".jp2", ".jpeg", ".jpg", ".png", ".tif", ".tiff"),
    ".webp",
}
NO_TEST = (
    "; where there is none, training with data.test=0.2 holds images of train out for it, and "
    "--split val judges those that the run was validated by"
)
NAMED = 3  # folders that a message names


def split_named(name: str) -> str | None:
    """The split that people call `name`, in whatever case; None where it is no such name."""
    word = name.casefold()
    return next((split for split, names in SPLIT_NAMES.items() if word in names), None)


def find_splits(data: Data) -> dict[str, Path]:
    """Where data.root lists the images of each split that it has.

    Of class folders without train/ that is data.root itself for "train". Raises UserError for two
    names of one split side by side.
    """
    root = Path(data.root)
    found = named_splits(root, data.dataset)
    if "train" not in found and data.dataset == "folder" and holds_classes(root):
        found["train"] = root
    return found


def named_splits(root: Path, dataset: str) -> dict[str, Path]:
    """The folders in `root`, or for "csv" the files, that have the name of a split."""
    found: dict[str, Path] = {}
    suffix = ".csv" if dataset == "csv" else ""
    for name in sorted(os.listdir(root)) if root.is_dir() else ():
        stem = name[: len(name) - len(suffix)]
        split = split_named(stem) if name[len(stem) :].casefold() == suffix else None
        path = root / name
        if split is None or path.is_dir() != (dataset == "folder"):
            continue
        if split in found:
            raise UserError(
                f"{found[split]} and {path}: both are names of the {split} split; put together "
                "what belongs together, or rename one of them"
            )
        found[split] = path
    return found


def holds_classes(root: Path) -> bool:
    """Whether the folders in `root` are the classes, for want of a train/ that holds them."""
    if not root.is_dir() or len(class_folders(root)) < 2 or named_splits(root, "csv").get("train"):
        return False
    whole = root.absolute()
    return not (split_named(whole.name) and "train" in named_splits(whole.parent, "folder"))


def class_folders(root: Path) -> list[Path]:
    """The folders in `root` that are no split, nor where the runs that are started there go."""
    folders = [path for path in visible(root) if path.is_dir() and not split_named(path.name)]
    return [path for path in folders if path.absolute() != Path.cwd() / "runs"]


def missing(data: Data, split: str, option: str) -> UserError:
    """What to say where `split` is not there; `option` says what data.root is set with."""
    if data.list is not None:
        return UserError(f"{Path(data.root, data.list)}: lists no {split} images{NO_TEST}")
    where, root = place(data, split), Path(data.root)
    if not root.exists():
        here = "" if root.is_absolute() else f" in {Path.cwd()}, where a relative data.root begins"
        key = "data.root = " * option.startswith("data.")
        return UserError(f"{key}{root}: no such folder{here}")
    if data.dataset == "folder":
        what = "a file, where a folder should be" if where.is_file() else "no such folder"
        what += f"; data.dataset = folder reads {where}/<class>/*"
    else:
        what = "no such file; data.dataset = csv reads lines of path,label there"
    return UserError(f"{where}: {what}{remedy(data, split, option)}")


def place(data: Data, split: str) -> Path:
    """Where data.root would list the images of `split` under the usual name."""
    return Path(data.root) / (split if data.dataset == "folder" else f"{split}.csv")


def remedy(data: Data, split: str, option: str) -> str:
    """The end of a message that `split` is not there: what is, and how to have it read."""
    root = Path(data.root)
    if not root.is_dir():
        return f"; {root} is a file"
    dataset = "csv" if data.dataset == "folder" else "folder"
    listed = named_splits(root, dataset).get(split)
    if listed:
        return f"; there is {listed}, which data.dataset={dataset} reads"
    if not visible(root):
        return f"; {root} is empty"
    folders = class_folders(root)
    parent = root.parent if root.parent != root else root.absolute().parent
    for other in (parent, *folders):  # one level too deep, or too high
        if split in named_splits(other, data.dataset):
            return f"; {other} has it: {option}{in_shell(other)}"
    others = named_splits(root, data.dataset)
    if split == "test" and others:
        return NO_TEST
    if data.dataset == "csv" or split != "train":
        return ""
    if len(folders) == 1 and len(class_folders(folders[0])) > 1:
        return (
            f"; it holds one folder, {folders[0].name}; if the folders in that are the classes: "
            f"{option}{in_shell(folders[0])}"
        )
    if folders:
        named = ", ".join(path.name for path in folders[:NAMED])
        return f"; without it {root} should hold two class folders at least, and there is {named}"
    if others:
        return f"; there is {' and '.join(map(str, others.values()))}, but nothing to train on"
    if len(class_folders(parent)) > 1 and any(map(looks_like_a_picture, visible(root))):
        return (
            f"; it holds pictures; if it is one of the classes, with others beside it: "
            f"{option}{in_shell(parent)}"
        )
    return ""


def warn_of_unread(data: Data, classes: Sequence[str]) -> None:
    """Name what lies beside the splits and looks like another one, but has none of their names."""
    root = Path(data.root)
    suffix = "" if data.dataset == "folder" else ".csv"
    if data.list is not None or find_splits(data).get("train") == root:
        return
    unread = [path for path in visible(root) if is_like_a_split(path, suffix, set(classes))]
    if unread:
        more = f" and {len(unread) - NAMED:,} more" if len(unread) > NAMED else ""
        print(
            f"warning: {root}: beside the splits there is "
            f"{', '.join(path.name for path in unread[:NAMED])}{more}, which is not read; "
            f"{'a list' if suffix else 'a folder'} is read that is called train{suffix}, "
            f"val{suffix} or test{suffix}",
            file=sys.stderr,
        )


def is_like_a_split(path: Path, suffix: str, classes: set[str]) -> bool:
    """Whether training leaves out a folder of `classes`, a file called as a split, or a list."""
    if path.is_dir():
        return not suffix and not split_named(path.name) and holds_folder_of(path, classes)
    if not suffix:
        return split_named(path.name) is not None
    if path.suffix.casefold() != suffix or split_named(path.stem):
        return False
    with path.open("rb") as file:
        return file.readline(64).removeprefix(b"\xef\xbb\xbf").strip() == b"path,label"


def holds_folder_of(folder: Path, classes: set[str]) -> bool:
    try:
        return any(nfc(path.name) in classes and path.is_dir() for path in visible(folder))
    except OSError:  # which is not read
        return False


def looks_like_a_picture(path: Path) -> bool:
    return path.suffix.casefold() in PICTURE_SUFFIXES


def visible(folder: Path) -> list[Path]:
    entries = [path for path in folder.iterdir() if not path.name.startswith(".")]
    return sorted(entries, key=lambda path: natural(path.name))


def natural(name: str) -> tuple[str, str]:
    """A sorting key by which 2 comes before 10."""
    return re.sub(r"\d+", lambda digits: digits[0].zfill(20), name), name
