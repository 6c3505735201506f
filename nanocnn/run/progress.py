"""How far a run has come, and when it is time for a checkpoint."""

import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field, fields
from typing import Any

from nanocnn.evaluation.calibration import fit_temperature
from nanocnn.evaluation.evaluate import Evaluation
from nanocnn.evaluation.unlike import fit_unlike


@dataclass
class Progress:
    """(epoch, step) is the whole state of a run besides model and optimizer."""

    epoch: int = 0  # epochs done, with their validation
    step: int = 0  # steps done
    partial: dict[str, Any] | None = None  # sums of an epoch begun (see Record), None between two
    validation: dict[str, Any] | None = None  # of the last epoch
    val_losses: list[float] = field(default_factory=list)  # of all epochs done
    head: dict[str, Any] | None = None  # validation of epoch 0, the head that was fitted
    best_epoch: int = 0
    # accuracy and, where that is a tie, minus the loss
    best_score: tuple[float, float] = (-1.0, 0.0)

    @property
    def place(self) -> tuple[int, int, bool]:
        """What tells two places of a run apart."""
        return self.epoch, self.step, self.head is not None

    def is_out_of(self, patience: int | None) -> bool:
        """Whether so many epochs in a row had no better validation than the best."""
        return patience is not None and self.epoch - self.best_epoch >= patience

    def end_epoch(self, validation: Evaluation | None) -> bool:
        """Count an epoch, and say whether it is the best; without validation the last one is."""
        self.epoch += 1
        if validation:
            self.val_losses.append(validation.loss)
        return self._judge(validation)

    def end_head(self, validation: Evaluation | None) -> bool:
        """Note that the head is fitted, which is epoch 0 and as yet the best."""
        is_best = self._judge(validation)
        self.head = self.validation
        return is_best

    def _judge(self, validation: Evaluation | None) -> bool:
        self.validation = dict.fromkeys(("loss", "accuracy", "temperature", "unlike"))
        score = (float(self.epoch), 0.0)
        if validation:
            logits, labels, traits = validation.logits, validation.labels, validation.traits
            self.validation = {
                "loss": validation.loss,
                "accuracy": validation.accuracy,
                "temperature": fit_temperature(logits, labels),
                "unlike": traits and fit_unlike(traits, labels, logits.shape[1]),
            }
            score = (validation.accuracy, -validation.loss)
        is_best = score > self.best_score
        if is_best:
            self.best_epoch, self.best_score = self.epoch, score
        return is_best


POSITION = [each.name for each in fields(Progress)]


def progress_of(checkpoint: dict[str, Any]) -> Progress:
    """How far the run of `checkpoint` had come; a copy, so that the run does not change it."""
    known = {key: checkpoint[key] for key in POSITION if key in checkpoint}  # earlier: no head
    return Progress(**deepcopy(known))


class Due:
    """Whether it is time for a checkpoint, as train.checkpoint_every says."""

    def __init__(self, every: int | str | None, decided: Callable[[bool], bool] = lambda due: due):
        """`decided` makes one answer of those of several processes, whose clocks differ."""
        self.every, self.decided = every, decided
        self.last = time.monotonic()

    def __call__(self, step: int, epoch_is_over: bool = False) -> bool:
        if self.every is None:
            return epoch_is_over
        if isinstance(self.every, int):
            return step % self.every == 0
        now = time.monotonic()
        due = now - self.last >= float(self.every.removesuffix("s"))
        if not epoch_is_over:  # which one process alone ends
            due = self.decided(due)
        if due:
            self.last = now
        return due
