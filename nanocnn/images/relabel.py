"""Labels that someone has corrected: a list of paths with their new ones, which changes no file.

They are put right after the splits are made, so that a correction moves no picture to another one.
"""

import csv
import hashlib
import io
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from nanocnn.config.schema import Data
from nanocnn.images.listing import Listing, layout, pictures_of
from nanocnn.images.names import nearest, nfc
from nanocnn.images.paths import below_root
from nanocnn.images.table import DELIMITERS, decoded
from nanocnn.system.errors import UserError
from nanocnn.system.files import replacing

COLUMNS = (
    "path",
    "split",
    "label",
    "suggested",
    "label_probability",
    "new_label",
)  # the last is yours
NEEDED = ("path", "new_label")
HERE = "./"


class Correction(NamedTuple):
    label: str  # as it should be
    before: str  # as it was when this was written, empty where that is not said
    line: str  # where it is written


def read_corrections(data: Data) -> dict[str, Correction]:
    """Those of data.relabel by path; lines without a new label say nothing.

    Raises UserError, with the line, for a path that no split of data.root lists.
    """
    if data.relabel is None:
        return {}
    file = file_of(data.relabel)
    text = decoded(file, None)
    head = text.partition("\n")[0]
    delimiter = max(DELIMITERS, key=head.count)
    rows = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    known = {path for split in layout(data).places for path in paths_of(data, split)}
    found: dict[str, Correction] = {}
    try:
        if lost := [name for name in NEEDED if name not in (rows.fieldnames or ())]:
            raise UserError(f"{file}: has no column {lost[0]!r}; needed are {', '.join(NEEDED)}")
        for row in rows:
            line = f"{file}, line {rows.line_num}"
            if None in row or None in row.values():
                raise UserError(f"{line}: has not as many cells as the first line")
            label = row["new_label"].strip()
            if not label:
                continue
            typed = row["path"].removeprefix(HERE) if is_formula(row["path"][2:]) else row["path"]
            path = below_root(Path(data.root), typed, line, outside=data.list is not None)
            if path not in known:
                raise UserError(f"{line}: {path!r} is no picture that {data.root} lists")
            if path in found:
                raise UserError(f"{line}: {path!r} is in {found[path].line} too; correct it once")
            found[path] = Correction(label, row.get("label", "").strip(), line)
    except csv.Error as error:
        raise UserError(f"{file}, line {rows.line_num}: {error}") from None
    return found


def file_of(name: str) -> Path:
    """The file of data.relabel. Raises UserError where there is none."""
    if not Path(name).is_file():
        raise UserError(
            f"data.relabel = {name}: no such file; it is a list of corrected labels, with the "
            f"columns {', '.join(NEEDED)}"
        )
    return Path(name)


def paths_of(data: Data, split: str) -> Iterable[str]:
    """Of all pictures that data.root lists in `split`, whatever their class; none is opened."""
    listed, _ = pictures_of(data, split, layout(data).places[split])
    return (path for paths in listed.values() for path in paths)


def relabelled(listing: Listing, corrections: dict[str, Correction]) -> Listing:
    """`listing` with the corrected labels, those of held out pictures too.

    Raises UserError for a label that is no class, and where a picture is of another class than it
    was when it was corrected.
    """
    if not corrections:
        return listing
    numbers = {nfc(name): number for number, name in enumerate(listing.classes)}

    def label_of(path: str, label: str) -> str:
        """The name of its class now."""
        if path not in corrections:
            return label
        new, before, line = corrections[path]
        if nfc(new) not in numbers:
            raise UserError(f"{line}: {new!r} is no class{nearest(new, listing.classes)}")
        if before and nfc(before) != nfc(label) and nfc(new) != nfc(label):
            raise UserError(
                f"{line}: the label of {path!r} was {before!r} and is {label!r} now, so that this "
                "corrects something else"
            )
        return listing.classes[numbers[nfc(new)]]

    labels = listing.labels.clone()
    for index, path in enumerate(listing.paths):
        if path in corrections:
            before = listing.classes[int(labels[index])]
            labels[index] = numbers[nfc(label_of(path, before))]
    held_out = tuple((path, label_of(path, label)) for path, label in listing.held_out)
    return listing._replace(labels=labels, held_out=held_out)


def checksum_of_corrections(data: Data) -> str:
    """SHA-256 of the file; empty without one."""
    if data.relabel is None:
        return ""
    return hashlib.sha256(file_of(data.relabel).read_bytes()).hexdigest()


def warn_of_other_corrections(data: Data, sha256: str) -> None:
    """Say so where the file is not the one with this checksum, that a network was trained with."""
    if checksum_of_corrections(data) != sha256:
        print(
            f"warning: data.relabel = {data.relabel}: has changed since the training; the labels "
            "are as it says now",
            file=sys.stderr,
        )


def is_formula(cell: str) -> bool:
    """Whether a spreadsheet would compute it instead of showing it."""
    return cell.startswith(("=", "+", "-", "@", "\t"))


def write_corrections(path: Path, rows: Iterable[Sequence[str]]) -> None:
    """Write a list to be completed: of each picture all COLUMNS but the last, which stays empty.

    A path that a spreadsheet would take for a formula begins with `./`.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for name, *others in rows:
        writer.writerow([f"{HERE}{name}" if is_formula(name) else name, *others, ""])
    with replacing(path) as file:
        file.write(text.getvalue().encode(errors="surrogateescape"))
