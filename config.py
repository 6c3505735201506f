"""The schema of a config: every key with its type, range, default and one comment.

What only the data sets and networks know, `configure.py` adds: their names, and the keys of a network.
"""

import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, model_validator

from strict_yaml import inline

OWN_IMAGES = ("folder", "csv")  # the data sets that are files of the user
UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
SIZE = rf"^[1-9]\d*({'|'.join(UNITS)})$"
SECONDS = r"^([1-9]\d*(\.\d+)?|0\.\d*[1-9]\d*)s$"  # more than zero


class Section(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


class Named(Section):
    """A section whose `name` decides which other keys it takes."""

    model_config = ConfigDict(extra="allow")

    name: str

    def arguments(self, trained: bool = False) -> dict[str, Any]:
        """Every key but `name`; of a `trained` network those that give the first weights say nothing."""
        first = {"init": None, "pretrained": False} if trained else {}
        arguments = self.model_dump(exclude={"name"})
        return arguments | {key: value for key, value in first.items() if key in arguments}


class Augment(Section):
    shift: int = Field(0, ge=0, description="pixels; each image moves by up to this, both ways")


class Data(Section):
    dataset: str = Field("digits", description="the data set's name")
    root: str = Field("data", description="folder where data sets live")
    channels: Literal[1, 3] | None = Field(
        None, description="of your own images: 1 = grey, 3 = colour; null = 1 if all are grey"
    )
    image_size: int | None = Field(None, ge=1, description="pixels; null = the data set's own")
    resize: Literal["stretch", "crop", "pad"] = Field(
        "stretch", description="your own images to a square of image_size"
    )
    limit: int | None = Field(None, ge=1, description="images of train to use at all; null = all")
    validation: int | float = Field(
        0.1, ge=0, description="images (int) or fraction (float) carved from train; 0 = none"
    )
    memory_limit: Annotated[int, Field(ge=1)] | Annotated[str, Field(pattern=SIZE)] = Field(
        "4GB", description="bytes, or 500MB; more of your own images are read batch by batch"
    )
    skip_unreadable: bool = Field(
        False, description="leave out files of yours that are no images; false = refuse them"
    )
    augment: Augment = Augment()

    @property
    def memory_bytes(self) -> int:
        limit = self.memory_limit
        return limit if isinstance(limit, int) else int(limit[:-2]) * UNITS[limit[-2:]]

    @model_validator(mode="after")
    def check_own_images(self) -> "Data":
        for key in ("channels", "resize", "memory_limit", "skip_unreadable"):
            value = getattr(self, key)
            if self.dataset not in OWN_IMAGES and value != type(self).model_fields[key].default:
                raise ValueError(
                    f"{key} = {inline(value)}: cannot act on {self.dataset}, only where "
                    f"data.dataset is {' or '.join(OWN_IMAGES)}"
                )
        if self.resize != "stretch" and self.image_size is None:
            raise ValueError(f"resize = {self.resize}: cannot act without data.image_size")
        return self

    @model_validator(mode="after")
    def check_validation(self) -> "Data":
        if isinstance(self.validation, float) and self.validation >= 1:
            raise ValueError(
                f"validation = {self.validation}: a fraction should be less than 1; "
                "a number of images is written without a point"
            )
        return self


class CrossEntropy(Section):
    name: Literal["cross_entropy"] = "cross_entropy"
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="share spread over all classes")


class Group(Section):
    """Parameters with a learning rate and weight decay of their own; the first group that matches counts."""

    match: str = Field(min_length=1, description="pattern of parameter names, as in a shell")
    lr_mult: float = Field(1.0, ge=0, description="times the learning rate; 0 = frozen")
    decay_mult: float = Field(1.0, ge=0, description="times the weight decay")


