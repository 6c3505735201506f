"""The run folder itself: made for one run alone, and one process in it at a time."""

import errno
import os
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from nanocnn.config.hints import is_run
from nanocnn.config.schema import Config, Data, to_yaml
from nanocnn.run.contents import Facts, read_json
from nanocnn.system.errors import UserError
from nanocnn.system.files import replacing, sync_folder
from nanocnn.system.output import in_shell

# what flock fails with where a file system, of a network for one, or the system does not have it
NO_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL}
# how the names end of what a run writes
WRITTEN = {".pt", ".json", ".jsonl", ".yaml", ".txt", ".tmp"}


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
        instead = ""
        if run_dir is not None and is_run(run_dir):
            instead = f"; type --resume {in_shell(run_dir)} to go on with its run"
        raise UserError(
            f"--run-dir {run_dir}: should name a new or an empty folder{instead}"
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
    """What run.json holds; empty where it is lost or damaged: checkpoints do not need it."""
    try:
        return read_json(run_dir / "run.json", Facts)
    except (OSError, UserError):
        return {}


def is_of_launch(run_dir: Path, run_id: str) -> bool:
    """Whether torchrun began the run there under this id, and it is not finished."""
    facts = read_facts(run_dir)
    return facts.get("torchrun_id") == run_id and facts.get("exit_reason") != "finished"


def identity_of(folder: Path) -> tuple[int, int] | None:
    """What tells a folder from another of the same name, None where there is none."""
    try:
        status = folder.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


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
def locked(run_dir: Path) -> Iterator[Path]:
    """Keep every other process from training in `run_dir`; a crash leaves no lock behind.

    What a crash may have left, half-written files, is removed. Raises UserError where another one
    has the lock, or a folder has a name like those of a run's files: that would end the run when it
    writes one. A file system without locks is no reason not to train: a warning says so.
    """
    lock = FileLock(run_dir / ".lock", timeout=0)
    try:
        with warnings.catch_warnings(action="ignore"):  # of a lock without flock, which is one too
            lock.acquire()
    except Timeout:
        raise UserError(f"{run_dir}: another process is training in this folder") from None
    except (OSError, NotImplementedError) as error:  # the latter of filelock 3, for ENOSYS
        if getattr(error, "errno", errno.ENOSYS) not in NO_LOCKS:
            raise UserError(f"{run_dir}: cannot be locked (.lock): {error}") from None
        print(
            f"warning: {run_dir}: this file system has no locks ({error}), so that nothing keeps a "
            "second process from training in this folder",
            file=sys.stderr,
        )
    try:
        for path in run_dir.iterdir():
            if path.suffix in WRITTEN and path.is_dir():
                raise UserError(f"{path}: a folder, where a run writes a file; move it away")
            if path.suffix == ".tmp" and path.name.startswith("."):
                path.unlink()
        yield run_dir
    finally:
        lock.release()
