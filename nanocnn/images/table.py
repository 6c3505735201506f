"""A table of one's own that lists the pictures, in whatever columns, delimiter and encoding."""

import codecs
import csv
import glob
import io
import os
import re
import sys
from pathlib import Path
from typing import NamedTuple

from nanocnn.config.schema import Data
from nanocnn.images.paths import below_root, refuse_from_here, refuse_twice
from nanocnn.images.places import SPLIT_NAMES, split_named
from nanocnn.system.errors import UserError, did_you_mean
from nanocnn.system.files import read_file

DELIMITERS = (",", ";", "\t", "|")
SPLITS_ALLOWED = ", ".join(name for names in SPLIT_NAMES.values() for name in names)


class Row(NamedTuple):
    path: str  # below data.root, or absolute
    label: str
    group: str | None = None


class Table(NamedTuple):
    file: Path
    rows: dict[str, list[Row]]  # of each split; those of a table that names none are "train"
    divided: bool  # whether it names splits


def read_table(data: Data) -> Table:
    """The table data.list. Raises UserError, with the line, for what cannot be understood in it."""
    root, file = Path(data.root), table_of(data)
    text = decoded(file, data.encoding)
    delimiter = data.delimiter_character or find_delimiter(data, text)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    rows: dict[str, list[Row]] = {}
    seen: dict[str, int] = {}
    try:
        header = [name.strip() for name in next(reader, [])]
        places = find_columns(data, file, header)
        for cells in filter(None, reader):
            line = f"{file}, line {reader.line_num}"
            if len(cells) != len(header):
                raise UserError(f"{line}: has {len(cells)} cells, the first line has {len(header)}")
            values = {key: cells[place] for key, place in places.items()}
            if empty := [key for key, value in values.items() if not value.strip()]:
                raise UserError(f"{line}: has no {empty[0]} ({header[places[empty[0]]]!r})")
            path = below_root(root, with_extension(values["path"], data), line, outside=True)
            refuse_twice(seen, path, line, reader.line_num)
            if len(seen) == 1:
                refuse_from_here(root, path, line)
                refuse_bare(root, path, line, data)
            split = split_named(values.get("split", "train").strip())
            if split is None:
                raise UserError(
                    f"{line}: the split {values['split']!r:.80} is unknown (known: "
                    f"{SPLITS_ALLOWED})"
                )
            rows.setdefault(split, []).append(Row(path, values["label"], values.get("group")))
    except csv.Error as error:
        raise UserError(f"{file}, line {reader.line_num}: {error}") from None
    if "train" not in rows:
        raise UserError(f"{file}: lists no images to train on")
    if "split" not in places:
        refuse_two_folders(file, rows["train"])
    return Table(file, rows, divided="split" in places)


def table_of(data: Data) -> Path:
    """The file of data.list. Raises UserError where there is none."""
    assert data.list is not None
    name = os.path.expanduser(data.list)
    file = Path(data.root, name)
    if file.is_file():
        return file
    here = Path(name).absolute()
    instead = f"; there is {here}: data.list={here}" if here.is_file() else ""
    raise UserError(f"{file}: no such file; data.list is a path from data.root on{instead}")


def decoded(file: Path, encoding: str | None) -> str:
    """The text of a file. Raises UserError where it is not in the `encoding`, or none is found."""
    content = read_file(file)
    if encoding is None and content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encoding = "utf-16"
    try:
        text = content.decode(encoding or "utf-8-sig")
    except UnicodeDecodeError as error:
        if encoding is not None:
            raise UserError(f"{file}: is not in {encoding}: {error}") from None
        try:
            text = content.decode("cp1252")
        except UnicodeDecodeError:
            raise UserError(
                f"{file}: is neither in UTF-8 nor in Windows-1252; data.encoding=NAME says in what"
            ) from None
        print(
            f"warning: {file}: is not in UTF-8 and was read as Windows-1252; if names look wrong, "
            "data.encoding=NAME says in what it is",
            file=sys.stderr,
        )
    if "\0" in text:
        raise UserError(f"{file}: is no text in {encoding or 'UTF-8'}; data.encoding=utf-16-le?")
    return text.removeprefix("\ufeff")


def find_delimiter(data: Data, text: str) -> str:
    """What stands between the columns: with it there are those that are needed, or else most."""
    needed = {data.columns.path, data.columns.label}

    def columns(delimiter: str) -> tuple[int, int]:
        lines = io.StringIO(text, newline="")
        names = {name.strip() for name in next(csv.reader(lines, delimiter=delimiter), [])}
        return len(needed & names), len(names)

    return max(DELIMITERS, key=columns)


def find_columns(data: Data, file: Path, header: list[str]) -> dict[str, int]:
    """The place of each column that data.columns names. Raises UserError for one that is not
    there once.
    """
    places = {}
    columns = dict(data.columns)
    if data.group is not None:
        columns["group"] = data.group if data.group in header else None
        if columns["group"] is None and not is_pattern(data.group):
            raise UserError(
                f"data.group = {data.group}: is neither a column of {file} (known: "
                f"{', '.join(header)}) nor a pattern with one group in parentheses"
            )
    for key, name in columns.items():
        if name is None:
            continue
        if header.count(name) > 1:
            raise UserError(f"{file}: has {header.count(name)} columns {name!r}")
        if name not in header:
            raise UserError(
                f"{file}: has no column {name!r}{did_you_mean(name, header)}; "
                f"data.columns.{key}=NAME says which one it is"
            )
        places[key] = header.index(name)
    return places


def is_pattern(text: str) -> bool:
    try:
        return re.compile(text).groups == 1
    except re.error:
        return False


def with_extension(path: str, data: Data) -> str:
    extension = data.extension or ""
    return path if path.casefold().endswith(extension.casefold()) else path + extension


def refuse_bare(root: Path, path: str, line: str, data: Data) -> None:
    """Raises UserError for a `path` that would be there with an extension."""
    if data.extension is None and not (root / path).exists():
        others = sorted(glob.glob(glob.escape(str(root / path)) + ".*"))
        if others:
            found = Path(others[0])
            raise UserError(
                f"{line}: {path!r} is not there, but {found.name} is: data.extension={found.suffix}"
            )


def refuse_two_folders(file: Path, rows: list[Row]) -> None:
    """Raises UserError where pictures of a table without splits lie in folders of splits: those of
    the test would be trained on.
    """
    firsts = {Path(row.path).parts[0] for row in rows}
    splits = {split_named(first): first for first in sorted(firsts)}
    if "train" in splits and "test" in splits:
        raise UserError(
            f"{file}: lists images in {splits['train']}/ and in {splits['test']}/, and "
            "data.columns.split names no column that tells the splits apart"
        )
