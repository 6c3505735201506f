"""Which pictures folders or lists name, and of which class each is; none is opened here."""

import csv
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from nanocnn.config.schema import Data
from nanocnn.images.groups import groups_by_pattern
from nanocnn.images.names import by_class, nfc
from nanocnn.images.paths import below_root, refuse_from_here, refuse_twice
from nanocnn.images.places import (
    class_folders,
    find_splits,
    looks_like_a_picture,
    missing,
    named_splits,
    natural,
    split_named,
    visible,
)
from nanocnn.images.table import read_table
from nanocnn.system.errors import UserError
from nanocnn.system.output import in_shell


class Layout(NamedTuple):
    """Where the user's images are listed."""

    places: dict[str, Path]  # the folder or file of each split that there is
    divided: bool  # whether the images are in splits; if not, all of them are "train"


class Listing(NamedTuple):
    """The pictures of one split."""

    split: str  # whose folder or file names them: of images carved from train it is "train"
    paths: list[str]  # below data.root
    labels: Tensor  # (N,) int64
    classes: list[str]
    unreadable: tuple[str, ...] = ()  # path and reason of each file that was left out
    held_out: tuple[tuple[str, str], ...] = ()  # path and class of each held out of it for test.py
    kept: bool = False  # as a run has listed them, when it held them out
    groups: list[str] | None = None  # of each, for data.group

    def take(self, chosen: Tensor) -> "Listing":
        indices = chosen.tolist()
        paths = [self.paths[index] for index in indices]
        groups = [self.groups[index] for index in indices] if self.groups else None
        return self._replace(paths=paths, labels=self.labels[chosen], groups=groups)


def list_split(data: Data, split: str, classes: list[str] | None = None) -> Listing:
    """The pictures of `split`, class by class; of those that are in no splits, all are "train".

    Without `classes` they are those found, in natural order; with them, of a trained network or of
    the training images, others are refused. Raises UserError for those, for an empty class, for
    names that cannot be one and where there is no such split.
    """
    where = layout(data).places.get(split)
    if where is None:
        raise missing(data, split, "data.root=" if classes is None else "--data-root ")
    listed, group_of = pictures_of(data, split, where)
    found = by_class(where, listed, classes)
    names = classes or sorted(found, key=natural)
    for name, pictures in found.items():
        if not pictures and classes is None:
            raise UserError(f"{where}: the class {name!r} has no images; remove it or fill it")
    paths = [path for name in names for path in found.get(name, [])]
    if not paths:
        remedy = {
            "train": "",
            "val": "; fill it, or remove it to have validation images carved from those of train",
            "test": "; fill it, or remove it",
        }
        raise UserError(f"{where}: holds no images{remedy[split]}")
    counts = torch.tensor([len(found.get(name, [])) for name in names])
    labels = torch.arange(len(names)).repeat_interleave(counts)
    groups = [group_of[path] for path in paths] if group_of else None
    return Listing(split, paths, labels, names, groups=groups)


def check_there(data: Data) -> None:
    """Raises UserError where the user's own `data` have no training images where they should."""
    if "train" not in layout(data).places:
        raise missing(data, "train", "data.root=")


def layout(data: Data) -> Layout:
    """Where data.root has its splits. Raises UserError for two names of one split."""
    if data.list is not None:
        table = read_table(data)
        return Layout(dict.fromkeys(table.rows, table.file), table.divided)
    places = find_splits(data)
    return Layout(places, divided=places.get("train") != Path(data.root))


def pictures_of(
    data: Data, split: str, where: Path
) -> tuple[dict[str, list[str]], dict[str, str] | None]:
    """{class: paths} of the pictures of `split`, which `where` has, and with data.group the group
    of each path.
    """
    found: dict[str, list[str]] = {}
    group_of: dict[str, str] = {}
    if data.list is not None:
        for row in read_table(data).rows[split]:
            found.setdefault(row.label, []).append(row.path)
            if row.group is not None:
                group_of[row.path] = row.group
    elif data.dataset == "folder":
        found = in_folders(Path(data.root), where)
    else:
        found = in_csv(where, split)
    if data.group is not None and not group_of:
        paths = [path for some in found.values() for path in some]
        group_of = dict(zip(paths, groups_by_pattern(data.group, paths), strict=True))
    return found, group_of or None


