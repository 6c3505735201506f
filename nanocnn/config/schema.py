"""The schema of a config: every key with its type, range, default and one comment.

What only the networks know, their names and keys, `load.py` adds.
"""

import math
import os
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Self, get_args, get_origin

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from pydantic.fields import FieldInfo

from nanocnn.config.preprocessing import Interpolation, Preprocessing
from nanocnn.config.strict_yaml import inline

OWN_IMAGES = ("folder", "csv")  # the data sets that are files of the user
DataSetName = Literal[
    "digits", "mnist", "fashion_mnist", "kmnist", "emnist_letters", "emnist_balanced",
    "cifar10", "cifar100", "svhn", "folder", "csv",
]  # fmt: skip
UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
SIZE = rf"^[1-9][0-9]{{0,8}}({'|'.join(UNITS)})$"
# more than zero
SECONDS = r"^([1-9][0-9]{0,8}(\.[0-9]{1,9})?|0\.[0-9]{0,8}[1-9][0-9]{0,8})s$"
SMALLEST_ALPHA = 1e-3  # of a Beta distribution, for torch to draw from it
SMALLEST, LARGEST = 1e-37, 1e38  # what float32 holds, but for 0; below it torch loses digits


def is_encoding(name: str) -> bool:
    """Whether Python knows a text encoding of this name."""
    try:
        "".encode(name)
    except (LookupError, ValueError):
        return False
    return True


def check_pattern(pattern: str, may_be_column: bool) -> None:
    """Raises ValueError for a `pattern` of groups that is none."""
    try:
        count = re.compile(pattern).groups
    except re.error as error:
        if may_be_column:
            return
        raise ValueError(f"group = {pattern}: is no regular expression: {error}") from None
    if count != 1 and not may_be_column:
        raise ValueError(
            f"group = {pattern}: should have one group in parentheses, what it finds there, and "
            f"has {count}"
        )


def bytes_of(size: int | str) -> int:
    return size if isinstance(size, int) else int(size[:-2]) * UNITS[size[-2:]]


class Section(BaseModel):
    model_config = ConfigDict(
        defer_build=True, strict=True, extra="forbid", frozen=True, allow_inf_nan=False
    )

    @model_validator(mode="after")
    def check_numbers(self) -> Self:
        """Refuse what would become zero, infinity or an overflow in torch."""
        for key, value in self:
            for number in numbers_in(value):
                if isinstance(number, int) and abs(number) >= 2**63:
                    raise ValueError(f"{key}: should be a number of at most 18 digits")
                if number != 0 and not SMALLEST <= abs(number) <= LARGEST:
                    raise ValueError(
                        f"{key} = {inline(value)}: should be 0 or between {SMALLEST:g} and "
                        f"{LARGEST:g}, as float32 is"
                    )
        return self


def numbers_in(value: Any) -> Iterator[int | float]:
    """`value`, if it is a number, or those in a list; not those of a section, which checks them."""
    if isinstance(value, list | tuple):
        for item in value:
            yield from numbers_in(item)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield value


class Named(Section):
    """A section whose `name` decides which other keys it takes."""

    model_config = ConfigDict(extra="allow")

    name: str

    def arguments(self, trained: bool = False) -> dict[str, Any]:
        """Every key but `name` and `weights`; of a `trained` network those that give the first
        weights say nothing.
        """
        first = {"init": None, "pretrained": False} if trained else {}
        arguments = self.model_dump(exclude={"name", "weights"})
        return arguments | {key: value for key, value in first.items() if key in arguments}


Share = Annotated[float, Field(ge=0.01, le=1)]