class SGD(Section):
    name: Literal["sgd"] = "sgd"
    lr: float = Field(0.1, gt=0, description="peak learning rate")
    momentum: float = Field(0.9, ge=0, lt=1, description="share of the last update kept")
    nesterov: bool = Field(False, description="look-ahead momentum")
    weight_decay: float = Field(0.0, ge=0, description="L2 penalty, on every parameter")
    groups: list[Group] = Field([], description='{match: "features.*", lr_mult, decay_mult}, ...')

    @model_validator(mode="after")
    def check_nesterov(self) -> "SGD":
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov = true cannot act with momentum = 0")
        return self


class OneCycle(Section):
    name: Literal["one_cycle"] = "one_cycle"
    warmup: float = Field(0.2, ge=0, lt=1, description="share of all steps; then linear to zero")


class Constant(Section):
    name: Literal["constant"] = "constant"


class Train(Section):
    epochs: int = Field(10, ge=1, description="passes over the training images")
    batch_size: int = Field(128, ge=1, description="images in a step")
    checkpoint_every: (
        Annotated[int, Field(ge=1)] | Annotated[str, Field(pattern=SECONDS)] | None
    ) = Field(None, description="steps, or seconds as in 60s; null = each epoch")


class Log(Section):
    every: int = Field(50, ge=1, description="steps between two points of the training curves")


class Kaiming(Section):
    name: Literal["kaiming"] = "kaiming"
    bias: float = 0.0


class Xavier(Section):
    name: Literal["xavier"] = "xavier"
    bias: float = 0.0


class Normal(Section):
    name: Literal["normal"] = "normal"
    std: float = Field(0.01, gt=0)
    bias: float = 0.0


class Network(Named):
    model_config = ConfigDict(extra="forbid")

    init: Annotated[Kaiming | Xavier | Normal, Field(discriminator="name")] | None = Field(
        None, description="{name: kaiming | xavier | normal, bias, std}; null = the network's own"
    )


class Config(Section):
    name: str = Field("run", description="runs go to runs/<name>/")
    seed: int = Field(0, ge=0, lt=2**63, description="of weights, split, order, augmentation")
    device: Literal["auto", "cpu", "cuda", "mps"] = Field(
        "auto", description="auto = the fastest here"
    )
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="auto = bf16 where the device multiplies it natively, else fp32"
    )
    data: Data = Data()
    model: Named = Named(name="lenet")
    loss: CrossEntropy = CrossEntropy()
    optimizer: SGD = SGD()
    schedule: OneCycle | Constant = Field(OneCycle(), discriminator="name")
    train: Train = Train()
    log: Log = Log()

    @model_validator(mode="after")
    def check_name(self) -> "Config":
        if not re.fullmatch(r"\w[\w.-]*", self.name):
            raise ValueError(
                f"name = {self.name!r}: should name a folder with letters, digits, '_', '-' and '.'"
            )
        return self

    @model_validator(mode="before")
    @classmethod
    def fill_names(cls, values: dict[str, Any]) -> dict[str, Any]:
        """`schedule.warmup=0.1` means the default schedule: a section without a name has the default's."""
        for key, field in cls.model_fields.items():
            section = values.get(key)
            if isinstance(section, dict) and hasattr(field.default, "name"):
                values = values | {key: {"name": field.default.name} | section}
        return values


def dotted_items(section: Section, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every key with its value, those of the sections in it as `train.epochs`."""
    for key, value in section:
        yield prefix + key, value
        if isinstance(value, Section):
            yield from dotted_items(value, f"{prefix}{key}.")


def to_yaml(section: Section, indent: str = "") -> str:
    """Every key of `section` with its value and comment, as YAML that `load_config` reads back."""
    lines = []
    for key, value in section:
        field = type(section).model_fields[key]
        if isinstance(value, Section):
            lines.append(f"{indent}{key}:\n{to_yaml(value, indent + '  ')}")
            continue
        plain = section.model_dump(mode="json")[key]
        line = f"{indent}{key}: {inline(plain)}"
        variants = get_args(field.annotation) if get_origin(field.annotation) is Literal else ()
        allowed = " | ".join(variants) if len(variants) > 1 else ""
        comment = ": ".join(filter(None, [allowed, field.description]))
        lines.append(f"{line:<29} # {comment}\n" if comment else f"{line}\n")
    return "".join(lines)
