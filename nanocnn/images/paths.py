"""A path that someone wrote into a list, as one that leads from data.root on."""

import os
import re
import unicodedata
from pathlib import Path
from urllib.parse import unquote, urlsplit

from nanocnn.system.errors import UserError


def below_root(root: Path, path: str, line: str, outside: bool = False) -> str:
    """`path` relative to `root`, in which it has to be; or it may lie `outside`, if it is absolute.

    Raises UserError that names `line`.
    """
    refuse_what_is_no_path(root, path, line)
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
    if outside and relative.is_absolute():
        return normal
    if relative.is_absolute() or normal.split(os.sep)[0] == "..":
        raise UserError(f"{line}: {path!r} leaves data.root ({root}); paths are relative to it")
    if ".." in relative.parts:
        raise UserError(f"{line}: {path!r} has '..' in it; should be {normal!r}")
    return str(relative)


def refuse_what_is_no_path(root: Path, path: str, line: str) -> None:
    """Raises UserError for an address, a variable or outer blanks, unless a file is called so."""
    address = re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", path)
    variable = re.match(r"\$\w+|\$\{\w+\}|%\w+%", path)
    if not (address or variable or path != path.strip()) or os.path.exists(root / path):
        return
    if address and path[:5].casefold() != "file:":
        raise UserError(
            f"{line}: {path!r} is an address; images are read from files: download them and list "
            f"their paths below {root}"
        )
    if address:
        right = unquote(urlsplit(path).path)
        what = "is an address"
    elif variable:
        right = os.path.expanduser(os.path.expandvars(path))
        if right == path or variable[0][0] == "%":
            right = "~" + path[variable.end() :].replace("\\", "/")
        what = f"begins with a variable, {variable[0]}, which is not looked up"
    else:
        right, what = path.strip(), "begins or ends with a blank"
    below = str(relative_to(root, Path(os.path.expanduser(right))))
    raise UserError(f"{line}: {path!r} {what}; should be {below!r}")


def refuse_from_here(root: Path, path: str, line: str) -> None:
    """Raises UserError for a `path` that leads to a file from the current folder on, but not from
    `root`.
    """
    here = Path(path).absolute()
    if not os.path.exists(root / path) and here.is_file():
        below = relative_to(root, here)
        raise UserError(
            f"{line}: {path!r} is a path from {Path.cwd()} on; paths are relative to data.root "
            f"({root}), it should be {str(below)!r}"
        )


def refuse_twice(seen: dict[str, int], path: str, line: str, number: int) -> None:
    """Note that a `path` stands in the line of this `number`; `seen` has those before.

    Raises UserError where it stood in one of them.
    """
    first = seen.setdefault(os.path.normpath(path), number)
    if first != number:
        raise UserError(f"{line}: {path!r} stands in line {first} too; list it once")


def relative_to(root: Path, path: Path) -> Path:
    """The absolute `path` as one below `root`, whatever links lead to either; else as it is."""
    linked = path.parent.resolve() / path.name
    for whole, base in ((path, root.absolute()), (linked, root.resolve())):
        if whole.is_relative_to(base):
            return whole.relative_to(base)
    return path