class Augment(Section):
    shift: int = Field(0, ge=0, description="pixels; each image moves by up to this, both ways")
    rotate: float = Field(0.0, ge=0, le=180, description="degrees; turns by up to this, both ways")
    scale: float = Field(0.0, ge=0, lt=1, description="fraction; 0.1 = 10% smaller to 10% larger")
    shear: float = Field(0.0, ge=0, le=60, description="degrees; leans by up to this, both ways")
    elastic: float = Field(
        0.0, ge=0, description="pixels; standard deviation of a smooth distortion"
    )
    elastic_sigma: float | None = Field(
        None, ge=0.1, description="pixels over which that is smooth; null = 4"
    )
    flip: Literal["alternating"] | bool = Field(
        False,
        description="left-right, half of the images; alternating = each in every other epoch",
    )
    crop: int = Field(
        0, ge=0, description="pixels; like shift, with mirrored edges instead of black"
    )
    random_resized_crop: Annotated[list[Share], Field(min_length=2, max_length=2)] | None = Field(
        None, description="[least, most]; share of the area that is cut out and enlarged"
    )
    trivial_augment: bool = Field(
        False, description="one operation of 14 at a random strength for each image"
    )
    erasing: float = Field(0.0, ge=0, le=1, description="probability of noise in a box")
    cutout: int = Field(0, ge=0, description="pixels; side of a square made black")
    brightness: float = Field(0.0, ge=0, lt=1, description="fraction; 0.1 = 10% darker to lighter")
    contrast: float = Field(0.0, ge=0, lt=1, description="fraction; 0.1 = 10% flatter to stronger")
    mixup: float = Field(
        0.0, ge=0, le=100, description="alpha of Beta(alpha, alpha), which weighs two images"
    )
    cutmix: float = Field(
        0.0, ge=0, le=100, description="alpha of Beta(alpha, alpha), the share of another's box"
    )
    until: float = Field(
        1.0, gt=0, le=1, description="share of the epochs; those after it have images as they are"
    )

    @property
    def warps(self) -> bool:
        """Whether images are sampled between their pixels."""
        return any((self.rotate, self.scale, self.shear, self.elastic, self.random_resized_crop))

    def last_of(self, epochs: int) -> int:
        """The last of `epochs` that is augmented: as many as fit into `until`, at least one."""
        return max(1, math.floor(round(self.until * epochs, 9)))  # 0.29 * 100 is just below 29

    @property
    def mixes(self) -> bool:
        """Whether labels become shares, which the loss must take."""
        return self.mixup > 0 or self.cutmix > 0

    @model_validator(mode="after")
    def check_alpha(self) -> "Augment":
        """Where alpha is smaller torch draws 0.5 each time, though shares of 0 or 1 are meant."""
        for key, alpha in (("mixup", self.mixup), ("cutmix", self.cutmix)):
            if 0 < alpha < SMALLEST_ALPHA:
                raise ValueError(f"{key} = {alpha}: should be 0 or at least {SMALLEST_ALPHA}")
        return self

    @model_validator(mode="after")
    def check_crop(self) -> "Augment":
        if self.random_resized_crop and self.random_resized_crop[0] > self.random_resized_crop[1]:
            raise ValueError(
                f"random_resized_crop = {self.random_resized_crop}: the least share should come "
                "first"
            )
        return self

    @model_validator(mode="after")
    def check_until(self) -> "Augment":
        if self.until < 1 and self.model_copy(update={"until": 1.0}) == Augment():
            raise ValueError(f"until = {self.until}: cannot act, since nothing is augmented")
        return self

    @model_validator(mode="after")
    def check_elastic(self) -> "Augment":
        if self.elastic_sigma is not None and self.elastic == 0:
            raise ValueError(f"elastic_sigma = {self.elastic_sigma} cannot act with elastic = 0")
        return self


class Columns(Section):
    """What the columns of a table of one's own are called."""

    path: str = Field("path", min_length=1, description="of the picture, from data.root on")
    label: str = Field("label", min_length=1, description="its class")
    split: str | None = Field(
        None, min_length=1, description="train, val or test; null = all are train"
    )
    group: str | None = Field(None, min_length=1, description="what stays together: see data.group")


Side = Annotated[int, Field(ge=1, le=4096)]


