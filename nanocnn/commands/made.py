"""Folders that a command makes, and whose files it replaces if it has made them."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from nanocnn.system.errors import UserError


def folder_beside(checkpoint: Path, name: str) -> Path:
    """Where a command makes its page of a checkpoint: best.pt's has the plain `name`."""
    stem = checkpoint.stem
    return checkpoint.with_name(name if stem == "best" else f"{name}_{stem}")


def check_free(folder: Path, mark: str, option: str = "--out") -> None:
    """Raises UserError for a folder that holds something, but not the file `mark` that tells who
    made it.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: should be a folder")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / mark).is_file():
        raise UserError(
            f"{folder}: holds other files; {option} should name a new or an empty folder, or one "
            "that this command has made"
        )


def fill(folder: Path, files: Mapping[str, bytes], stale: str = "") -> None:
    """Write `files` into it, each whole; earlier ones that the pattern `stale` names are removed
    first. Raises OSError.
    """
    from nanocnn.run.folder import missing_folders, remove_empty
    from nanocnn.system.files import replacing
    from nanocnn.system.signals import cleaned_up

    made = missing_folders(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with cleaned_up(partial(remove_empty, made)):
        for earlier in folder.glob(stale) if stale else ():
            earlier.unlink()
        for name, content in files.items():
            with replacing(folder / name) as file:
                file.write(content)
