"""What the files of a run must hold, checked before anything is made of it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, JsonValue, ValidationError, model_validator
from torch import Tensor

from nanocnn.run.validation import Contents, Fraction, Validation
from nanocnn.system.errors import UserError
from nanocnn.system.files import read_file

FORMAT: Literal[3] = 3
COUNTED = 2**53  # beyond, a float is no longer exact
Count = Annotated[int, Field(ge=0, le=COUNTED)]
Seconds = Annotated[float, Field(ge=0)]
Side = Annotated[int, Field(ge=1, le=2**14)]
Loss = Annotated[float, Field(ge=-3e38, le=3e38)]  # it is added up in float32
# loss, correct images, images, seconds and, but for version 0.1, the weight of the images
Sums = tuple[Loss, Count, Count, Seconds, Seconds] | tuple[Loss, Count, Count, Seconds]


class Partial(Contents):
    """The first part of an epoch: see Record.partial."""

    sums: Sums
    interval: Sums
    training_seconds: Seconds
    lr: Annotated[float, Field(ge=0)] | None = None


class Data(Contents):
    """See DataInfo."""

    dataset: str
    classes: Annotated[list[str], Field(min_length=1)]
    mean: list[Fraction]
    std: list[Annotated[float, Field(gt=0, le=1)]]
    image_shape: tuple[Annotated[int, Field(ge=1, le=3)], Side, Side]
    class_counts: tuple[Count, ...] = ()
    background: Literal["black", "white"] = "black"
    test_sha256: Annotated[str, Field(pattern="^([0-9a-f]{64})?$")] = ""
    relabel_sha256: Annotated[str, Field(pattern="^([0-9a-f]{64})?$")] = ""
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    crop_fraction: Annotated[float, Field(gt=0, le=1)] = 1.0
    shrink: bool = False
    weights: str = ""
    transparent: bool | None = None
    grey: bool | None = None
    brightest: Annotated[int, Field(ge=0, le=255)] | None = None

    @model_validator(mode="after")
    def agree(self) -> Self:
        channels = self.image_shape[0]
        if len(self.mean) != channels or len(self.std) != channels:
            raise ValueError(f"should have a mean and an std for each of {channels} channels")
        if len(set(self.classes)) < len(self.classes):
            raise ValueError("should have a name of its own for each class")
        if len(self.class_counts) not in (0, len(self.classes)):
            raise ValueError(f"should have a count for each of {len(self.classes)} classes")
        return self


class Checkpoint(Contents):
    """What `save_checkpoint` writes. Whether weights and optimizer fit the network, it tells."""

    format: Literal[3]
    version: str = "0.1.0"
    semantics: Annotated[int, Field(ge=1)] = 1
    model: dict[str, Tensor]
    ema: dict[str, Tensor] = Field(default_factory=dict)
    optimizer: dict[str, Any]
    config: dict[str, JsonValue]
    data: Data
    data_sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    epoch: Count
    step: Count
    partial: Partial | None
    validation: Validation | None
    val_losses: list[float]
    head: Validation | None = None
    best_epoch: Count
    best_score: tuple[float, float]

    @model_validator(mode="after")
    def agree(self) -> Self:
        """Each epoch has steps, and what is said of the best and the last one is said of it."""
        options = self.config.get("train")
        if bool(self.ema) != bool(isinstance(options, dict) and options.get("ema")):
            raise ValueError("should have an ema where, and only where, its config has train.ema")
        losses, best = self.val_losses, self.best_epoch
        if not best <= self.epoch <= self.step:
            raise ValueError("should have best_epoch <= epoch <= step")
        if len(losses) not in (0, self.epoch):
            raise ValueError(f"should have none or {self.epoch} val_losses, one for each epoch")
        if losses and (self.validation is None or self.validation.loss != losses[-1]):
            raise ValueError("should have as validation.loss the last of val_losses")
        of_head = self.head.loss if self.head else None
        of_best = -losses[best - 1] if losses and best else -(of_head or 0.0)
        accuracy = self.best_score[0]
        is_right = 0 <= accuracy <= 1 if losses or of_head is not None else accuracy == best
        if self.best_score != (-1.0, 0.0) and not (is_right and self.best_score[1] == of_best):
            raise ValueError("should have as best_score what was said of best_epoch")
        return self


class Resumed(Contents):
    at: str
    step: Count | None
    after: str | None


class Facts(Contents):
    """What later runs read of run.json."""

    exit_reason: str
    epoch: Count
    step: Count
    started: str
    resumed: list[Resumed] = Field(default_factory=list)
    threads: Annotated[int, Field(ge=1)] | None = None
    processes: Annotated[int, Field(ge=1)] | None = None
    torchrun_id: str | None = None
    seconds: dict[str, Seconds]
    remarks: list[str] = Field(default_factory=list)


class Row(Contents):
    """A line of metrics.jsonl."""

    epoch: Count
    step: Count
    lr: float | None
    train_loss: float
    train_accuracy: Fraction
    val_loss: float | None
    val_accuracy: Fraction | None
    images_per_second: Seconds
    seconds: Seconds


def check_contents(kind: type[Contents], values: Mapping[Any, Any]) -> None:
    """Raises UserError for what `values` must not hold as a `kind`."""
    try:
        kind.model_validate(values)
    except ValidationError as error:
        complaint = error.errors(include_url=False)[0]
        key = ".".join(map(str, complaint["loc"][:6]))
        value, message = complaint["input"], complaint["msg"].removeprefix("Value error, ")
        is_plain = isinstance(value, str | int | float | None) and len(repr(value)) <= 60
        shown = f" = {value!r}" if is_plain and complaint["type"] != "missing" else ""
        message = message.replace("Input should", "should")
        raise UserError(f"its {key}{shown}: {message}" if key else f"it {message}") from None


def read_json(path: Path, kind: type[Contents]) -> dict[str, Any]:
    """The object in a JSON file. Raises UserError where it is no `kind`, OSError where no file."""
    values = parse_json(read_file(path), kind)
    if values is None:
        raise UserError(f"{path}: damaged")
    return values


def parse_json(text: bytes, kind: type[Contents]) -> dict[str, Any] | None:
    """The object that `text` is in JSON, None where it is no `kind`."""
    try:
        values = json.loads(text)
        if not isinstance(values, dict):
            return None
        check_contents(kind, values)
    except (ValueError, RecursionError):  # a UserError is a ValueError
        return None
    return values
