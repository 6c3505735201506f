"""Images as tensors: a data set's splits, and what a network needs to know of them.

A split is one uint8 tensor in memory, so a batch is one indexing operation and normalisation and
augmentation (augment.py) work on whole batches; the user's own images, where they are too many, are
read batch by batch. Training reads `load_splits` only; the test split has a function of its own,
which nothing but judging calls.
"""

import hashlib
import math
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from nanocnn.config.preprocessing import Interpolation, Preprocessing
from nanocnn.config.schema import OWN_IMAGES, Data
from nanocnn.images.augment import check
from nanocnn.images.cache import Cache
from nanocnn.images.carving import (
    carve,
    checksum_of,
    list_training,
    list_training_and_val,
    read_list,
    readable,
)
from nanocnn.images.content import hashes, mean_and_std
from nanocnn.images.decode import Background
from nanocnn.images.listing import Listing, layout, list_split
from nanocnn.images.own import Files, Images, read_listings, training_shape
from nanocnn.images.pictures import look_at
from nanocnn.images.randomness import stratified_split
from nanocnn.images.relabel import (
    checksum_of_corrections,
    read_corrections,
    relabelled,
    warn_of_other_corrections,
)
from nanocnn.images.sets import DATASETS, resize
from nanocnn.images.survey import transparent_ones
from nanocnn.system.errors import UserError


class Split(NamedTuple):
    images: Images  # (N, C, H, W) uint8
    labels: Tensor  # (N,) int64
    files: Files | None = None


