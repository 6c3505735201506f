"""What TensorBoard shows of a whole run, once: its config, what it came to, its network."""

import copy
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nanocnn.config.schema import Config, to_yaml
from nanocnn.images.batches import Batches
from nanocnn.images.training_data import TrainingData
from nanocnn.run.progress import Progress
from nanocnn.system.errors import UserError
from nanocnn.system.output import one_line
from nanocnn.training.learner import Learner

EMBEDDED = 500  # validation images
SPRITE, SHEET = 32, 8192  # pixels a side, at most, of an embedded image and of all


def draw_run(
    writer: Any, config: Config, data: TrainingData, learner: Learner, progress: Progress
) -> None:
    """The config, the options beside what they came to, an embedding, and the graph."""
    text = to_yaml(config)
    writer.add_text("config", "\n".join(f"    {line}" for line in text.splitlines()))
    draw_options(writer, config, progress)
    if data.val:
        draw_embedding(writer, learner, data, data.val)
    image = torch.zeros(1, *data.info.image_shape)
    # checking the trace would import a second's worth of modules
    writer.add_graph(torch.jit.trace(copied(learner), image, check_trace=False), image)


def draw_options(writer: Any, config: Config, progress: Progress) -> None:
    """A row of the page for hyperparameters, of this run and not, as add_hparams would, of one of
    its own; with figures of the validation alone.
    """
    from torch.utils.tensorboard.summary import hparams

    figures: dict[str, float] = {}
    if progress.val_losses or (progress.head and progress.head["accuracy"] is not None):
        accuracy, minus_loss = progress.best_score
        figures = {"best/val_accuracy": accuracy, "best/val_loss": -minus_loss}
    for summary in hparams(options_of(config), figures):
        writer.file_writer.add_summary(summary)
    for name, value in figures.items():
        writer.add_scalar(name, value, progress.step)


def draw_embedding(writer: Any, learner: Learner, data: TrainingData, val: Batches) -> None:
    """What reaches the last layer, of some validation images, where that one is linear."""
    count = len(val.labels)
    chosen = torch.linspace(0, count - 1, min(count, EMBEDDED), dtype=torch.float64).long()
    chunks = chosen.to(val.labels.device).split(64)
    seen: list[Tensor] = []

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        for images, labels in val.read(chunks):
            seen.append(images.cpu())
            yield val.normalise(images), labels

    try:
        found = learner.features(batches())
    except UserError:  # it ends in no linear layer, so there is nothing to embed
        return
    for earlier in ("00000", "projector_config.pbtxt"):  # of a run that has gone on since
        remove(Path(writer.log_dir, earlier))
    names = names_of(data, found.labels)
    writer.add_embedding(found.values, names, sprites(torch.cat(seen)), 0, "last_layer")


def remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def judged(learner: Learner) -> nn.Module:
    """The network whose weights are judged."""
    return learner.parts.get("ema", learner.model)


def copied(learner: Learner) -> nn.Module:
    return copy.deepcopy(judged(learner)).cpu().eval()


def names_of(data: TrainingData, labels: Tensor) -> list[str]:
    return [one_line(data.info.classes[k])[:20] for k in labels.tolist()]


def sprites(images: Tensor) -> Tensor:
    """Images (N, C, H, W) uint8 as colours from 0 to 1, in squares that fit TensorBoard's sheet."""
    a_row = int(np.ceil(np.sqrt(len(images))))
    side = max(8, min(SPRITE, *images.shape[2:], SHEET // a_row))
    small = nn.functional.interpolate(images.float() / 255, (side, side), mode="area")
    return small.expand(-1, 3, -1, -1) if small.shape[1] == 1 else small


def options_of(config: Config) -> dict[str, Any]:
    """The keys that the config sets, by their names with dots, and their values; the seed always.

    Those that no result depends on are left out.
    """
    found: dict[str, Any] = {"seed": config.seed}

    def add(prefix: str, values: dict[str, Any]) -> None:
        for key, value in values.items():
            if isinstance(value, dict):
                add(f"{prefix}{key}.", value)
            elif isinstance(value, bool | int | float | str):
                found[prefix + key] = value
            else:
                found[prefix + key] = "null" if value is None else str(value)

    values = config.model_dump(mode="json", exclude_unset=True, exclude={"name", "log"})
    values.get("data", {}).pop("root", None)
    add("", values)
    return found