def groups_of(data: Data, paths: Sequence[str]) -> list[str]:
    """The group of each of `paths`, of whatever split, for data.group or its column."""
    known: dict[str, str] = {}
    for split, where in layout(data).places.items():
        known |= pictures_of(data, split, where)[1] or {}
    return [known[path] for path in paths]


def own_groups(data: Data) -> dict[str, list[str]]:
    """The groups that stand in each of the user's own splits; no picture is opened."""
    places = layout(data).places
    found = {split: pictures_of(data, split, where)[1] for split, where in places.items()}
    return {split: list(groups.values()) for split, groups in found.items() if groups}


def in_folders(root: Path, where: Path) -> dict[str, list[str]]:
    """{class: paths below root} of what the folders in `where` hold, but for hidden names."""
    folders = class_folders(root) if where == root else visible(where)
    beside = visible(where) if where == root else folders
    for path in beside:
        # a text may lie beside the classes where those are all that the root holds
        if not path.is_dir() and (where != root or looks_like_a_picture(path)):
            raise UserError(
                f"{path}: lies beside the class folders; images belong into one, "
                f"as {where}/<class>/{path.name}"
            )
    if where == root:
        refuse_other_classes(root, {nfc(folder.name) for folder in folders})
    prefix = "" if where == root else f"{where.name}/"
    return {
        folder.name: [f"{prefix}{folder.name}/{path}" for path in files_below(folder)]
        for folder in folders
    }


def refuse_other_classes(root: Path, classes: set[str]) -> None:
    """Raises UserError for a folder beside the class folders that has the name of a split, but does
    not hold what a split of these classes would, for it may be a class; and for one that holds it,
    but has no such name.
    """
    for split, folder in named_splits(root, "folder").items():
        if not visible(folder):
            raise UserError(f"{folder}: holds no images; fill it, or remove it")
        if not classes & {nfc(path.name) for path in visible(folder) if path.is_dir()}:
            raise UserError(
                f"{folder}: has the name of the {split} split, but no folder of any class that "
                f"lies beside it; if it is a class, put all class folders into {root / 'train'}, "
                "else rename it or move it away"
            )
    for folder in class_folders(root):
        inner = {nfc(path.name) for path in visible(folder) if path.is_dir()}
        if len(inner) > 1 and inner <= classes:
            raise UserError(
                f"{folder}: lies beside the class folders, but holds folders called as they are, "
                f"such as {min(inner, key=natural)}; if it is a split, call it val or test, else "
                "move it away"
            )


def files_below(folder: Path, above: tuple[Path, ...] = ()) -> Iterator[str]:
    """The paths, below the `folder` of a class, of the files in it and in its folders at any depth.

    Raises UserError for a link that leads back to a folder `above` it, and for a split in a class.
    """
    with os.scandir(folder) as entries:  # which knows of most what they are without looking at each
        shown = {entry.name: entry.is_dir() for entry in entries if entry.name[0] != "."}
    for name in sorted(shown, key=natural):
        if not shown[name]:
            yield name
            continue
        inner = folder / name
        if not above and split_named(name):
            raise UserError(
                f"{inner}: has the name of a split, and lies in the folder of a class; if "
                f"{folder} is what holds the splits: data.root={in_shell(folder)}; else "
                f"move its images out, splits lie above the classes: <split>/{folder.name}"
            )
        behind = (*above, folder.resolve())
        if inner.resolve() in behind:
            raise UserError(f"{inner}: a link that leads back to {inner.resolve()}; remove it")
        yield from (f"{name}/{path}" for path in files_below(inner, behind))


def in_csv(where: Path, split: str) -> dict[str, list[str]]:
    """{label: paths} of the lines of the file `where`, the first of which is path,label."""
    found: dict[str, list[str]] = {}
    seen: dict[str, int] = {}
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
                if not found:
                    refuse_from_here(where.parent, path, line)
                first = Path(path).parts[0]
                if split != "test" and split_named(first) == "test":
                    raise UserError(f"{line}: {path!r} is in {first}/, which training never opens")
                refuse_twice(seen, path, line, rows.line_num)
                found.setdefault(label, []).append(path)
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{where}: no CSV file in UTF-8: {error}") from None
    return found