class Data(Section):
    dataset: DataSetName = "digits"
    root: Annotated[str, AfterValidator(os.path.expanduser)] = Field(
        "data", description="folder where data sets live"
    )
    channels: Literal[1, 3] | None = Field(
        None, description="of your own images: 1 = grey, 3 = colour; null = 1 if all are grey"
    )
    image_size: Side | Annotated[list[Side], Field(min_length=2, max_length=2)] | None = Field(
        None, description="pixels, one number or [height, width]; null = the data set's own"
    )
    resize: Literal["stretch", "crop", "pad"] = Field(
        "stretch", description="your own images to image_size"
    )
    interpolation: Literal["auto", "bilinear", "bicubic"] = Field(
        "auto", description="how pixels are resized; auto = as model.weights were trained"
    )
    crop_fraction: Literal["auto"] | Annotated[float, Field(gt=0, le=1)] = Field(
        "auto", description="share of resize: crop's square; auto = as model.weights were trained"
    )
    background: Literal["auto", "black", "white"] = Field(
        "auto",
        description="behind transparent pictures; auto = white if those of train are dark",
    )
    value_range: list[Annotated[int, Field(ge=0, le=65535)]] | None = Field(
        None,
        min_length=2,
        max_length=2,
        description="[low, high] that 16 bits are scaled from; null = [0, 65535]",
    )
    shrink: Literal["auto", False] = Field(
        "auto",
        description="auto = JPEG of 4 times image_size or more are decoded at 1/2, 1/4 or 1/8",
    )
    limit: int | None = Field(None, ge=1, description="images of train to use at all; null = all")
    validation: int | float = Field(
        0.1, ge=0, description="images (int) or fraction (float) carved from train; 0 = none"
    )
    test: int | float | None = Field(
        None,
        ge=0,
        description="the same for test.py; null = 0.2 where your own images have no splits at all",
    )
    group: str | None = Field(
        None,
        min_length=1,
        description="pattern over the path; images with the same (...) never stand in two splits",
    )
    sampling: Literal["natural", "balanced"] = Field(
        "natural", description="balanced = an epoch has each class equally often"
    )
    memory_limit: Annotated[int, Field(ge=1)] | Annotated[str, Field(pattern=SIZE)] = Field(
        "4GB",
        description=(
            "bytes, or 500MB; more of your own images are read batch by batch, of others refused"
        ),
    )
    cache: Literal["auto", False] | Annotated[str, Field(min_length=1)] = Field(
        "auto",
        description="folder for decoded images; auto = .nanocnn-cache in root; false = none",
    )
    cache_limit: Annotated[int, Field(ge=1)] | Annotated[str, Field(pattern=SIZE)] = Field(
        "20GB", description="bytes, or 500MB; no more are kept in it"
    )
    skip_unreadable: bool = Field(
        False, description="leave out files of yours that are no images; false = refuse them"
    )
    relabel: Annotated[str, AfterValidator(os.path.expanduser)] | None = Field(
        None, min_length=1, description="CSV of path,new_label: corrected labels of your own images"
    )
    average_flips: bool = Field(
        False, description="judge by the mean of the logits of an image and its mirror image"
    )
    list: str | None = Field(
        None, min_length=1, description="your own table, a path from root on; null = train.csv ..."
    )
    delimiter: str | None = Field(
        None, description="a character, or tab, between its columns; null = found"
    )
    encoding: str | None = Field(None, description="utf-8, cp1252, ...; null = found")
    extension: str | None = Field(None, description="of its paths that lack it, such as .jpg")
    columns: Columns = Columns()
    augment: Augment = Augment()

    @property
    def has_groups(self) -> bool:
        return self.group is not None or self.columns.group is not None

    @property
    def delimiter_character(self) -> str | None:
        return "\t" if self.delimiter == "tab" else self.delimiter

    @property
    def own_folder(self) -> str | None:
        """Where your own images are, in full: a relative root begins at the current folder."""
        return str(Path(self.root).absolute()) if self.dataset in OWN_IMAGES else None

    @property
    def sides(self) -> tuple[int, int] | None:
        """(H, W) that image_size asks for."""
        if self.image_size is None:
            return None
        height, width = (
            self.image_size if not isinstance(self.image_size, int) else [self.image_size] * 2
        )
        return height, width

    @property
    def resampling(self) -> tuple[Interpolation, float]:
        """Interpolation and crop_fraction, for images that no weights have expectations of."""
        interpolation: Interpolation = "bicubic" if self.interpolation == "bicubic" else "bilinear"
        fraction = 1.0 if self.crop_fraction == "auto" else self.crop_fraction
        return interpolation, fraction

    def prepared(self, preprocessing: Preprocessing | None) -> Self:
        """These data, with what `auto` leaves to the weights."""
        if preprocessing is None:
            return self
        expected = {
            "interpolation": preprocessing.interpolation,
            "crop_fraction": preprocessing.crop_fraction,
        }
        left = {key: value for key, value in expected.items() if getattr(self, key) == "auto"}
        return self.model_copy(update=left)

    @property
    def memory_bytes(self) -> int:
        return bytes_of(self.memory_limit)

    @property
    def cache_bytes(self) -> int:
        return bytes_of(self.cache_limit)

    @model_validator(mode="before")
    @classmethod
    def check_size(cls, values: Any) -> Any:
        size = values.get("image_size") if isinstance(values, dict) else None
        sides = size if isinstance(size, list | tuple) and len(size) == 2 else [size]
        if size is not None and not all(type(s) is int and 1 <= s <= 4096 for s in sides):
            raise ValueError(
                f"image_size = {inline(size)}: should be a number of pixels from 1 to 4096, or two "
                "of them, [height, width]"
            )
        return values

    @model_validator(mode="after")
    def check_own_images(self) -> "Data":
        for key in (
            "channels",
            "resize",
            "background",
            "value_range",
            "shrink",
            "cache",
            "cache_limit",
            "test",
            "group",
            "skip_unreadable",
            "relabel",
        ):
            value = getattr(self, key)
            if self.dataset not in OWN_IMAGES and value != type(self).model_fields[key].default:
                raise ValueError(
                    f"{key} = {inline(value)}: cannot act on {self.dataset}, only where "
                    f"data.dataset is {' or '.join(OWN_IMAGES)}"
                )
        if self.resize != "stretch" and self.image_size is None:
            raise ValueError(f"resize = {self.resize}: cannot act without data.image_size")
        if (
            self.cache is False
            and self.cache_limit != type(self).model_fields["cache_limit"].default
        ):
            raise ValueError(
                f"cache_limit = {self.cache_limit}: cannot act without a cache (data.cache = false)"
            )
        if self.interpolation != "auto" and self.image_size is None:
            raise ValueError(
                f"interpolation = {self.interpolation}: cannot act without data.image_size"
            )
        if self.crop_fraction != "auto" and self.resize != "crop":
            raise ValueError(
                f"crop_fraction = {self.crop_fraction}: cannot act on images that are not cut out "
                "(data.resize = crop)"
            )
        if self.value_range and self.value_range[0] >= self.value_range[1]:
            raise ValueError(f"value_range = {self.value_range}: should be [low, high]")
        return self

    @model_validator(mode="after")
    def check_table(self) -> "Data":
        if self.list is not None and self.dataset != "csv":
            raise ValueError(
                f"list = {self.list}: cannot act on {self.dataset}, only where data.dataset is csv"
            )
        for key in ("delimiter", "encoding", "extension", "columns"):
            value = getattr(self, key)
            if self.list is None and value != type(self).model_fields[key].default:
                shown = value.model_dump(exclude_none=True) if key == "columns" else value
                raise ValueError(f"{key} = {inline(shown)}: cannot act without data.list")
        if self.group is not None:
            check_pattern(self.group, may_be_column=self.list is not None)
            if self.columns.group is not None:
                raise ValueError(
                    f"group = {self.group}: data.columns.group says it too; one of them should go"
                )
        if self.delimiter is not None and not re.fullmatch(r'[^\r\n"]|tab', self.delimiter):
            raise ValueError(f"delimiter = {self.delimiter!r}: should be one character, or tab")
        if self.encoding is not None and not is_encoding(self.encoding):
            raise ValueError(
                f"encoding = {self.encoding}: should be one such as utf-8, cp1252 or utf-16"
            )
        if self.extension is not None and not re.fullmatch(r"\.\w+", self.extension):
            raise ValueError(f"extension = {self.extension}: should be one such as .jpg")
        return self

    @model_validator(mode="after")
    def check_shares(self) -> "Data":
        for key, share in (("validation", self.validation), ("test", self.test)):
            if isinstance(share, float) and share >= 1:
                raise ValueError(
                    f"{key} = {share}: a fraction should be less than 1; "
                    "a number of images is written without a point"
                )
        return self


