"""The run folder: made for one run alone, and all that the run leaves there but its checkpoints."""

import hashlib
import json
import math
import platform
import subprocess
import time
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter
from typing_extensions import Self

from checkpoint import write_json
from config import Config, to_yaml
from dataset import Split
from engine import Evaluation, Update
from errors import NonFiniteError, UserError
from laps import Laps

PROJECT = Path(__file__).parent


def create_run_dir(config: Config, run_dir: Path | None = None) -> Path:
    """Create `run_dir`, by default runs/<name>/<time>, with its config.yaml; no two runs share a folder."""
    try:
        if run_dir is None:
            parent = Path("runs") / config.name
            parent.mkdir(parents=True, exist_ok=True)
            run_dir = first_new(parent, datetime.now().strftime("%Y-%m-%d_%H-%M-%S"))
        else:
            run_dir.mkdir(parents=True, exist_ok=True)
            if any(run_dir.iterdir()):
                raise FileExistsError
        with (run_dir / "config.yaml").open("x") as file:
            file.write(to_yaml(config))
    except FileExistsError:
        raise UserError(f"--run-dir {run_dir}: should name a new or an empty folder") from None
    except OSError as error:
        raise UserError(f"cannot create the run folder: {error}") from None
    return run_dir


def first_new(parent: Path, name: str) -> Path:
    """Create parent/name, or parent/name_2, name_3 ... if another run was faster."""
    run_dir, n = parent / name, 1
    while True:
        try:
            run_dir.mkdir()
            return run_dir
        except FileExistsError:
            n += 1
            run_dir = parent / f"{name}_{n}"


class Sums:
    """Loss, correct images and images, summed since `start`; on the device, for reading them waits for it."""

    def __init__(self) -> None:
        self.loss: Tensor | float = 0.0
        self.correct: Tensor | int = 0
        self.images = 0
        self.start = time.perf_counter()

    def add(self, loss: Tensor | float, correct: Tensor | int, images: int) -> None:
        self.loss = self.loss + loss
        self.correct = self.correct + correct
        self.images += images


class Record:
    """What happens in a run, as run.json, metrics.jsonl and TensorBoard curves in its folder.

    with Record(run_dir, config.log.every, steps_per_epoch, facts) as record:
        record.start_epoch(1)
        record.update(update)  # after each step
        row = record.end_epoch(model, validation)
    """

    def __init__(self, run_dir: Path, every: int, steps_per_epoch: int, facts: dict[str, Any]):
        self.run_dir, self.facts = run_dir, facts
        self.every, self.steps_per_epoch = every, steps_per_epoch
        self.writer = SummaryWriter(str(run_dir))
        self.metrics = (run_dir / "metrics.jsonl").open("a")

    def __enter__(self) -> Self:
        self.write_facts("running")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: object
    ) -> None:
        self.writer.close()
        self.metrics.close()
        self.write_facts(
            "finished" if kind is None else f"{kind.__name__}: {error}".removesuffix(": ")
        )

    def write_facts(self, exit_reason: str) -> None:
        write_json(self.run_dir / "run.json", {"exit_reason": exit_reason} | self.facts)

    def start_epoch(self, epoch: int) -> None:
        self.epoch = epoch
        self.sums, self.interval = Sums(), Sums()
        self.training_seconds = 0.0

    def update(self, update: Update) -> None:
        """Count one step; every `every` steps and at the epoch's end, add a point to the training curves.

        Raises NonFiniteError when the loss over these steps was not finite.
        """
        self.interval.add(update.loss * update.images, update.correct, update.images)
        if update.step % self.every and update.step % self.steps_per_epoch:
            return
        loss, correct = float(self.interval.loss), int(self.interval.correct)
        images = self.interval.images
        self.last = update
        self.check_finite("the loss", math.isfinite(loss))
        seconds = time.perf_counter() - self.interval.start
        for tag, value in [
            ("loss/train", loss / images),
            ("accuracy/train", correct / images),
            ("lr", update.lr),
            ("images_per_second", images / seconds),
        ]:
            self.writer.add_scalar(tag, value, update.step)
        self.sums.add(loss, correct, images)
        self.training_seconds += seconds
        self.interval = Sums()

    def check_finite(self, what: str, is_finite: bool) -> None:
        if not is_finite:
            raise NonFiniteError(
                f"{what} became infinite or NaN in epoch {self.epoch}, by step {self.last.step}, at lr "
                f"{self.last.lr:g}; {self.run_dir} has the checkpoints of the epochs before, if any"
            )

    def end_epoch(self, model: nn.Module, validation: Evaluation | None) -> dict[str, Any]:
        """Write the epoch's line of metrics.jsonl and its points of the validation curves.

        Raises NonFiniteError for a model that is not fit to be saved.
        """
        for name, tensor in model.state_dict().items():
            self.check_finite(name, bool(tensor.isfinite().all()))
        self.check_finite(
            "the validation loss", validation is None or math.isfinite(validation.loss)
        )
        step, images = self.last.step, self.sums.images
        row = {
            "epoch": self.epoch,
            "step": step,
            "lr": self.last.lr,
            "train_loss": float(self.sums.loss) / images,
            "train_accuracy": int(self.sums.correct) / images,
            "val_loss": validation.loss if validation else None,
            "val_accuracy": validation.accuracy if validation else None,
            "images_per_second": images / self.training_seconds,
            "seconds": time.perf_counter() - self.sums.start,
        }
        if validation:
            self.writer.add_scalar("loss/val", validation.loss, step)
            self.writer.add_scalar("accuracy/val", validation.accuracy, step)
        self.writer.flush()
        self.metrics.write(json.dumps(row, allow_nan=False) + "\n")
        self.metrics.flush()
        return row


def run_facts(
    device: torch.device, precision: torch.dtype, splits: dict[str, Split], laps: Laps
) -> dict[str, Any]:
    """What one must know to judge or repeat a run, besides its config."""
    checksum = hashlib.sha256()
    for split in splits.values():
        checksum.update(split.images.numpy().tobytes())
        checksum.update(split.labels.numpy().tobytes())
    return {
        "started": datetime.now().astimezone().isoformat(timespec="seconds"),
        "versions": {"python": platform.python_version(), "torch": torch.__version__}
        | {name: version(name) for name in ("torchvision", "numpy", "scikit-learn")},
        "git": {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))},
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "threads": torch.get_num_threads(),
        "precision": str(precision).removeprefix("torch."),
        "data_sha256": checksum.hexdigest(),
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
