"""A path that someone wrote into a list, as one that leads from data.root on."""

import os
import re
import unicodedata
from pathlib import Path

from nanocnn.system.errors import UserError


def below_root(root: Path, path: str, line: str, outside: bool = False) -> str:
    """`path` relative to `root`, in which it has to be; or it may lie `outside`, if it is absolute.

    Raises UserError that names `line`.
    """
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


def relative_to(root: Path, path: Path) -> Path:
    """The absolute `path` as one below `root`, whatever links lead to either; else as it is."""
    linked = path.parent.resolve() / path.name
    for whole, base in ((path, root.absolute()), (linked, root.resolve())):
        if whole.is_relative_to(base):
            return whole.relative_to(base)
    return path
