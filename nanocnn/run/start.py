"""The start of a run: what is said of it, and the facts that run.json keeps."""

import platform
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn

from nanocnn.config.schema import Config
from nanocnn.images.augment import harmful
from nanocnn.images.report import print_data_report, print_places
from nanocnn.images.training_data import TrainingData
from nanocnn.networks.table import size_text, summary
from nanocnn.run.folder import create_run_dir, read_facts
from nanocnn.run.resume import Place
from nanocnn.system.errors import UserError
from nanocnn.system.launch import Launch
from nanocnn.system.output import in_shell
from nanocnn.system.signals import Stopped, cleaned_up
from nanocnn.system.startup import Laps
from nanocnn.system.version import __version__
from nanocnn.training.device import Computing

PROJECT = Path(__file__).parent.parent.parent


def announce(config: Config, data: TrainingData, model: nn.Module) -> None:
    """Say what is trained on what, and warn of augmentation that harms these images."""
    counts = " and ".join(f"{len(split.labels):,} {name}" for name, split in data.splits.items())
    print(f"{config.data.dataset}: {counts} images of {size_text(data.info.image_shape)}")
    print_data_report(data.splits, data.info, data.hashes)
    if data.splits["train"].files:
        from nanocnn.images.leaks import warn_of_leaks  # of which other images need nothing

        print_places(config.data, data.info.classes)
        warn_of_leaks(config.data, data.splits, data.hashes)
    print(f"{config.model.name}: {summary(model, data.info.image_shape)}")
    if config.data.augment.until < 1:
        epochs = config.train.epochs
        print(f"augmented: up to epoch {config.data.augment.last_of(epochs)} of {epochs}")
    for warning in harmful(config.data):
        print(f"warning: {warning}", file=sys.stderr)


def prepare_folder(place: Place, config: Config, model: nn.Module) -> Path:
    """The folder of a run, created unless it is one to go on with. Raises UserError."""
    check_free_space(place.run_dir or Path("runs"), model)
    if place.is_begun and place.run_dir:
        return place.run_dir
    return create_run_dir(config, place.run_dir)


def check_free_space(parent: Path, model: nn.Module) -> None:
    """Raises UserError where the disk of `parent` has no room for the checkpoints.

    Counted are weights and two moments of an optimizer, in three files (last, previous, best) and a
    fourth while it is written.
    """
    existing = next(folder for folder in (parent, *parent.absolute().parents) if folder.exists())
    needed = 4 * 3 * sum(tensor.nbytes for tensor in model.state_dict().values())
    total, _, free = shutil.disk_usage(existing)
    # no size: no disk, as in /proc; creating the folder will say so
    if total > 0 and free < needed:
        raise UserError(
            f"{existing}: the checkpoints may need {needed / 1e6:,.0f} MB, {free / 1e6:,.0f} MB "
            "are free"
        )


def warn_of_changes(folder: Path, facts: dict[str, Any]) -> None:
    """Where a run that goes on is computed otherwise than before, its bits may be others."""
    before, name = read_facts(folder), in_shell(folder)
    threads = before.get("threads")
    if isinstance(threads, int) and threads != facts["threads"] and facts["device"] == "cpu":
        print(
            f"warning: {name}: trained with {threads} threads before, with {facts['threads']} now, "
            "which round otherwise; for the same bits type "
            f"OMP_NUM_THREADS={threads} python train.py --resume {name}",
            file=sys.stderr,
        )
    versions = before.get("versions")
    before["torch"] = versions.get("torch") if isinstance(versions, dict) else None
    now = facts | {"torch": facts["versions"]["torch"]}
    for key in ("device", "precision", "memory_format", "torch", "processes"):
        if isinstance(before.get(key), str | int) and before[key] != now[key]:
            print(
                f"warning: {name}: {key} was {before[key]!r} before and is {now[key]!r} now, "
                "which rounds otherwise",
                file=sys.stderr,
            )


def announce_place(folder: Path, facts: dict[str, Any]) -> None:
    """Say where the run computes, reads and writes."""
    where = "{device}, {threads} threads, {precision}".format(**facts)
    if facts["data_root"]:
        where += f"; reading {facts['data_root']}"
    print(f"{where}; writing to {folder}")


def facts_of(
    config: Config, data: TrainingData, computing: Computing, laps: Laps, place: Place
) -> dict[str, Any]:
    """What one must know to judge or repeat a run, besides its config."""
    now = datetime.now().astimezone().isoformat(timespec="seconds")
    started, resumed = now, []
    if place.is_begun and place.run_dir:
        earlier = read_facts(place.run_dir)
        if not earlier:
            print(
                f"warning: {place.run_dir / 'run.json'}: lost or damaged; what it said of earlier "
                "times is not known any more",
                file=sys.stderr,
            )
        started = earlier.get("started", now)
        resumed = [
            *earlier.get("resumed", []),
            {"at": now, "step": earlier.get("step"), "after": earlier.get("exit_reason")},
        ]
        laps.add(earlier.get("seconds", {}))
    device, precision, memory_format, processes, _ = computing
    launch = Launch.of_environment()
    return {
        "started": started,
        "resumed": resumed,
        "versions": {
            "nanocnn": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            **{name: version(name) for name in ("torchvision", "numpy", "scikit-learn")},
        },
        "git": git_state(),
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "threads": torch.get_num_threads(),
        "processes": processes.share.size,
        "hosts": [*dict.fromkeys(processes.hosts)] or [socket.gethostname()],
        "torchrun_id": launch.run_id if launch else None,
        "precision": str(precision).removeprefix("torch."),
        "memory_format": str(memory_format).removeprefix("torch."),
        "data_root": config.data.own_folder,
        "data_sha256": data.sha256,
        "weights": data.info.weights or None,
        "images": {name: len(split.labels) for name, split in data.splits.items()},
        # the phases still to come appear in it when it is written at the end
        "seconds": laps.seconds,
    }


def git_state() -> dict[str, Any] | None:
    """The commit of this project, and whether files differ from it; None outside its own clone.

    Installed elsewhere, git would speak of whatever repository that folder lies in.
    """
    if not (PROJECT / ".git").exists():
        return None
    return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}


def git(*arguments: str) -> str | None:
    """What git says of this project, None where it is no repository or git is not installed."""
    command = ["git", "-C", str(PROJECT), *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def try_one_step(
    train: Callable[[Config, Place, Laps, int], Path], config: Config, laps: Laps
) -> None:
    """A run of one step, with a batch of its validation and all its files, in a folder that goes
    again.
    """
    once = {"epochs": 1, "checkpoint_every": None, "patience": None}
    changed = {
        "train": config.train.model_copy(update=once),
        "data": config.data.model_copy(update={"cache": False}),
        "log": type(config.log)(every=1),
    }
    with TemporaryDirectory() as folder, cleaned_up(partial(shutil.rmtree, folder)):
        try:
            train(config.model_copy(update=changed), Place(Path(folder, "run")), laps, 1)
        except Stopped as stop:
            raise Stopped(stop.number, "nothing was kept") from None
    print("dry run: one step, a batch of its validation and its files work; nothing was kept")
