"""The end of a run: what is said of it."""

import math
import sys
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from nanocnn.config.schema import Config
from nanocnn.evaluation.activity import dead_units
from nanocnn.evaluation.evaluate import Evaluation
from nanocnn.evaluation.remarks import remarks
from nanocnn.images.batches import Batches
from nanocnn.images.stream import StreamError
from nanocnn.images.training_data import TrainingData
from nanocnn.run.progress import Progress
from nanocnn.run.rows import read_rows
from nanocnn.system.errors import UserError
from nanocnn.system.output import in_shell, one_line
from nanocnn.system.signals import Stopped, StopRequest
from nanocnn.training.learner import Learner

Item = TypeVar("Item")

MOST_PIXELS = 2_000_000  # of the images, at most so many, on which ReLUs are watched
MOST_IMAGES = 512
BATCH = 64


def remarks_on(
    folder: Path, data: TrainingData, learner: Learner, validation: Evaluation | None
) -> list[str]:
    """What is to be seen in the run in this folder, and in its last `validation`.

    Where a network cannot be watched that is said and ends nothing: the run is finished.
    """
    rows, classes = read_rows(folder / "metrics.jsonl"), data.info.classes
    judged = (validation.labels, validation.predictions) if validation else None
    dead: dict[str, Tensor] = {}
    try:
        if rows and rows[-1]["epoch"]:  # a head that was fitted trains no ReLU
            dead = dead_units_of(learner.parts.get("ema", learner.model), data.val or data.train)
    except Exception as error:  # noqa: BLE001  a network that a user wrote may do anything
        why = f"{type(error).__name__}: {' '.join(str(error).split())}"
        print(f"warning: no remarks on dead ReLUs: {why}", file=sys.stderr)
    return remarks(rows, judged, [*map(one_line, classes)], dead)


def dead_units_of(model: nn.Module, split: Batches) -> dict[str, Tensor]:
    """`dead_units` for images evenly over the split, which may be sorted by class."""
    count = len(split.labels)
    most = min(MOST_IMAGES, max(1, MOST_PIXELS // math.prod(split.images.shape[2:])))
    chosen = torch.linspace(0, count - 1, min(count, most), dtype=torch.float64).long()
    read = split.read(chosen.to(split.labels.device).split(BATCH))
    return dead_units(model, (split.normalise(images) for images, _ in read))


def until_stopped(
    request: StopRequest, items: Iterable[Item], most: int | None = None
) -> Iterator[Item]:
    """The items, at `most` so many; raises Stopped instead of the next once a signal came."""
    try:
        for item in islice(items, most):
            request.check()  # it may have come while this one was read
            yield item
            request.check()
    except StreamError:
        request.check()  # it may have ended what reads them
        raise


def announce_end(progress: Progress, is_validated: bool, said: list[str]) -> None:
    accuracy = f", validation accuracy {progress.best_score[0]:.2%}" if is_validated else ""
    print(f"best.pt: epoch {progress.best_epoch}{accuracy}")
    for remark in said:
        print(f"remark: {remark}")


def interrupted(end: BaseException, folder: Path, is_saved: bool) -> BaseException:
    """What to raise for a run that breaks off, by a signal or its images."""
    note = f"python train.py --resume {in_shell(folder)} goes on"
    if isinstance(end, Stopped):
        return Stopped(end.number, note)
    kept = "nothing" if is_saved else "nothing before its last checkpoint"
    return UserError(f"{end}; {kept} is lost: {note}")


def lower_rate(config: Config, run_dir: Path) -> str:
    """What to do where the loss or a weight of the run was no longer finite."""
    return (
        f"begin anew with optimizer.lr={config.optimizer.lr / 2:g}, half of it, or with what "
        f"nanocnn find-lr --config {in_shell(run_dir / 'config.yaml')} says"
    )
