"""All that a run leaves in its folder but its config and its checkpoints: facts, metrics and curves."""

import json
import math
import os
import platform
import subprocess
import sys
import time
from contextlib import nullcontext, suppress
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from typing_extensions import Self

from checkpoint import Progress
from dataset import Split
from device import Computing
from engine import Evaluation, Update
from errors import NonFiniteError
from files import replacing, write_json
from laps import Laps

PROJECT = Path(__file__).parent


class Sums:
    """Loss, correct images and images, summed since `start`; on the device, for reading them waits for it."""

    def __init__(
        self, loss: float = 0.0, correct: int = 0, images: int = 0, seconds: float = 0.0
    ) -> None:
        self.loss: Tensor | float = loss
        self.correct: Tensor | int = correct
        self.images = images
        self.start = time.perf_counter() - seconds

    def add(self, loss: Tensor | float, correct: Tensor | int, images: int) -> None:
        self.loss = self.loss + loss
        self.correct = self.correct + correct
        self.images += images

    def read(self) -> tuple[float, int, int, float]:
        """What `Sums(...)` goes on from."""
        seconds = time.perf_counter() - self.start
        return float(self.loss), int(self.correct), self.images, seconds


class Curves:
    """TensorBoard's event files. What cannot be drawn is said once: curves are not worth a run."""

    def __init__(self, run_dir: Path, step: int):
        """`step` is the last one done: points beyond it, of a run that broke off, are hidden."""
        self.writer: Any = None
        try:
            from torch.utils.tensorboard import SummaryWriter

            self.writer = SummaryWriter(str(run_dir), purge_step=step + 1)
        except (ImportError, OSError) as error:
            self.give_up(error)

    def add(self, step: int, values: dict[str, float]) -> None:
        """Add a point to each curve of `values`."""
        if self.writer:
            try:
                for tag, value in values.items():
                    self.writer.add_scalar(tag, value, step)
            except OSError as error:
                self.give_up(error)

    def flush(self) -> None:
        if self.writer:
            try:
                self.writer.flush()
            except OSError as error:
                self.give_up(error)

    def close(self) -> None:
        self.flush()  # which raises where closing would wait for a thread that is no more
        if self.writer:
            self.writer.close()

    def give_up(self, error: Exception) -> None:
        self.writer = None
        print(f"warning: no TensorBoard curves from here on: {error}", file=sys.stderr)


