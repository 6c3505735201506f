"""Which pictures a folder or a CSV file names, and of which class each is; none is opened here."""

import csv
import os
import re
import shlex
import unicodedata
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from nanocnn.config.schema import Data
from nanocnn.images.names import by_class
from nanocnn.images.places import natural, place, refuse_misnamed, refuse_missing, visible
from nanocnn.system.errors import UserError


class Listing(NamedTuple):
    """The pictures of one split."""

    split: str  # whose folder or file names them: of images carved from train it is "train"
    paths: list[str]  # below data.root
    labels: Tensor  # (N,) int64
    classes: list[str]
    unreadable: tuple[str, ...] = ()  # path and reason of each file that was left out

    def take(self, chosen: Tensor) -> "Listing":
        paths = [self.paths[index] for index in chosen.tolist()]
        return self._replace(paths=paths, labels=self.labels[chosen])


def list_split(data: Data, split: str, classes: list[str] | None = None) -> Listing:
    """The pictures of `split` in data.root, class by class.

    Without `classes` they are those found, in natural order; with them, of a trained network or of
    the training images, others are refused. Raises UserError for those, for an empty class, for
    names that cannot be one, for folders within a class and where there is no such split.
    """
    refuse_misnamed(data, split)
    refuse_missing(data, split, "data.root=" if classes is None else "--data-root ")
    where = place(data, split)
    listed = in_folders(where, split) if data.dataset == "folder" else in_csv(where, split)
    found = by_class(where, listed, classes)
    names = classes or sorted(found, key=natural)
    for name, pictures in found.items():
        if not pictures and classes is None:
            raise UserError(f"{where}: the class {name!r} has no images; remove it or fill it")
    paths = [path for name in names for path in found.get(name, [])]
    if not paths:
        raise UserError(f"{where}: holds no images")
    counts = torch.tensor([len(found.get(name, [])) for name in names])
    return Listing(split, paths, torch.arange(len(names)).repeat_interleave(counts), names)


def in_folders(where: Path, split: str) -> dict[str, list[str]]:
    """{class: paths} of where/class/*, but for hidden names."""
    found = {}
    for folder in visible(where):
        if not folder.is_dir():
            raise UserError(
                f"{folder}: lies beside the class folders; images belong into one, "
                f"as {where}/<class>/{folder.name}"
            )
        refuse_nested(folder)
        found[folder.name] = [f"{split}/{folder.name}/{path.name}" for path in visible(folder)]
    return found


def refuse_nested(folder: Path) -> None:
    """Raises UserError for folders with something in them in that of a class: it would not be
    read.
    """
    with os.scandir(folder) as entries:  # which knows of most what they are without looking at each
        shown = {entry.name: entry.is_dir() for entry in entries if entry.name[0] != "."}
    nested = [name for name, is_folder in shown.items() if is_folder and visible(folder / name)]
    if not nested:
        return
    first = folder / min(nested, key=natural)
    if len(nested) == len(shown):
        raise UserError(
            f"{folder}: holds folders and no images; each folder in {folder.parent} is a class: "
            f"move the images of {first} and others there into {folder}, or if those are the "
            f"classes: mv {shlex.quote(str(folder))}/* {shlex.quote(str(folder.parent))}"
        )
    raise UserError(
        f"{first}: a folder within that of a class, which is not looked into; move its images "
        f"into {folder}, or it out of {folder.parent}"
    )


def in_csv(where: Path, split: str) -> dict[str, list[str]]:
    """{label: paths} of the lines of the file `where`, the first of which is path,label."""
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
                path = below_root(where.parent, path, line)
                if split != "test" and Path(path).parts[:1] == ("test",):
                    raise UserError(f"{line}: {path!r} is in test/, which training never opens")
                found.setdefault(label, []).append(path)
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{where}: no CSV file in UTF-8: {error}") from None
    return found


def below_root(root: Path, path: str, line: str) -> str:
    """`path` relative to `root`, in which it has to be. Raises UserError that names `line`."""
    if "\\" in path and os.sep == "/" and not os.path.exists(root / path):
        if re.match(r"[A-Za-z]:", path):
            right = f"a path below {root}, with slashes"
        else:
            right = repr(path.replace("\\", "/"))
        raise UserError(f"{line}: {path!r} has backslashes; should be {right}")
    if not path.isascii() and not os.path.exists(root / path):  # listed on another system
        forms = [unicodedata.normalize(form, path) for form in ("NFC", "NFD")]
        path = next((form for form in forms if os.path.exists(root / form)), path)
    relative = Path(os.path.expanduser(path))
    if relative.is_absolute():
        relative = relative_to(root, relative)
    elif ".." not in relative.parts:
        return path
    normal = os.path.normpath(relative)
    if relative.is_absolute() or normal.split(os.sep)[0] == "..":
        raise UserError(f"{line}: {path!r} leaves data.root ({root}); paths are relative to it")
    if ".." in relative.parts:
        raise UserError(f"{line}: {path!r} has '..' in it; should be {normal!r}")
    return str(relative)


def relative_to(root: Path, path: Path) -> Path:
    """The absolute `path` as one below `root`, whatever links lead to either; else as it is."""
    linked = path.parent.resolve() / path.name
    for whole, base in ((path, root.absolute()), (linked, root.resolve())):
        if whole.is_relative_to(base):
            return whole.relative_to(base)
    return path