@dataclass(frozen=True)
class DataInfo:
    """What a network needs to know of its data; it travels in the checkpoint."""

    dataset: str
    classes: list[str]
    mean: list[float]  # a channel, of pixels scaled to [0, 1]
    std: list[float]
    image_shape: tuple[int, int, int]  # (C, H, W)
    class_counts: tuple[int, ...] = ()  # training images of each class, for the loss
    background: Background = "black"  # behind own pictures, which is never "auto"
    interpolation: Interpolation = "bilinear"
    crop_fraction: float = 1.0  # of "crop", see Form
    shrink: bool = False  # whether JPEG files were decoded smaller, see Form
    weights: str = ""  # which it began with, and which mean and std are of; empty: of the images
    test_sha256: str = ""  # of the list of own pictures that were held out for test.py
    relabel_sha256: str = ""  # of the list of corrected labels
    # of own training pictures, which others are compared with; None: not known
    transparent: bool | None = None  # whether any is
    grey: bool | None = None  # whether all are
    brightest: int | None = None  # the greatest value of a pixel

    def moments(self, device: torch.device | None = None) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of pixels from 0 to 255, each (1, C, 1, 1) float32."""
        mean, std = (
            255 * torch.tensor(values, device=device).view(1, -1, 1, 1)
            for values in (self.mean, self.std)
        )
        return mean, std


def load_splits(data: Data, seed: int, info: DataInfo | None = None) -> dict[str, Split]:
    """The "train" split and, if the config asks for one, the "val" split carved from it.

    A val split that lies beside the training pictures is taken instead. `info`, once a network was
    trained, says which classes and which shape pictures have. Raises UserError where there are
    fewer images than the config wants, or where they cannot be read.
    """
    if data.dataset in OWN_IMAGES:
        listings = list_training(data, seed, info.classes if info else None)
        splits = read_own_images(data, listings, info)
    else:
        train = read(data, train=True)
        parts = carve(train.labels, data, seed)
        splits = {name: take(train, chosen) for name, chosen in parts.items()}
    channels, height, width = splits["train"].images.shape[1:]
    check(data.augment, (channels, height, width))
    if info is None:
        refuse_equal(data, splits["train"])
    return splits


def refuse_equal(data: Data, train: Split) -> None:
    """Raises UserError where all pixels of the training images are equal."""
    if isinstance(train.images, Tensor):
        first = train.images[:1, :, :1, :1]
        # most often the first image tells
        if (train.images[:1] != first).any() or (train.images != first).any():
            return
    elif train.files and (np.count_nonzero(train.files.histogram, axis=1) > 1).any():
        return
    message = f"{data.root}: all pixels of the training images are equal: nothing can be learned"
    if train.files:
        other = "black" if train.files.background == "white" else "white"
        message += f"; if they are drawings on nothing, data.background={other} may show them"
    raise UserError(message)


def load_test(data: Data, info: DataInfo | None = None, run_dir: Path | None = None) -> Split:
    """The test split, for test.py alone; for `info`, which own images need, see load_splits.

    Pictures that were held out for it are those that the run in `run_dir` has listed.
    """
    if data.dataset not in OWN_IMAGES:
        return read(data, train=False)
    assert info is not None, "classes and shape are those of the training images"
    if info.test_sha256:
        listing = read_list(run_dir, info.test_sha256, info.classes)
        if not any(Path(data.root, path).exists() for path in listing.paths):
            listing = other_test(data, info.classes) or listing
    else:
        listing = list_test(data, info.classes)
    return read_own_images(data, {"test": readable(data, listing)}, info)["test"]


def load_test_beside(data: Data, train: Split, info: DataInfo) -> Split | None:
    """The test split that belongs to `train`, for check-data alone; None where there is none."""
    if train.files is None:
        return read(data, train=False)
    if train.files.held_out:
        paths, names = zip(*train.files.held_out, strict=True)
        labels = torch.tensor([info.classes.index(name) for name in names])
        listing = Listing("test", list(paths), labels, info.classes, kept=True)
    elif "test" in layout(data).places:
        listing = list_test(data, info.classes)
    else:
        return None
    return read_own_images(data, {"test": readable(data, listing)}, info)["test"]


def has_test(data: Data, info: DataInfo) -> bool:
    """Whether there is a test split for a network that was trained on data as `info` says."""
    return data.dataset not in OWN_IMAGES or bool(info.test_sha256) or "test" in layout(data).places


def list_test(data: Data, classes: list[str]) -> Listing:
    """The pictures of the test split in data.root. Raises UserError where there is none."""
    places, divided = layout(data)
    if "test" not in places and not divided:
        raise UserError(
            f"{data.root}: has no test split, and this run held none out (data.test = 0)"
        )
    return relabelled(list_split(data, "test", classes), read_corrections(data))


def other_test(data: Data, classes: list[str]) -> Listing | None:
    """The test split that data.root has of its own, where none of the held out pictures are."""
    there = layout(data.model_copy(update={"list": None})).places.get("test")
    if there is None:
        return None
    print(
        f"warning: {data.root}: has none of the pictures that the run held out; judged are those "
        f"in {there}",
        file=sys.stderr,
    )
    return list_split(data.model_copy(update={"list": None}), "test", classes)


def load_split(
    name: str, data: Data, seed: int, info: DataInfo, run_dir: Path | None = None
) -> Split:
    """The split "train", "val" or "test" for a network that was trained on data as `info` says.

    Only for "test" is the test split read, for which see load_test. Raises UserError where there is
    no such split, or where its images do not have the shape that the network was trained on.
    """
    if name == "test":
        data = as_in_training(data, info)
        if not info.test_sha256:  # whose list has the labels too
            warn_of_other_corrections(data, info.relabel_sha256)
        test = load_test(data, info, run_dir)
        check_shape(test, info)
        return test
    splits = load_train_and_val(data, seed, info)
    if name not in splits:
        raise UserError(
            f"--split {name}: this run carved no validation images (data.validation = 0)"
        )
    return splits[name]


def load_train_and_val(data: Data, seed: int, info: DataInfo) -> dict[str, Split]:
    """The "train" and, if there is one, the "val" split; see load_split."""
    data = as_in_training(data, info)
    warn_of_other_corrections(data, info.relabel_sha256)
    splits = load_splits(data, seed, info)
    for split in splits.values():
        check_shape(split, info)
    return splits


def as_in_training(data: Data, info: DataInfo) -> Data:
    """`data` with pictures made into what they were for training."""
    resampling = {"interpolation": info.interpolation, "crop_fraction": info.crop_fraction}
    shrink = "auto" if info.shrink else False
    return data.model_copy(update=resampling | {"shrink": shrink})


def check_shape(split: Split, info: DataInfo) -> None:
    shape = tuple(split.images.shape[1:])
    if shape != info.image_shape:
        sizes = ["x".join(map(str, each)) for each in (shape, info.image_shape)]
        raise UserError(f"the images are {sizes[0]}, this network was trained on {sizes[1]}")


def read(data: Data, train: bool) -> Split:
    dataset = DATASETS[data.dataset]
    images, labels = dataset.read(Path(data.root), train)
    if len(images) != len(labels) or len(labels) == 0:
        raise UserError(
            f"{data.dataset} in {data.root}: {len(images)} images with {len(labels)} labels"
        )
    if labels.min() < 0 or labels.max() >= len(dataset.classes):
        wrong = int(((labels < 0) | (labels >= len(dataset.classes))).nonzero()[0])
        raise UserError(
            f"{data.dataset} in {data.root}: image {wrong} has the label {labels[wrong]}, "
            f"but there are {len(dataset.classes)} classes"
        )
    if data.sides and images.shape[2:] != data.sides:
        size = images.shape[0] * images.shape[1] * math.prod(data.sides)
        if size > data.memory_bytes:
            raise UserError(
                f"data.image_size = {data.image_size}: {len(images):,} images would take "
                f"{size:,} bytes, more "
                f"than data.memory_limit = {data.memory_limit}"
            )
        images = resize(images, data.sides, data.resampling[0])
    return Split(images, labels)


def read_own_images(
    data: Data, listings: dict[str, Listing], info: DataInfo | None
) -> dict[str, Split]:
    trained = (info.image_shape, info.background) if info else ()
    found = read_listings(data, listings, *trained)
    return {name: Split(*parts) for name, parts in found.items()}


def data_info(data: Data, split: Split, preprocessing: Preprocessing | None = None) -> DataInfo:
    """What is known of `data`, given its training images, and prepared as `preprocessing` says."""
    _, channels, height, width = split.images.shape
    background: Background = "black"
    test_sha256 = ""
    if split.files:
        classes, (mean, std) = split.files.classes, mean_and_std(split.files.histogram)
        background = split.files.background
        test_sha256 = checksum_of(split.files.held_out)
    else:
        _, classes, _, mean, std = DATASETS[data.dataset]
    counts = count_classes(split.labels, classes)
    shape = (channels, height, width)
    weights = ""
    if preprocessing:
        weights = preprocessing.weights
        mean = for_channels(preprocessing.mean, channels) or mean
        std = for_channels(preprocessing.std, channels) or std
    info = DataInfo(
        data.dataset,
        classes,
        mean,
        std,
        shape,
        counts,
        background,
        *data.resampling,
        bool(split.files) and data.shrink == "auto" and data.sides is not None,
        weights,
        test_sha256,
        checksum_of_corrections(data),
    )
    return with_traits(info, data, split.files) if split.files else info


def with_traits(info: DataInfo, data: Data, files: Files) -> DataInfo:
    """`info` with what own training pictures are, for others to be compared with."""
    maybe = files.with_header("transparent")
    is_grey = all(header.grey for header in files.headers)
    if len(files.histogram) == 3:
        is_grey = bool((files.histogram == files.histogram[0]).all())
    return replace(
        info,
        transparent=bool(transparent_ones(Cache(data), "train", maybe)),
        grey=is_grey,
        brightest=int(np.flatnonzero(files.histogram.sum(axis=0)).max()),
    )


def for_channels(values: list[float], channels: int) -> list[float]:
    """A value for each of `channels`; where weights have other ones, the mean of theirs."""
    if len(values) in (0, channels):
        return values
    return [sum(values) / len(values)] * channels


def count_classes(labels: Tensor, classes: list[str]) -> tuple[int, ...]:
    """How many of `labels` (N,) are of each class."""
    return tuple(torch.bincount(labels, minlength=len(classes)).tolist())


def image_hashes(split: Split) -> list[bytes]:
    """A hash of the pixels of each image."""
    if split.files:
        return split.files.hashes
    assert isinstance(split.images, Tensor)
    return hashes(split.images.numpy())


def checksum(splits: dict[str, Split], digests: dict[str, list[bytes]]) -> str:
    """SHA-256 of the hashes of all images, and of all labels."""
    digest = hashlib.sha256()
    for name, split in splits.items():
        digest.update(b"".join(digests[name]))
        digest.update(split.labels.numpy().data)
    return digest.hexdigest()


def image_shape(data: Data) -> tuple[int, int, int]:
    """(C, H, W) of the images that `data` describes; of own images as their headers say."""
    if data.dataset in OWN_IMAGES:
        train = list_training_and_val(data)
        return training_shape(data, look_at(Path(data.root), train.paths), [train])
    channels, *own = DATASETS[data.dataset].image_shape
    height, width = data.sides or own
    return channels, height, width


def class_names(data: Data) -> list[str]:
    if data.dataset in OWN_IMAGES:
        return list_split(data, "train").classes
    return DATASETS[data.dataset].classes


def take(split: Split, indices: Tensor) -> Split:
    assert isinstance(split.images, Tensor)
    return Split(split.images[indices], split.labels[indices])


def few_images(split: Split, count: int, seed: int) -> Split:
    """`count` of the images, of all classes. Raises UserError for a stream, which is for more than
    that.
    """
    if not isinstance(split.images, Tensor):
        raise UserError(
            "train.overfit_batches: cannot act where images are read batch by batch; raise "
            "data.memory_limit"
        )
    chosen = stratified_split(split.labels, count, seed)[1]
    files = split.files.take(chosen) if split.files else None
    return Split(split.images[chosen], split.labels[chosen], files)
