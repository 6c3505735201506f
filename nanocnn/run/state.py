"""The state of a run, as its checkpoint keeps it."""

from dataclasses import asdict
from typing import Any

from nanocnn.config.schema import Config
from nanocnn.images.training_data import TrainingData
from nanocnn.run.progress import Progress, progress_of
from nanocnn.system.errors import UserError
from nanocnn.training.learner import Learner


def go_on(checkpoint: dict[str, Any], data: TrainingData, learner: Learner) -> Progress:
    """Give `learner` the state of `checkpoint`, and say how far its run had come.

    Raises UserError where the images, or the networks and optimizers of this version, are others.
    """
    check_images(checkpoint, data)
    progress = progress_of(checkpoint)
    done = progress.step - progress.epoch * data.steps_per_epoch
    if not 0 <= done <= data.steps_per_epoch or (progress.partial is None) != (done == 0):
        raise UserError(
            f"the checkpoint's step {progress.step:,} is not one of epoch {progress.epoch + 1}, "
            f"where an epoch has {data.steps_per_epoch:,} steps"
        )
    try:
        learner.load(checkpoint)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"the checkpoint's state does not fit this version: {error}") from None
    if progress.partial is not None:  # version 0.1 did not note the rate of the last step
        group = learner.optimizer.param_groups[0]
        progress.partial.setdefault("lr", group["lr"] / group["lr_mult"])
    return progress


def state_of(
    config: Config, data: TrainingData, learner: Learner, progress: Progress
) -> dict[str, Any]:
    """What a checkpoint keeps of a run, and `go_on` takes from it."""
    about = {
        "config": config.model_dump(mode="json"),
        "data": asdict(data.info),
        "data_sha256": data.sha256,
    }
    parts = {name: part.state_dict() for name, part in learner.parts.items()}
    return asdict(progress) | about | parts


def check_images(checkpoint: dict[str, Any], data: TrainingData) -> None:
    """Raises UserError where the images are not those that the run of `checkpoint` began with."""
    before, now = checkpoint["data"].get("background", "black"), data.info.background
    if before != now:
        raise UserError(
            f"the run began with transparent pictures over {before}, now they would lie over "
            f"{now}: it goes on with data.background={before}"
        )
    if checkpoint["data_sha256"] != data.sha256:
        is_earlier = data.info.shrink and not checkpoint["data"].get("shrink", False)
        raise UserError(
            "the images are not those that the run began with: their checksum differs"
            + ("; it began without data.shrink: data.shrink=false" if is_earlier else "")
        )
    if checkpoint["data"].get("test_sha256", "") != data.info.test_sha256:
        raise UserError("the images that are held out for the test are not those of this run")
