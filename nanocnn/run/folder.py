"""The run folder itself: made for one run alone, and one process in it at a time."""

import json
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from nanocnn.config.schema import Config, Data, to_yaml
from nanocnn.system.errors import UserError
from nanocnn.system.files import replacing, sync_folder


def create_run_dir(config: Config, run_dir: Path | None = None) -> Path:
    """Create `run_dir`, by default runs/<name>/<time>, with its config.yaml.

    No two runs share a folder. Raises UserError, and then leaves nothing that was not there before.
    """
    made: list[Path] = []
    try:
        if run_dir is None:
            run_dir, made = create_dated_dir(config)
        else:
            made = missing_folders(run_dir)
            run_dir.mkdir(parents=True, exist_ok=True)
            if any(run_dir.iterdir()):
                raise FileExistsError
        with (run_dir / "config.yaml").open("x") as file:
            file.write(to_yaml(config))
            file.flush()
            os.fsync(file.fileno())
        sync_folder(run_dir.parent)
    except FileExistsError:
        raise UserError(
            f"--run-dir {run_dir}: should name a new or an empty folder "
            "(--resume goes on with a run)"
        ) from None
    except OSError as error:
        if run_dir is not None:
            with suppress(OSError):
                (run_dir / "config.yaml").unlink()  # of this process: the folder was empty
        remove_empty(made)
        raise UserError(f"cannot create the run folder: {error}") from None
    return run_dir


def create_seeds_dir(config: Config, run_dir: Path | None, again: bool) -> tuple[Path, list[Path]]:
    """Create the folder for runs of several seeds, by default runs/<name>/seeds_<time>.

    With `again` it may be there. Returns it, and the folders that had to be made for it.
    """
    if run_dir is None:
        return create_dated_dir(config, "seeds_")
    try:
        made = missing_folders(run_dir)
        run_dir.mkdir(parents=True, exist_ok=True)
        others = [path for path in run_dir.iterdir() if not (again and is_of_seeds(path))]
    except OSError as error:
        raise UserError(f"cannot create the run folder: {error}") from None
    if others:
        raise UserError(
            f"--run-dir {run_dir}: holds {others[0].name}; it should name a new or an empty "
            "folder, or with --resume auto one that --seeds has made"
        )
    return run_dir, made


def missing_folders(folder: Path) -> list[Path]:
    """`folder` and those above it that are not there yet, the deepest first."""
    return [each for each in (folder, *folder.parents) if not each.exists()]


def remove_empty(folders: list[Path]) -> None:
    """Remove those that nothing lies in."""
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()


def is_of_seeds(path: Path) -> bool:
    """Whether the folder that --seeds makes may hold this: runs, and the reports of test.py."""
    return re.fullmatch(r"seed_\d+|(test|val|train)(_\w+)?\.json", path.name) is not None


def create_dated_dir(config: Config, prefix: str = "") -> tuple[Path, list[Path]]:
    """Create runs/<name>/<prefix><time>, or <time>_2, _3 ... if another run was faster.

    Returns it, and the folders that had to be made for it. Raises UserError where it cannot be.
    """
    folder = Path("runs") / config.name / f"{prefix}{datetime.now():%Y-%m-%d_%H-%M-%S}"
    made = missing_folders(folder.parent)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        for n in count(1):
            run_dir = folder if n == 1 else folder.with_name(f"{folder.name}_{n}")
            with suppress(FileExistsError):
                run_dir.mkdir()
                break
    except OSError as error:
        raise UserError(f"cannot create the run folder: {error}") from None
    return run_dir, [run_dir, *made]


def rewrite_config(config: Config, run_dir: Path) -> None:
    """A run that goes on may have been given more epochs."""
    with replacing(run_dir / "config.yaml") as file:
        file.write(to_yaml(config).encode())


def read_facts(run_dir: Path) -> dict[str, Any]:
    """What run.json holds; empty where a crash has damaged it."""
    try:
        facts = json.loads((run_dir / "run.json").read_bytes())
    except (OSError, ValueError):
        return {}
    return facts if isinstance(facts, dict) else {}


def warn_of_other_images(run_dir: Path, data: Data) -> None:
    """Say so where `data` is read elsewhere than in the run in `run_dir`, if there is one."""
    before, here = read_facts(run_dir).get("data_root"), data.own_folder
    if isinstance(before, str) and here and before != here:
        print(
            f"warning: images are read from {here}, in {run_dir} they were in {before} (a relative "
            "data.root begins at the current folder)",
            file=sys.stderr,
        )


@contextmanager
def locked(run_dir: Path) -> Iterator[None]:
    """Keep every other process from training in `run_dir`; a crash leaves no lock behind.

    What a crash may have left, half-written files, is removed. Raises UserError where another one
    has the lock.
    """
    lock = FileLock(run_dir / ".lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise UserError(f"{run_dir}: another process is training in this folder") from None
    try:
        for temporary in run_dir.glob(".*.tmp"):
            temporary.unlink()
        yield
    finally:
        lock.release()
