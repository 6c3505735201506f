"""What happens in a run, as run.json, metrics.jsonl and TensorBoard curves in its folder."""

import json
import math
import os
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any, Self

from torch import Tensor

from nanocnn.evaluation.evaluate import Evaluation
from nanocnn.run.curves import Curves
from nanocnn.run.folder import identity_of
from nanocnn.run.progress import Progress
from nanocnn.run.rows import keep_rows
from nanocnn.run.sums import Sums
from nanocnn.system.errors import NonFiniteError, UserError
from nanocnn.system.files import write_json
from nanocnn.training.learner import StepResult


class Record:
    """What happens in a run, as run.json, metrics.jsonl and TensorBoard curves in its folder.

    with Record(run_dir, config.log.every, steps_per_epoch, facts, progress) as record:
        record.start_epoch(1)
        record.update(step, lr, result)  # after each step
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
        """Go on after `progress`: what files say of later steps is removed from them or hidden."""
        self.run_dir, self.facts, self.progress = run_dir, facts, progress
        self.every, self.steps_per_epoch = every, steps_per_epoch
        self.identity = identity_of(run_dir)
        keep_rows(run_dir / "metrics.jsonl", progress.epoch, progress.head is not None)
        self.metrics = (run_dir / "metrics.jsonl").open("a")
        # step 0 has points once the head is fitted
        done = progress.step if progress.head or progress.step else -1
        self.curves = Curves(run_dir, done)
        self.epoch, self.training_seconds = progress.epoch, 0.0
        self.sums, self.interval = Sums(), Sums()
        self.last_lr: float | None = None

    def __enter__(self) -> Self:
        self.write_facts("running")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: object
    ) -> None:
        self.curves.close()
        if self.identity != identity_of(self.run_dir):
            self.metrics.close()
            return
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
        partial = partial or {"sums": (), "interval": (), "training_seconds": 0.0, "lr": None}
        self.epoch = epoch
        self.sums, self.interval = Sums(*partial["sums"]), Sums(*partial["interval"])
        self.training_seconds, self.last_lr = partial["training_seconds"], partial["lr"]

    def partial(self) -> dict[str, Any]:
        """The sums of an epoch that is not over, for its checkpoint."""
        return {
            "sums": self.sums.read(),
            "interval": self.interval.read(),
            "training_seconds": self.training_seconds,
            "lr": self.last_lr,
        }

    def update(self, step: int, lr: float, result: StepResult) -> None:
        """Count step number `step` of the run; add a point to the training curves where due.

        That is every `every` steps and at the end of an epoch. Raises NonFiniteError when the loss
        since the last point was not finite.
        """
        self.last_lr = lr
        if step % self.every and step % self.steps_per_epoch:
            self.interval.add(result.total, result.correct, result.images, result.weight)
            return
        self.end_interval(result)

    def end_interval(self, result: StepResult) -> None:
        """Count `result`, and add a point to the training curves."""
        self.interval.add(result.total, result.correct, result.images, result.weight)
        loss, correct, images, seconds, weight = self.interval.read()
        self.check_finite("the loss", math.isfinite(loss))
        self.check_folder()
        values = {
            "loss/train": loss / weight,
            "accuracy/train": correct / images,
            "images_per_second": images / seconds,
        }
        if self.last_lr is not None:
            values["lr"] = self.last_lr
        self.curves.add(self.progress.step, values)
        self.sums.add(loss, correct, images, weight)
        self.training_seconds += seconds
        self.interval = Sums()

    def check_folder(self) -> None:
        """Raises UserError where what has the run folder's name is not the run folder any more."""
        now = identity_of(self.run_dir)
        if now != self.identity:
            what, other = ("replaced", "the new one") if now else ("deleted or moved", "it")
            raise UserError(
                f"{self.run_dir}: the run folder was {what} during the run, which ends here; "
                f"nothing was written to {other}"
            )

    def check_finite(self, what: str, is_finite: bool) -> None:
        if not is_finite:
            at = f", at lr {self.last_lr:g}" if self.last_lr is not None else ""
            raise NonFiniteError(
                f"{what} became infinite or NaN in epoch {self.epoch}, by step "
                f"{self.progress.step}{at}; "
                f"{self.run_dir} has the checkpoints from before, if any"
            )

    def check_state(self, state: Any, name: str = "") -> None:
        """Raises NonFiniteError for a tensor anywhere in `state` that is not fit to be saved."""
        if isinstance(state, dict):
            for key, value in state.items():
                self.check_state(value, f"{name}.{key}" if name else str(key))
        elif isinstance(state, Tensor):
            self.check_finite(name, bool(state.isfinite().all()))

    def end_epoch(self, validation: Evaluation | None) -> dict[str, Any]:
        """Write the epoch's line of metrics.jsonl and its points of the validation curves.

        Raises NonFiniteError where the validation loss is not finite.
        """
        self.check_finite(
            "the validation loss", validation is None or math.isfinite(validation.loss)
        )
        self.check_folder()
        step = self.progress.step
        loss, correct, images, seconds, weight = self.sums.read()
        row = {
            "epoch": self.epoch,
            "step": step,
            "lr": self.last_lr,
            "train_loss": loss / weight,
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
        self.check_folder()
        self.curves.flush()
        self.metrics.flush()
        os.fsync(self.metrics.fileno())