class Loss(Section):
    """A loss, and what the rest of the program must know of it."""

    takes_soft_labels: ClassVar[bool] = False  # labels as shares of all classes (B, classes) too
    logistic: ClassVar[bool] = False  # for two classes that one output tells apart


Positive = Annotated[float, Field(gt=0)]
ClassWeights = Annotated[
    list[Positive] | Literal["balanced"] | None,
    Field(description="one a class; balanced = n / (classes * images of the class); null = alike"),
]


class CrossEntropy(Loss):
    takes_soft_labels = True

    name: Literal["cross_entropy"] = "cross_entropy"
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="share spread over all classes")
    class_weights: ClassWeights = None


class MSE(Loss):
    takes_soft_labels = True

    name: Literal["mse"] = "mse"


class BCE(Loss):
    logistic = True

    name: Literal["bce"] = "bce"


class Focal(Loss):
    name: Literal["focal"] = "focal"
    gamma: float = Field(2.0, ge=0, description="how little easy images count; 0 = cross-entropy")
    class_weights: ClassWeights = None


class Group(Section):
    """Parameters with a rate and decay of their own; the first group that matches counts."""

    match: str = Field(min_length=1, description="pattern of parameter names, as in a shell")
    lr_mult: float = Field(1.0, ge=0, description="times the learning rate; 0 = frozen")
    decay_mult: float = Field(1.0, ge=0, description="times the weight decay")


