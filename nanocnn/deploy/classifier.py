"""A trained network as one uses it: pictures in, names and probabilities out."""

from collections.abc import Generator, Iterable, Iterator
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from nanocnn.config.schema import OWN_IMAGES, Config
from nanocnn.evaluation.unlike import Judgement, Traits, brightness_of, projected, view_of
from nanocnn.images.decode import Form
from nanocnn.images.new_pictures import (
    Given,
    Picture,
    Unreadable,
    form_for,
    read_in_batches,
    several,
)
from nanocnn.images.splits import DataInfo
from nanocnn.networks.build import Networks
from nanocnn.networks.head import Tap, linear_head
from nanocnn.networks.model_file import load_networks, shipped_model_file
from nanocnn.run.restore import Restored, faster, restore, temperature_of, validation_of
from nanocnn.system.errors import UserError
from nanocnn.training.device import Computing, pick_computing

Invert = Literal["auto", "never", "always"]
Value = TypeVar("Value")
Pictures = Picture | Iterable[Picture | Unreadable]
NAMED = 3  # pictures of a long list that an error names


class Prediction(NamedTuple):
    """What a network says of a picture."""

    file: str | None  # its path, if it was given by that
    label: str | None  # the likeliest class; None: none is as likely as the threshold
    probability: float  # of the likeliest class, calibrated
    top: list[tuple[str, float]]  # the likeliest classes and their probabilities
    unlike: list[str] | None  # in what it is unlike the training images; None: not judged
    inverted: bool  # whether light and dark were exchanged before it was judged


class Output(NamedTuple):
    """What the network made of a batch, on the CPU."""

    probabilities: Tensor  # (B, classes) float64
    features: Tensor | None  # (B, F) float32; None where it does not end in a linear layer
    inverted: list[bool]
    unlike: list[list[str] | None]  # see Prediction


def load(
    path: Path | str, *, device: str = "auto", networks: Networks | None = None
) -> "Classifier":
    """The classifier of a run folder (its best.pt) or of a .pt file.

    `device` is auto, cpu, cuda or mps. `networks` are those that a config can name, by default
    those of the model.py that came with the package. Raises UserError where there is no checkpoint,
    or `networks` cannot make its network.
    """
    networks = networks or load_networks(shipped_model_file())
    return classifier_of(restore(path, networks=networks), device)


def classifier_of(restored: Restored, device: str | None, typed: str = "device=") -> "Classifier":
    """The classifier of a checkpoint; without a `device` it has that of its training.

    `typed` is how the command takes another one.
    """
    config, info = restored.config, restored.info
    computing = computing_for(config, device, typed)
    model, _ = faster(restored.model, info, True, config.data.average_flips)
    head = linear_head(model, info.image_shape)
    tap = Tap(head) if head else None
    model = computing.place(model.eval().requires_grad_(False))
    found = validation_of(restored.checkpoint).get("unlike")
    return Classifier(
        config,
        info,
        form_for(config.data, info),
        temperature_of(restored.checkpoint) or 1.0,
        Judgement(found) if found else None,
        model,
        computing,
        tap,
    )


def computing_for(config: Config, device: str | None, typed: str = "device=") -> Computing:
    """As in training, but in float32: a picture has the same answer on every machine, and that of
    an exported file.
    """
    return pick_computing(config.model_copy(update={"precision": "fp32"}), device, typed)


