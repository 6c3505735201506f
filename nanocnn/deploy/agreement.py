"""Whether a file says of real pictures what the checkpoint says."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from nanocnn.deploy.export import Judge
from nanocnn.evaluation.calibration import chances
from nanocnn.evaluation.evaluate import AverageFlips, evaluate
from nanocnn.images.batches import Batches
from nanocnn.images.decode import Form, flat, load
from nanocnn.images.splits import Split, load_train_and_val
from nanocnn.run.restore import Restored, temperature_of
from nanocnn.system.errors import UserError

CLOSE = 1e-3  # probabilities that are no further apart are the same
IMAGES = 200  # that a file is tried on
RANDOM = 32
TOGETHER = 50


class Examples(NamedTuple):
    """Images of a run, as its training read them and as one gives them to a file."""

    name: str  # of the split, or "random"
    images: Tensor  # (N, C, H, W) uint8
    labels: Tensor  # (N,) int64
    pictures: list[np.ndarray]  # each (n, height, width, C) uint8, together all N in their order


class Agreement(NamedTuple):
    images: int
    equal: int  # whose likeliest class is the same
    wrong: int  # of the others and of these, that are further apart than rounding
    greatest: float  # difference of two probabilities

    def __str__(self) -> str:
        return (
            f"top-1 equal on {self.equal:,} of {self.images:,}, greatest difference of a "
            f"probability {self.greatest:.1e}"
        )


def examples_of(restored: Restored, root: str | None, form: Form, most: int = IMAGES) -> Examples:
    """Validation images, where there are none training images, evenly spaced.

    Where they cannot be read random ones, and a warning; where they are not at a `root` that was
    given, raises UserError.
    """
    data = restored.config.data
    given = data.model_copy(update={"root": root} if root else {})
    try:
        if data.dataset != "digits" and not Path(given.root).is_dir():
            raise UserError(f"{given.root}: no such folder")  # nothing is fetched for this
        splits = load_train_and_val(given, restored.config.seed, restored.info)
    except UserError as error:
        if root:
            raise
        print(
            f"warning: {error}; tried on {RANDOM} random images instead; if the images have moved, "
            "type --data-root DIR",
            file=sys.stderr,
        )
        return random_examples(form)
    name = "val" if "val" in splits else "train"
    split, folder = splits[name], Path(given.root)
    count = len(split.labels)
    chosen = torch.linspace(0, count - 1, min(most, count)).round().long()
    images = torch.cat(list(read(split, restored, chosen)))
    if split.files:
        paths = [folder / split.files.paths[index] for index in chosen.tolist()]
        pictures = [decoded(path, form)[None] for path in paths]
    else:
        pictures = in_parts(images)
    return Examples(name, images, split.labels[chosen], pictures)


def read(split: Split, restored: Restored, chosen: Tensor) -> Iterator[Tensor]:
    batches = Batches(split, restored.info, TOGETHER, torch.device("cpu"))
    return (images for images, _ in batches.read(chosen.split(TOGETHER)))


def decoded(path: Path, form: Form) -> np.ndarray:
    """(H, W, C) uint8: the picture as a caller should give it to a file."""
    pixels = np.array(flat(load(path, form), form))
    return pixels.reshape(*pixels.shape[:2], form.shape[0])


def in_parts(images: Tensor) -> list[np.ndarray]:
    parts = images.permute(0, 2, 3, 1).split(TOGETHER)
    return [np.ascontiguousarray(part.numpy()) for part in parts]


def random_examples(form: Form) -> Examples:
    generator = torch.Generator().manual_seed(0)
    shape = (RANDOM, *form.shape)
    images = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    return Examples("random", images, torch.zeros(RANDOM, dtype=torch.long), in_parts(images))


def expected(restored: Restored, examples: Examples) -> np.ndarray:
    """Probabilities (N, classes) of the checkpoint, by the way that test.py goes."""
    split = Split(examples.images, examples.labels)
    batches = Batches(split, restored.info, TOGETHER, torch.device("cpu"))
    model = restored.model
    judged = AverageFlips(model) if restored.config.data.average_flips else model
    logits = evaluate(judged, batches).logits
    return chances(logits, temperature_of(restored.checkpoint) or 1.0)


def judged_by(judge: Judge, examples: Examples) -> np.ndarray:
    """Probabilities (N, classes) of a file."""
    return np.concatenate([judge(part) for part in examples.pictures])


def compare(found: np.ndarray, wanted: np.ndarray) -> Agreement:
    apart = np.nan_to_num(np.abs(found - wanted).max(axis=1), nan=np.inf)
    same = found.argmax(1) == wanted.argmax(1)
    best = np.sort(wanted, axis=1)
    tied = best[:, -1] - best[:, -2] <= CLOSE
    wrong = (apart > CLOSE) | ~(same | tied)
    return Agreement(len(found), int(same.sum()), int(wrong.sum()), float(apart.max()))


def check(what: str, agreement: Agreement) -> None:
    """Raises UserError where a file says something else than the checkpoint."""
    if agreement.wrong:
        raise UserError(
            f"{what}: disagrees with the checkpoint on {agreement.wrong:,} of "
            f"{agreement.images:,} images ({agreement}); nothing is written"
        )