class Optimizer(Section):
    """What every optimizer takes; further keys are arguments of the same name in torch.optim."""

    name: str
    lr: float = Field(gt=0, description="peak learning rate")
    weight_decay: float = Field(0.0, ge=0, description="L2 penalty")
    decay_norm_and_bias: bool = Field(
        True, description="false = no weight decay on biases and normalisation"
    )
    groups: list[Group] = Field([], description='{match: "features.*", lr_mult, decay_mult}, ...')
    backbone_lr_mult: float = Field(
        1.0, ge=0, description="times the learning rate, before the last layer; 0 = frozen"
    )

    @model_validator(mode="after")
    def check_decay(self) -> "Optimizer":
        if self.weight_decay == 0 and not self.decay_norm_and_bias:
            raise ValueError("decay_norm_and_bias = false cannot act with weight_decay = 0")
        if self.weight_decay == 0 and any(group.decay_mult != 1 for group in self.groups):
            raise ValueError("groups with a decay_mult cannot act with weight_decay = 0")
        return self


class Momentum(Optimizer):
    momentum: float = Field(0.9, ge=0, lt=1, description="share of the last update kept")
    nesterov: bool = Field(False, description="look-ahead momentum")

    @model_validator(mode="after")
    def check_nesterov(self) -> "Momentum":
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov = true cannot act with momentum = 0")
        return self


class SGD(Momentum):
    name: Literal["sgd"] = "sgd"
    lr: float = Field(0.1, gt=0, description="peak learning rate")


class Adagrad(Optimizer):
    name: Literal["adagrad"] = "adagrad"
    lr: float = Field(0.01, gt=0, description="peak learning rate")
    lr_decay: float = Field(0.0, ge=0, description="lr / (1 + step * lr_decay)")
    initial_accumulator_value: float = Field(0.0, ge=0, description="sum of squares at the start")
    eps: float = Field(1e-10, gt=0, description="added to the denominator")


class Adadelta(Optimizer):
    name: Literal["adadelta"] = "adadelta"
    lr: float = Field(1.0, gt=0, description="peak learning rate")
    rho: float = Field(0.9, ge=0, lt=1, description="share of the mean squares kept")
    eps: float = Field(1e-6, gt=0, description="added to the mean squares")


class RMSprop(Optimizer):
    name: Literal["rmsprop"] = "rmsprop"
    lr: float = Field(0.01, gt=0, description="peak learning rate")
    alpha: float = Field(0.99, ge=0, lt=1, description="share of the mean squares kept")
    eps: float = Field(1e-8, gt=0, description="added to the denominator")
    momentum: float = Field(0.0, ge=0, lt=1, description="share of the last update kept")
    centered: bool = Field(False, description="variance instead of the mean squares")