@dataclass(frozen=True, repr=False)
class Classifier:
    """What a run has learned, for new pictures.

    A picture is a path, a PIL image, or an array of uint8: (H, W) grey, or (H, W, 3) RGB, or
    (H, W, 4) RGBA. It is read as training read its images: any size and format, turned as its EXIF
    says. Wherever pictures are taken, that is one of them or several, as a list, a generator or an
    array (N, H, W, C). Nothing in a classifier changes once it is made, so that threads may share
    it.
    """

    config: Config
    info: DataInfo
    form: Form  # what a picture is made into
    temperature: float  # 1: not calibrated
    judgement: Judgement | None  # of what is unlike the training images; None: not known
    _model: nn.Module
    _computing: Computing
    _tap: Tap | None

    def __repr__(self) -> str:
        return f"<{self.config.model.name} of {len(self.classes)} classes on {self.device}>"

    @property
    def classes(self) -> list[str]:
        """The names, in the order of the probabilities."""
        return list(self.info.classes)

    @property
    def device(self) -> torch.device:
        return self._computing.device

    @property
    def judges(self) -> bool:
        """Whether it can tell pictures unlike its training images: the run had enough validation
        images, and its network ends in a linear layer.
        """
        return self.judgement is not None and bool(self.judgement.gaussians)

    def to(self, device: str) -> "Classifier":
        """The same on another device (auto, cpu, cuda, mps); this one stays where it is."""
        computing = computing_for(self.config, device)
        model, tap = deepcopy((self._model, self._tap))
        return replace(self, _model=computing.place(model), _computing=computing, _tap=tap)

    def predict(
        self,
        pictures: Pictures,
        *,
        top: int = 5,
        threshold: float = 0.0,
        invert: Invert = "auto",
        batch_size: int | None = None,
    ) -> list[Prediction]:
        """What the network says of each picture, in their order.

        `top` classes are named. Where none has the probability `threshold` the label is None.
        `invert` says whether light and dark are exchanged first, "auto" where the picture shows
        what the training images show the other way round. Raises UserError for pictures that
        cannot be read; `stream` goes on after them.
        """
        found = self.stream(
            pictures, top=top, threshold=threshold, invert=invert, batch_size=batch_size
        )
        return all_read(found)

    def stream(
        self,
        pictures: Pictures,
        *,
        top: int = 5,
        threshold: float = 0.0,
        invert: Invert = "auto",
        batch_size: int | None = None,
    ) -> Generator[Prediction | Unreadable]:
        """As `predict`, one by one, in little memory however many there are.

        In the place of a picture that cannot be read comes an `Unreadable` with the reason.
        """
        count = max(1, min(top, len(self.classes)))
        for batch, output in self.outputs(pictures, invert, batch_size):
            chances, order = output.probabilities.topk(count)
            rows = iter(
                zip(chances.tolist(), order.tolist(), output.unlike, output.inverted, strict=True)
            )
            for each in batch:
                if isinstance(each, Unreadable):
                    yield each
                    continue
                likely, indices, unlike, inverted = next(rows)
                names = [self.info.classes[index] for index in indices]
                label = names[0] if likely[0] >= threshold else None
                named = list(zip(names, likely, strict=True))
                yield Prediction(each.file, label, likely[0], named, unlike, inverted)

    def probabilities(self, pictures: Pictures, *, invert: Invert = "auto") -> np.ndarray:
        """(N, classes) float64: calibrated probabilities of all classes.

        Raises UserError for pictures that cannot be read.
        """
        rows = [
            row
            for batch, output in self.outputs(pictures, invert)
            for row in in_their_places(batch, output.probabilities.numpy())
        ]
        found = all_read(rows)
        return np.stack(found) if found else np.zeros((0, len(self.classes)))

    def features(self, pictures: Pictures, *, invert: Invert = "auto") -> np.ndarray:
        """(N, F) float32: what reaches the last linear layer.

        Raises UserError for pictures that cannot be read, and where the network does not end in a
        linear layer.
        """
        if self._tap is None:
            raise UserError(f"{self.config.model.name}: does not end in a linear layer")
        rows = [
            row
            for batch, output in self.outputs(pictures, invert)
            if output.features is not None
            for row in in_their_places(batch, output.features.numpy())
        ]
        found = all_read(rows)
        return np.stack(found) if found else np.zeros((0, self._tap.size), np.float32)

    def outputs(
        self, pictures: Pictures, invert: Invert = "auto", batch_size: int | None = None
    ) -> Iterator[tuple[list[Given | Unreadable], Output]]:
        """Each batch, and what the network makes of those in it that can be read."""
        for batch in read_in_batches(several(pictures), self.form, batch_size):
            yield batch, self.judge([each for each in batch if isinstance(each, Given)], invert)

    def judge(self, given: list[Given], invert: Invert = "auto") -> Output:
        """What the network makes of pictures that were read."""
        if not given:
            return Output(torch.zeros(0, len(self.info.classes)), None, [], [])
        images = torch.from_numpy(np.stack([each.pixels for each in given]))
        brightness = self.brightness_of(images, given)
        inverted = [invert == "always"] * len(given)
        if invert == "auto" and self.judgement:
            inverted = self.judgement.is_inverse(brightness)
        for place, each in enumerate(given):
            if inverted[place]:
                left, top, right, bottom = each.box
                images[place, :, top:bottom, left:right] = (
                    255 - images[place, :, top:bottom, left:right]
                )
                brightness[place, :2] = 255 - brightness[place, :2]
        logits, features, view = self.compute(images.to(self.device))
        probabilities = (logits.double() / self.temperature).softmax(1)
        traits = Traits(None if features is None else projected(features), view, brightness)
        return Output(probabilities, features, inverted, self.unlike(traits, given))

    def brightness_of(self, images: Tensor, given: list[Given]) -> Tensor:
        """(B, 3): see Traits. What pads a picture counts where training had it too."""
        _, height, width = self.info.image_shape
        whole = (0, 0, width, height)
        if self.info.dataset in OWN_IMAGES or all(each.box == whole for each in given):
            return brightness_of(images.float())
        found = []
        for image, each in zip(images, given, strict=True):
            left, top, right, bottom = each.box
            found.append(brightness_of(image[None, :, top:bottom, left:right].float()))
        return torch.cat(found)

    def unlike(self, traits: Traits, given: list[Given]) -> list[list[str] | None]:
        """In what each is unlike the training images, for Prediction."""
        found: list[list[str]] = [["size"] if self.is_of_other_size(each) else [] for each in given]
        if not self.judgement:
            return [reasons or None for reasons in found]
        other_contrast = self.judgement.is_of_other_contrast(traits.brightness)
        far = self.judgement.is_far(traits)
        for place, reasons in enumerate(found):
            reasons += ["contrast"] * other_contrast[place]
            reasons += ["features"] * bool(far and far[place])
        # that nothing was found would say little where the features could not be judged
        return [reasons or (None if far is None else []) for reasons in found]

    def is_of_other_size(self, picture: Given) -> bool:
        """Whether it has fewer pixels than the network reads, and the training images had not; or
        another size than theirs, where all had one and were not resized.

        Of own pictures that training resized it is not known how large they were.
        """
        sides = self.info.image_shape[1:]
        if self.info.dataset not in OWN_IMAGES:
            left, top, right, bottom = picture.box
            return picture.size[0] < bottom - top or picture.size[1] < right - left
        return self.config.data.sides is None and picture.size != sides

    @torch.inference_mode()
    def compute(self, images: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        """Logits, features and view (see Traits), on the CPU, of images (B, C, H, W) uint8."""
        mean, std = self.info.moments(images.device)
        normalised = (images - mean) / std
        with self._computing.autocast():
            logits = self._model(normalised)
        features = self._tap.take().cpu() if self._tap else None
        return logits.float().cpu(), features, view_of(normalised).cpu()


def in_their_places(
    batch: list[Given | Unreadable], values: np.ndarray
) -> list[np.ndarray | Unreadable]:
    """The rows of `values`, one for each picture that was read, and the others as they are."""
    rows = iter(values)
    return [each if isinstance(each, Unreadable) else next(rows) for each in batch]


def all_read(found: Iterable[Value | Unreadable]) -> list[Value]:
    """What was `found` of all pictures. Raises UserError where some could not be read."""
    values: list[Value] = []
    reasons: list[str] = []
    for place, each in enumerate(found):
        if isinstance(each, Unreadable):
            reasons.append(f"{each.file or f'number {place}'} ({each.reason})")
        else:
            values.append(each)
    if reasons:
        more = f" and {len(reasons) - NAMED:,} more" if len(reasons) > NAMED else ""
        raise UserError(
            f"{len(reasons):,} of {len(reasons) + len(values):,} pictures cannot be read: "
            f"{', '.join(reasons[:NAMED])}{more}"
        )
    return values
