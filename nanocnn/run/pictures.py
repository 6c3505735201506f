"""TensorBoard's pictures of a run: what it makes of validation images, and what it has learned.

They change nothing: no state of the run is written, no number of its random ones used up.
"""

import sys
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nanocnn.config.schema import Config
from nanocnn.evaluation.evaluate import Evaluation
from nanocnn.images.stream import StreamError
from nanocnn.images.training_data import TrainingData
from nanocnn.run.curves import Curves
from nanocnn.run.ending import dead_units_of
from nanocnn.run.progress import Progress
from nanocnn.run.summary import copied, draw_run, judged, names_of
from nanocnn.system.output import one_line
from nanocnn.training.learner import Learner

MISTAKES = 15
AUGMENTED = 15  # images of a batch
CURVES = 10  # classes that have a precision-recall curve
SIDE, WIDTH = 96, 480  # pixels of an image among others, and of a row of them


class Pictures:
    """Draws into the event files of `curves`, at epochs of log.pictures.

    Whatever goes wrong is said once, and ends neither the run nor the other pictures.
    """

    def __init__(self, curves: Curves, config: Config, data: TrainingData, learner: Learner):
        self.curves, self.config, self.data, self.learner = curves, config, data, learner
        self.failed: set[str] = set()

    def draw(self, progress: Progress, validation: Evaluation | None, is_last: bool) -> None:
        """Those of an epoch that is over, and of the whole run if it is the last."""
        when = self.config.log.pictures
        is_first = progress.epoch == (0 if progress.head and not self.config.train.epochs else 1)
        if when == "never" or not (when == "each" or is_first or is_last):
            return
        step = progress.step
        parts: dict[str, Callable[[Any], None]] = {
            "weights": lambda writer: self.draw_weights(writer, step),
            "filters and maps": lambda writer: self.draw_network(writer, step),
            "dead ReLUs": lambda writer: self.draw_dead(writer, step),
            "augmented images": lambda writer: self.draw_batch(writer, progress),
        }
        if validation and self.data.val:
            parts["validation"] = lambda writer: self.draw_validation(writer, step, validation)
        if is_last:
            parts["whole run"] = lambda writer: draw_run(
                writer, self.config, self.data, self.learner, progress
            )
        for name, part in parts.items():
            self.attempt(name, part)

    def attempt(self, name: str, part: Callable[[Any], None]) -> None:
        """Draw a part, unless it has failed before. Raises StreamError, which ends the run too."""
        if name in self.failed or not self.curves.writer:
            return
        modes = {module: module.training for module in self.learner.model.modules()}
        devices = [self.device] if self.device.type == "cuda" else []
        try:
            with torch.random.fork_rng(devices), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of torch's tracer
                part(self.curves.writer)
            self.curves.flush()
        except StreamError:
            raise
        except (Exception, SystemExit) as error:  # noqa: BLE001  pictures are not worth a run
            self.failed.add(name)
            why = f"{type(error).__name__}: {' '.join(str(error).split())}"
            print(f"warning: TensorBoard shows no {name} from here on: {why}", file=sys.stderr)
        finally:
            for module, mode in modes.items():
                module.training = mode

    def draw_weights(self, writer: Any, step: int) -> None:
        """Histograms of the weights, and of their gradients in the last step of training."""
        for name, parameter in self.learner.model.named_parameters():
            writer.add_histogram(f"weights/{name}", parameter.detach().float().cpu(), step)
            if parameter.grad is not None:
                writer.add_histogram(f"gradients/{name}", parameter.grad.float().cpu(), step)

    def draw_network(self, writer: Any, step: int) -> None:
        """The first filters, and what the layers make of one image."""
        from nanocnn.evaluation.look_page import sheet_of_filters, sheet_of_steps
        from nanocnn.evaluation.looking import calls_of, first_filters
        from nanocnn.evaluation.maps import steps

        split, shape = self.data.val or self.data.train, self.data.info.image_shape
        model = copied(self.learner)
        if found := first_filters(calls_of(model, shape), shape):
            add_image(writer, f"filters/{found[0]}", sheet_of_filters(found[1]), step)
        image, _ = next(split.read([torch.zeros(1, dtype=torch.long, device=self.device)]))
        made, _ = steps(model, split.normalise(image).cpu())
        add_image(writer, "feature_maps", sheet_of_steps(image[0].cpu(), made), step)

    def draw_dead(self, writer: Any, step: int) -> None:
        """The share of units behind each ReLU that are zero for all images."""
        found = dead_units_of(judged(self.learner), self.data.val or self.data.train)
        for name, dead in found.items():
            writer.add_scalar(f"dead_relus/{name}", float(dead.float().mean()), step)

    def draw_batch(self, writer: Any, progress: Progress) -> None:
        """Images as augmentation makes them for the next epoch, or the last."""
        from nanocnn.evaluation.drawing import Cell, fitted, picture_of, sheet

        if not self.config.train.epochs:
            return
        epoch = min(progress.epoch + 1, self.config.train.epochs)
        _, images, labels = next(self.data.epoch(epoch))
        pixels = (images[:AUGMENTED] * self.data.train.std + self.data.train.mean).clamp(0, 255)
        names = names_of(self.data, labels.argmax(1) if labels.ndim == 2 else labels)
        cells = [
            Cell(name, [fitted(picture_of(image), SIDE)])
            for name, image in zip(names, pixels.round().byte().cpu().numpy(), strict=False)
        ]
        add_image(writer, "augmented", sheet(cells, WIDTH), progress.step)

    def draw_validation(self, writer: Any, step: int, validation: Evaluation) -> None:
        from nanocnn.evaluation import charts
        from nanocnn.evaluation.calibration import calibration, chances
        from nanocnn.evaluation.metrics import confusion

        truth, found = validation.labels, validation.predictions
        classes = [one_line(name) for name in self.data.info.classes]
        counts = confusion(truth, found, len(classes))
        writer.add_figure("confusion", charts.draw_confusion(counts, classes), step)
        likely = chances(validation.logits, 1.0)
        bins = calibration(likely, truth.numpy())["bins"]
        writer.add_figure("reliability", charts.draw_reliability(bins), step)
        for k in range(min(CURVES, len(classes))):
            is_k = truth.numpy() == k
            if is_k.any():
                writer.add_pr_curve(f"precision_recall/{classes[k]}", is_k, likely[:, k], step)
        wrong = np.flatnonzero(found.numpy() != truth.numpy())
        wrong = wrong[np.argsort(-likely.max(1)[wrong], kind="stable")][:MISTAKES]
        if len(wrong):
            picture = self.mistakes(torch.from_numpy(wrong), validation, likely.max(1))
            add_image(writer, "mistakes", picture, step)

    def mistakes(self, wrong: Tensor, validation: Evaluation, confidence: np.ndarray) -> Any:
        """These validation images with what they are and what they were taken for."""
        from nanocnn.evaluation.drawing import Cell, fitted, picture_of, sheet

        assert self.data.val
        images, _ = next(self.data.val.read([wrong.to(self.device)]))
        pairs = zip(
            names_of(self.data, validation.labels[wrong]),
            names_of(self.data, validation.predictions[wrong]),
            confidence[wrong.numpy()],
            images.cpu().numpy(),
            strict=True,
        )
        return sheet(
            [
                Cell(f"{label}, taken for {said} {sure:.0%}", [fitted(picture_of(image), SIDE)])
                for label, said, sure, image in pairs
            ],
            WIDTH,
        )

    @property
    def device(self) -> torch.device:
        return self.data.train.labels.device


def add_image(writer: Any, name: str, picture: Any, step: int) -> None:
    writer.add_image(name, np.asarray(picture.convert("RGB")), step, dataformats="HWC")