class Adam(Optimizer):
    name: Literal["adam"] = "adam"
    lr: float = Field(1e-3, gt=0, description="peak learning rate")
    betas: list[Annotated[float, Field(ge=0, lt=1)]] = Field(
        [0.9, 0.999], min_length=2, max_length=2, description="shares of the two moments kept"
    )
    eps: float = Field(1e-8, gt=0, description="added to the denominator")
    amsgrad: bool = Field(False, description="the largest second moment so far counts")


class AdamW(Adam):
    name: Literal["adamw"] = "adamw"  # type: ignore[assignment]
    weight_decay: float = Field(0.01, ge=0, description="share of a weight taken a step, times lr")


class Muon(Momentum):
    """Muon for hidden weights, AdamW with its defaults for the rest; 0 means no decay for both."""

    name: Literal["muon"] = "muon"
    lr: float = Field(1e-3, gt=0, description="peak learning rate")
    weight_decay: float = Field(0.1, ge=0, description="share of a weight taken a step, times lr")
    momentum: float = Field(0.95, ge=0, lt=1, description="share of the last update kept")
    nesterov: bool = Field(True, description="look-ahead momentum")
    ns_steps: int = Field(5, ge=1, lt=100, description="Newton-Schulz iterations")
    adjust_lr_fn: Literal["match_rms_adamw", "original"] = Field(
        "match_rms_adamw", description="how large a step of lr is: as AdamW's, or as Jordan's Muon"
    )


class Schedule(Section):
    """How the learning rate goes on after a linear rise from zero to its peak."""

    name: str
    warmup: float = Field(0.0, ge=0, lt=1, description="share of all steps; rises linearly")


class OneCycle(Schedule):
    name: Literal["one_cycle"] = "one_cycle"
    warmup: float = Field(0.2, ge=0, lt=1, description="share of all steps; then linear to zero")


class Constant(Schedule):
    name: Literal["constant"] = "constant"


class Step(Schedule):
    name: Literal["step"] = "step"
    step_size: int = Field(3, ge=1, description="epochs between two cuts")
    gamma: float = Field(0.1, gt=0, lt=1, description="factor of a cut")


class MultiStep(Schedule):
    name: Literal["multistep"] = "multistep"
    milestones: list[Annotated[int, Field(ge=1)]] = Field(
        [5, 8], min_length=1, description="epochs after which it is cut"
    )
    gamma: float = Field(0.1, gt=0, lt=1, description="factor of a cut")

    @model_validator(mode="after")
    def check_milestones(self) -> "MultiStep":
        if any(later <= earlier for earlier, later in pairwise(self.milestones)):
            raise ValueError(f"milestones = {self.milestones}: each should be later than the last")
        return self


class Exponential(Schedule):
    name: Literal["exponential"] = "exponential"
    gamma: float = Field(0.9, gt=0, lt=1, description="factor from epoch to epoch")


class Cosine(Schedule):
    name: Literal["cosine"] = "cosine"
    min_lr: float = Field(0.0, ge=0, description="learning rate at the end")


class Plateau(Schedule):
    name: Literal["plateau"] = "plateau"
    factor: float = Field(0.1, gt=0, lt=1, description="factor of a cut")
    patience: int = Field(2, ge=0, description="epochs without a better val_loss before a cut")
    threshold: float = Field(1e-4, ge=0, lt=1, description="better = by more than this share")