class Record:
    """What happens in a run, as run.json, metrics.jsonl and TensorBoard curves in its folder.

    with Record(run_dir, config.log.every, steps_per_epoch, facts, progress) as record:
        record.start_epoch(1)
        record.update(update)  # after each step
        row = record.end_epoch(validation)
    """

    def __init__(
        self,
        run_dir: Path,
        every: int,
        steps_per_epoch: int,
        facts: dict[str, Any],
        progress: Progress,
    ):
        """Go on after `progress`: what the files say of later epochs and steps is removed from them or hidden."""
        self.run_dir, self.facts, self.progress = run_dir, facts, progress
        self.every, self.steps_per_epoch = every, steps_per_epoch
        path = run_dir / "metrics.jsonl"
        rows = path.read_bytes().splitlines(keepends=True) if path.exists() else []
        with replacing(path) as file:
            file.writelines(rows[: progress.epoch])
        self.metrics = path.open("a")
        self.curves = Curves(run_dir, progress.step)
        self.epoch, self.training_seconds = progress.epoch, 0.0
        self.sums, self.interval = Sums(), Sums()
        self.last: Update | None = None

    def __enter__(self) -> Self:
        self.write_facts("running")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: object
    ) -> None:
        self.curves.close()
        # a full disk may well be why it ended
        with suppress(OSError) if error else nullcontext():
            self.metrics.close()
            self.write_facts(
                "finished" if kind is None else f"{kind.__name__}: {error}".removesuffix(": ")
            )

    def write_facts(self, exit_reason: str) -> None:
        done = {"epoch": self.progress.epoch, "step": self.progress.step}
        write_json(self.run_dir / "run.json", {"exit_reason": exit_reason} | done | self.facts)

    def start_epoch(self, epoch: int, partial: dict[str, Any] | None = None) -> None:
        """Begin an epoch, or go on with one of which `partial` has the first part."""
        partial = partial or {"sums": (), "interval": (), "training_seconds": 0.0}
        self.epoch = epoch
        self.sums, self.interval = Sums(*partial["sums"]), Sums(*partial["interval"])
        self.training_seconds = partial["training_seconds"]

    def partial(self) -> dict[str, Any]:
        """The sums of an epoch that is not over, for its checkpoint."""
        return {
            "sums": self.sums.read(),
            "interval": self.interval.read(),
            "training_seconds": self.training_seconds,
        }

    def update(self, update: Update) -> None:
        """Count one step; every `every` steps and at the epoch's end, add a point to the training curves.

        Raises NonFiniteError when the loss over these steps was not finite.
        """
        self.interval.add(update.loss * update.images, update.correct, update.images)
        self.last = update
        if update.step % self.every and update.step % self.steps_per_epoch:
            return
        loss, correct, images, seconds = self.interval.read()
        self.check_finite("the loss", math.isfinite(loss))
        values = {
            "loss/train": loss / images,
            "accuracy/train": correct / images,
            "lr": update.lr,
            "images_per_second": images / seconds,
        }
        self.curves.add(update.step, values)
        self.sums.add(loss, correct, images)
        self.training_seconds += seconds
        self.interval = Sums()

    def check_finite(self, what: str, is_finite: bool) -> None:
        if not is_finite:
            at = f", at lr {self.last.lr:g}" if self.last else ""
            raise NonFiniteError(
                f"{what} became infinite or NaN in epoch {self.epoch}, by step {self.progress.step}{at}; "
                f"{self.run_dir} has the checkpoints from before, if any"
            )

    def check_state(self, state: Any, name: str = "") -> None:
        """Raises NonFiniteError for a tensor anywhere in `state` that is not fit to be saved."""
        if isinstance(state, dict):
            for key, value in state.items():
                self.check_state(value, f"{name}.{key}" if name else str(key))
        elif isinstance(state, Tensor):
            self.check_finite(name, bool(state.isfinite().all()))

    def end_epoch(self, validation: Evaluation | None, lr: float) -> dict[str, Any]:
        """Write the epoch's line of metrics.jsonl and its points of the validation curves.

        Raises NonFiniteError where the validation loss is not finite.
        """
        self.check_finite(
            "the validation loss", validation is None or math.isfinite(validation.loss)
        )
        step = self.progress.step
        loss, correct, images, seconds = self.sums.read()
        row = {
            "epoch": self.epoch,
            "step": step,
            "lr": lr,
            "train_loss": loss / images,
            "train_accuracy": correct / images,
            "val_loss": validation.loss if validation else None,
            "val_accuracy": validation.accuracy if validation else None,
            "images_per_second": images / self.training_seconds,
            "seconds": seconds,
        }
        if validation:
            values = {"loss/val": validation.loss, "accuracy/val": validation.accuracy}
            self.curves.add(step, values)
        self.metrics.write(json.dumps(row, allow_nan=False) + "\n")
        self.flush()
        return row

    def flush(self) -> None:
        """Bring to disk what belongs to the checkpoint that follows."""
        self.curves.flush()
        self.metrics.flush()
        os.fsync(self.metrics.fileno())


def run_facts(
    computing: Computing,
    splits: dict[str, Split],
    data_sha256: str,
    laps: Laps,
    earlier: dict[str, Any] | None,
) -> dict[str, Any]:
    """What one must know to judge or repeat a run, besides its config; `earlier` of a run that goes on."""
    now = datetime.now().astimezone().isoformat(timespec="seconds")
    started, resumed = now, []
    if earlier is not None:
        started = earlier.get("started", now)
        resumed = [
            *earlier.get("resumed", []),
            {"at": now, "step": earlier.get("step"), "after": earlier.get("exit_reason")},
        ]
        laps.add(earlier.get("seconds", {}))
    device, precision, memory_format = computing
    return {
        "started": started,
        "resumed": resumed,
        "versions": {"python": platform.python_version(), "torch": torch.__version__}
        | {name: version(name) for name in ("torchvision", "numpy", "scikit-learn")},
        "git": {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))},
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "threads": torch.get_num_threads(),
        "precision": str(precision).removeprefix("torch."),
        "memory_format": str(memory_format).removeprefix("torch."),
        "data_sha256": data_sha256,
        "images": {name: len(split.labels) for name, split in splits.items()},
        "seconds": laps.seconds,  # the phases still to come appear in it when it is written at the end
    }


def git(*arguments: str) -> str | None:
    """What git says of this project, None where it is no repository or git is not installed."""
    command = ["git", "-C", str(PROJECT), *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
