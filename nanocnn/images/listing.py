"""Which pictures a folder or a CSV file names, and of which class each is; none is opened here."""

import csv
import re
import shlex
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from nanocnn.config.schema import Data
from nanocnn.system.errors import UserError, did_you_mean


class Listing(NamedTuple):
    """The pictures of one split."""

    split: str  # whose folder or file names them: of images carved from train it is "train"
    paths: list[str]  # below data.root
    labels: Tensor  # (N,) int64
    classes: list[str]

    def take(self, chosen: Tensor) -> "Listing":
        paths = [self.paths[index] for index in chosen.tolist()]
        return self._replace(paths=paths, labels=self.labels[chosen])


def has_split(data: Data, split: str) -> bool:
    """Raises UserError where it is there under another name."""
    refuse_misnamed(data, split)
    return place(data, split).exists()


def place(data: Data, split: str) -> Path:
    """Where data.root lists the images of `split`."""
    return Path(data.root) / (split if data.dataset == "folder" else f"{split}.csv")


# what others call the splits, in small letters
OTHER_NAMES = {
    "train": ("training",),
    "val": ("valid", "validation", "dev", "eval"),
    "test": ("testing",),
}


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


def list_split(data: Data, split: str, classes: list[str] | None = None) -> Listing:
    """The pictures of `split` in data.root, class by class.

    Without `classes` they are those found, in natural order; with them others are refused. Raises
    UserError for those, for an empty class, for names that cannot be printed and where there is no
    such split.
    """
    refuse_misnamed(data, split)
    where = place(data, split)
    found = in_folders(where, split) if data.dataset == "folder" else in_csv(where, split)
    names = classes or sorted(found, key=natural)
    for name, pictures in found.items():
        if not name.isprintable():
            raise UserError(f"{where}: a class is named {name!r}, which cannot be printed")
        if name not in names:
            raise UserError(
                f"{where}: {name!r} is no class of the training images{did_you_mean(name, names)}"
            )
        if not pictures and classes is None:
            raise UserError(f"{where}: the class {name!r} has no images; remove it or fill it")
    paths = [path for name in names for path in found.get(name, [])]
    if not paths:
        raise UserError(f"{where}: holds no images")
    counts = torch.tensor([len(found.get(name, [])) for name in names])
    return Listing(split, paths, torch.arange(len(names)).repeat_interleave(counts), names)


def in_folders(where: Path, split: str) -> dict[str, list[str]]:
    """{class: paths} of where/class/*, but for hidden names."""
    if not where.is_dir():
        raise UserError(
            f"{where}: no such folder{seen_from(where)}; data.dataset = folder reads "
            f"{where}/<class>/*"
        )
    found = {}
    for folder in visible(where):
        if not folder.is_dir():
            raise UserError(f"{folder}: lies beside the class folders; images belong into one")
        found[folder.name] = [f"{split}/{folder.name}/{path.name}" for path in visible(folder)]
    return found


def seen_from(where: Path) -> str:
    return "" if where.is_absolute() else f" in {Path.cwd()}, where a relative data.root begins"


def in_csv(where: Path, split: str) -> dict[str, list[str]]:
    """{label: paths} of the lines of the file `where`, the first of which is path,label."""
    if not where.is_file():
        raise UserError(
            f"{where}: no such file{seen_from(where)}; data.dataset = csv reads lines of "
            "path,label there"
        )
    found: dict[str, list[str]] = {}
    try:
        with where.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.reader(file, strict=True)
            header = next(rows, [])
            if header != ["path", "label"]:
                raise UserError(
                    f"{where}: begins with {','.join(header)!r:.80}, should be 'path,label'"
                )
            for row in filter(None, rows):
                line = f"{where}, line {rows.line_num}"
                if len(row) != 2 or not all(row):
                    raise UserError(f"{line}: {','.join(row)!r:.80} is no path,label")
                path, label = row
                parts = Path(path).parts
                if Path(path).anchor or ".." in parts:
                    raise UserError(f"{line}: {path!r} leaves data.root; paths are relative to it")
                if split != "test" and parts[:1] == ("test",):
                    raise UserError(f"{line}: {path!r} is in test/, which training never opens")
                found.setdefault(label, []).append(path)
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{where}: no CSV file in UTF-8: {error}") from None
    return found


def visible(folder: Path) -> list[Path]:
    entries = [path for path in folder.iterdir() if not path.name.startswith(".")]
    return sorted(entries, key=lambda path: natural(path.name))


def natural(name: str) -> tuple[str, str]:
    """A sorting key by which 2 comes before 10."""
    return re.sub(r"\d+", lambda digits: digits[0].zfill(20), name), name