class Train(Section):
    epochs: int = Field(10, ge=0, description="passes over the training images")
    fit_head: bool = Field(
        False, description="first fit the last layer alone, to the network as its weights made it"
    )
    freeze_statistics: bool = Field(
        False, description="batch normalisation keeps the mean and variance that it begins with"
    )
    batch_size: int = Field(128, ge=1, description="images in a step")
    checkpoint_every: (
        Annotated[int, Field(ge=1)] | Annotated[str, Field(pattern=SECONDS)] | None
    ) = Field(None, description="steps, or seconds as in 60s; null = each epoch")
    accumulate: int = Field(1, ge=1, description="batches whose gradients make one step")
    clip_norm: float | None = Field(None, gt=0, description="most that the gradient's norm may be")
    ema: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="share kept of the weights' mean each step, less at first; it is judged",
    )
    patience: int | None = Field(
        None, ge=1, description="epochs without a better validation before it stops"
    )
    overfit_batches: int | None = Field(
        None, ge=1, description="train and validate on these few batches: can it learn at all?"
    )
    channels_last: Literal["auto"] | bool = Field(
        "auto", description="lay images out as (N, H, W, C) in memory; auto = where that is faster"
    )
    compile: bool = Field(False, description="torch.compile, which takes a minute at the start")
    sync_batch_norm: Literal["auto"] | bool = Field(
        "auto", description="batch normalisation over all processes' images; auto = in several"
    )

    @model_validator(mode="after")
    def check_epochs(self) -> "Train":
        if self.epochs == 0 and not self.fit_head:
            raise ValueError("epochs = 0: trains nothing; allowed with train.fit_head = true")
        return self

    @model_validator(mode="after")
    def check_patience(self) -> "Train":
        if self.patience is not None and self.patience >= self.epochs:
            raise ValueError(
                f"patience = {self.patience}: cannot act in {self.epochs} epochs; it should be less"
            )
        return self


class Log(Section):
    every: int = Field(50, ge=1, description="steps between two points of the training curves")
    pictures: Literal["first and last", "each", "never"] = Field(
        "first and last",
        description="epochs of which TensorBoard shows pictures",
    )


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
    weights: Annotated[str, Field(min_length=1)] | None = Field(
        None, description="what it begins with: a file, a run folder, or the name of published ones"
    )

    @model_validator(mode="after")
    def check_weights(self) -> Self:
        pretrained = getattr(self, "pretrained", False)
        given = {"init": self.init, "weights": self.weights, "pretrained": pretrained}
        keys = [key for key, value in given.items() if value]
        if len(keys) > 1:
            raise ValueError(
                f"{' and '.join(keys)}: each gives the first weights; one of them should go"
                f"{', as by model.pretrained=false' * ('pretrained' in keys)}"
            )
        return self


def is_named(field: FieldInfo) -> bool:
    """Whether a key of Config is a section whose `name` decides which other keys it takes."""
    return hasattr(field.default, "name")


class Config(Section):
    name: str = Field("run", description="runs go to runs/<name>/")
    seed: int = Field(0, ge=0, lt=2**63, description="of weights, split, order, augmentation")
    device: Literal["auto", "cpu", "cuda", "mps"] = Field(
        "auto", description="auto = the fastest here"
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto",
        description="auto = bf16 where the device is faster in it, else fp32; a run keeps it",
    )
    data: Data = Data()
    model: Named = Named(name="lenet")
    loss: CrossEntropy | MSE | BCE | Focal = Field(CrossEntropy(), discriminator="name")
    optimizer: SGD | Adagrad | Adadelta | RMSprop | Adam | AdamW | Muon = Field(
        SGD(), discriminator="name"
    )
    schedule: OneCycle | Constant | Step | MultiStep | Exponential | Cosine | Plateau = Field(
        OneCycle(), discriminator="name"
    )
    train: Train = Train()
    log: Log = Log()

    @model_validator(mode="after")
    def check_validation(self) -> "Config":
        if self.train.patience is not None and self.data.validation == 0:
            raise ValueError(
                "train.patience: cannot act without validation images (data.validation)"
            )
        return self

    @model_validator(mode="after")
    def check_name(self) -> "Config":
        if not re.fullmatch(r"\w[\w.-]*", self.name):
            raise ValueError(
                f"name = {self.name!r}: should name a folder with letters, digits, '_', '-' and '.'"
            )
        return self

    @model_validator(mode="after")
    def check_schedule(self) -> "Config":
        """Refuse what would not act before the last epoch is over."""
        schedule, key, acts_after = self.schedule, "", 0  # epochs
        match schedule:
            case Step():
                key, acts_after = f"step_size = {schedule.step_size}", schedule.step_size
            case MultiStep():
                key, acts_after = f"milestones = {schedule.milestones}", schedule.milestones[-1]
            case Exponential():
                key, acts_after = f"gamma = {schedule.gamma}", 1
            case Plateau():
                if self.data.validation == 0:
                    raise ValueError("schedule.name = plateau cannot act with data.validation = 0")
                # the first epoch sets the mark, and one more than `patience` must miss it
                key, acts_after = f"patience = {schedule.patience}", schedule.patience + 2
            case Cosine() if schedule.min_lr >= self.optimizer.lr:
                raise ValueError(
                    f"schedule.min_lr = {schedule.min_lr}: should be less than "
                    f"optimizer.lr = {self.optimizer.lr}"
                )
        if acts_after and acts_after >= self.train.epochs > 0:
            raise ValueError(
                f"schedule.{key}: acts after {acts_after} epochs at the earliest, "
                f"but train.epochs = {self.train.epochs}"
            )
        return self

    @model_validator(mode="after")
    def check_balance(self) -> "Config":
        """Refuse to make up for rare classes twice."""
        weights = getattr(self.loss, "class_weights", None)
        if self.data.sampling == "balanced" and weights == "balanced":
            raise ValueError(
                "loss.class_weights = balanced cannot act with data.sampling = balanced, which "
                "shows each class equally often; one of them should go"
            )
        return self

    @model_validator(mode="after")
    def check_until(self) -> "Config":
        if self.data.augment.until < 1 and self.train.epochs == 1:
            raise ValueError(
                f"data.augment.until = {self.data.augment.until}: cannot act with train.epochs = 1"
            )
        return self

    @model_validator(mode="after")
    def check_mixing(self) -> "Config":
        if self.data.augment.mixes:
            key = "mixup" if self.data.augment.mixup else "cutmix"
            if self.train.batch_size == 1:
                raise ValueError(f"data.augment.{key} cannot act with train.batch_size = 1")
            if not self.loss.takes_soft_labels:
                raise ValueError(
                    f"data.augment.{key} cannot act with loss.name = {self.loss.name}, which "
                    "takes no mixed labels"
                )
        return self

    @model_validator(mode="before")
    @classmethod
    def fill_names(cls, values: dict[str, Any]) -> dict[str, Any]:
        """`schedule.warmup=0.1` means the default schedule: a section without a name has the
        default's.
        """
        for key, field in cls.model_fields.items():
            section = values.get(key)
            if isinstance(section, dict) and is_named(field):
                values = values | {key: {"name": field.default.name} | section}
        return values


class Item(NamedTuple):
    """A key of a config, dotted, with its field in the schema and its value."""

    key: str
    field: FieldInfo
    value: Any  # plain, as in JSON, or a Section, whose own keys come next


def items_of(section: Section, prefix: str = "") -> Iterator[Item]:
    """Every key of `section`, those of the sections in it as `train.epochs`."""
    plain = section.model_dump(mode="json")
    for key, value in section:
        is_section = isinstance(value, Section)
        yield Item(
            prefix + key, type(section).model_fields[key], value if is_section else plain[key]
        )
        if is_section:
            yield from items_of(value, f"{prefix}{key}.")


def leaves(config: Config) -> dict[str, Any]:
    """Dotted keys and their plain values, without the sections that hold them."""
    items = items_of(config)
    return {item.key: item.value for item in items if not isinstance(item.value, Section)}


def to_yaml(section: Section) -> str:
    """Every key of `section` with its value and comment, as YAML that `load_config` reads back."""
    lines = []
    for key, field, value in items_of(section):
        *sections, name = key.split(".")
        line = "  " * len(sections) + f"{name}:"
        if isinstance(value, Section):
            lines.append(f"{line}\n")
            continue
        line += f" {inline(value)}"
        variants = get_args(field.annotation) if get_origin(field.annotation) is Literal else ()
        allowed = " | ".join(map(inline, variants)) if len(variants) > 1 else ""
        comment = ": ".join(filter(None, [allowed, field.description]))
        lines.append(f"{line:<29} # {comment}\n" if comment else f"{line}\n")
    return "".join(lines)
