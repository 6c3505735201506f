"""Images as tensors: data sets, their splits, and batches.

A split is one uint8 tensor in memory, so a batch is one indexing operation and normalisation and
augmentation (augment.py) work on whole batches; the user's own images, where they are too many, are read
batch by batch. Training reads `load_splits` only; the test split has a function of its own, which nothing but
test.py calls.
"""

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from string import ascii_lowercase, ascii_uppercase
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from augment import augment, check, mix
from config import OWN_IMAGES, Augment, Data
from content import hashes, mean_and_std
from errors import UserError
from listing import Listing, has_split, list_split
from own_images import Files, read_listings, shape_of
from pictures import look_at
from published import read_cifar, read_emnist, read_mnist, read_svhn
from stream import Stream


class Split(NamedTuple):
    images: Tensor | Stream  # (N, C, H, W) uint8
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


class DataSet(NamedTuple):
    read: Callable[[Path, bool], tuple[Tensor, Tensor]]  # (root, train) -> images and labels
    classes: list[str]
    image_shape: tuple[int, int, int]  # (C, H, W), where the config asks for no other size
    mean: list[float]
    std: list[float]


def read_digits(root: Path, train: bool) -> tuple[Tensor, Tensor]:
    """The 8x8 digits that come with scikit-learn, a fifth of them (359) as a fixed test split.

    Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning
    Repository (1998); scikit-learn ships its 1,797 test images. Pixels there run from 0 to 16.
    """
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    images = (torch.from_numpy(pixels).reshape(-1, 1, 8, 8) * (255 / 16)).round().to(torch.uint8)
    images, labels = resize(images, 28), torch.from_numpy(labels).long()
    rest, held_out = stratified_split(labels, len(labels) // 5, seed=0)
    chosen = rest if train else held_out
    return images[chosen], labels[chosen]


DIGITS = list("0123456789")
FASHION = [
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
]
KUZUSHIJI = ["o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"]
LETTERS = list(ascii_lowercase)  # of either case
BALANCED = [*DIGITS, *ascii_uppercase, *"abdefghnqrt"]  # elsewhere the cases look alike: one class
CIFAR10 = [
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
]
CIFAR100 = """
    apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus
    butterfly camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch
    crab crocodile cup dinosaur dolphin elephant flatfish forest fox girl hamster house kangaroo
    keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle mountain mouse
    mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy
    porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper
    snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone television
    tiger tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm
""".split()  # noqa: SIM905  a list of strings would take a hundred lines

DATASETS: dict[str, DataSet] = {
    # mean and std over the training images of each, checked in tests/test_dataset.py where they are there
    "digits": DataSet(read_digits, DIGITS, (1, 28, 28), mean=[0.3057], std=[0.3248]),
    "mnist": DataSet(
        partial(read_mnist, "MNIST"), DIGITS, (1, 28, 28), mean=[0.1307], std=[0.3081]
    ),
    "fashion_mnist": DataSet(
        partial(read_mnist, "FashionMNIST"), FASHION, (1, 28, 28), mean=[0.2860], std=[0.3530]
    ),
    "kmnist": DataSet(
        partial(read_mnist, "KMNIST"), KUZUSHIJI, (1, 28, 28), mean=[0.1918], std=[0.3483]
    ),
    "emnist_letters": DataSet(
        partial(read_emnist, "letters"), LETTERS, (1, 28, 28), mean=[0.1722], std=[0.3309]
    ),
    "emnist_balanced": DataSet(
        partial(read_emnist, "balanced"), BALANCED, (1, 28, 28), mean=[0.1751], std=[0.3332]
    ),
    "cifar10": DataSet(
        partial(read_cifar, "cifar10"),
        CIFAR10,
        (3, 32, 32),
        mean=[0.4914, 0.4822, 0.4465],
        std=[0.2470, 0.2435, 0.2616],
    ),
    "cifar100": DataSet(
        partial(read_cifar, "cifar100"),
        CIFAR100,
        (3, 32, 32),
        mean=[0.5071, 0.4865, 0.4409],
        std=[0.2673, 0.2564, 0.2762],
    ),
    "svhn": DataSet(
        read_svhn,
        DIGITS,
        (3, 32, 32),
        mean=[0.4377, 0.4438, 0.4728],
        std=[0.1980, 0.2010, 0.1970],
    ),
}


def load_splits(data: Data, seed: int, info: DataInfo | None = None) -> dict[str, Split]:
    """The "train" split and, if the config asks for one, the "val" split carved from it.

    A val split that lies beside the training pictures is taken instead. `info`, once a network was trained,
    says which classes and which shape pictures have. Raises UserError where there are fewer images than the
    config wants, or where they cannot be read.
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
    return splits


def load_test(data: Data, info: DataInfo | None = None) -> Split:
    """The test split, for test.py alone; for `info`, which own images need, see load_splits."""
    if data.dataset not in OWN_IMAGES:
        return read(data, train=False)
    assert info is not None, "classes and shape are those of the training images"
    listing = list_split(data, "test", info.classes)
    return read_own_images(data, {"test": listing}, info)["test"]


def carve(labels: Tensor, data: Data, seed: int) -> dict[str, Tensor]:
    """Indices of the "train" split and, if `data` asks for one, of the "val" split."""
    chosen = torch.arange(len(labels))
    if data.limit is not None:
        if data.limit > len(labels):
            raise UserError(
                f"data.limit = {data.limit}: {data.dataset} has {len(labels)} training images"
            )
        chosen = stratified_split(labels, data.limit, seed)[1]
    total = len(chosen)
    size = round(data.validation * total) if isinstance(data.validation, float) else data.validation
    if size == 0:
        if data.validation > 0:
            raise UserError(f"data.validation = {data.validation}: less than one of {total} images")
        return {"train": chosen}
    if size >= total:
        raise UserError(
            f"data.validation = {data.validation}: leaves nothing of {total} images to train on"
        )
    rest, held_out = stratified_split(labels[chosen], size, seed)
    return {"train": chosen[rest], "val": chosen[held_out]}


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
    if data.image_size is not None and images.shape[2:] != (data.image_size, data.image_size):
        size = images.shape[0] * images.shape[1] * data.image_size**2
        if size > data.memory_bytes:
            raise UserError(
                f"data.image_size = {data.image_size}: {len(images):,} images would take {size:,} bytes, more "
                f"than data.memory_limit = {data.memory_limit}"
            )
        images = resize(images, data.image_size)
    return Split(images, labels)


def list_training(data: Data, seed: int, classes: list[str] | None) -> dict[str, Listing]:
    """The own images of the "train" split and, if there is to be one, of the "val" split."""
    train = list_split(data, "train", classes)
    if not has_split(data, "val"):
        parts = carve(train.labels, data, seed)
        return {name: train.take(chosen) for name, chosen in parts.items()}
    if data.validation != Data().validation:
        raise UserError(
            f"data.validation = {data.validation}: cannot act, for {data.root} has a val split of its own"
        )
    chosen = carve(train.labels, data.model_copy(update={"validation": 0}), seed)["train"]
    return {"train": train.take(chosen), "val": list_split(data, "val", train.classes)}


def read_own_images(
    data: Data, listings: dict[str, Listing], info: DataInfo | None
) -> dict[str, Split]:
    found = read_listings(data, listings, info.image_shape if info else None)
    return {name: Split(*parts) for name, parts in found.items()}


def data_info(data: Data, split: Split) -> DataInfo:
    """What is known of `data`, given its training images."""
    _, channels, height, width = split.images.shape
    if split.files:
        classes, (mean, std) = split.files.classes, mean_and_std(split.files.histogram)
    else:
        _, classes, _, mean, std = DATASETS[data.dataset]
    counts = tuple(torch.bincount(split.labels, minlength=len(classes)).tolist())
    return DataInfo(data.dataset, classes, mean, std, (channels, height, width), counts)


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
    """(C, H, W) of the images that `data` describes; of own images as their headers say, without decoding."""
    if data.dataset in OWN_IMAGES:
        train = list_split(data, "train")
        return shape_of(data, look_at(Path(data.root), train.paths), [train])
    channels, height, width = DATASETS[data.dataset].image_shape
    return channels, data.image_size or height, data.image_size or width


def class_names(data: Data) -> list[str]:
    if data.dataset in OWN_IMAGES:
        return list_split(data, "train").classes
    return DATASETS[data.dataset].classes


def take(split: Split, indices: Tensor) -> Split:
    assert isinstance(split.images, Tensor)
    return Split(split.images[indices], split.labels[indices])


def few_images(split: Split, count: int, seed: int) -> Split:
    """`count` of the images, of all classes. Raises UserError for a stream, which is for more than that."""
    if isinstance(split.images, Stream):
        raise UserError(
            "train.overfit_batches: cannot act where images are read batch by batch; raise data.memory_limit"
        )
    chosen = stratified_split(split.labels, count, seed)[1]
    return Split(split.images[chosen], split.labels[chosen])


def resize(images: Tensor, size: int) -> Tensor:
    """uint8 images (N, C, H, W) stretched to (N, C, size, size), bilinear with antialiasing."""
    return F.interpolate(images, (size, size), mode="bilinear", antialias=True)


def stratified_split(labels: Tensor, size: int, seed: int) -> tuple[Tensor, Tensor]:
    """Indices of (the rest, `size` held out), each class held out in proportion, to within one image."""
    order = torch.randperm(len(labels), generator=generator(seed, SPLIT))
    order = order[labels[order].argsort(stable=True)]  # class by class, shuffled within each
    rank = torch.arange(len(labels) + 1) * size // len(labels)
    held_out = rank[1:] > rank[:-1]  # evenly spaced: `size` places in all
    return order[~held_out].sort().values, order[held_out].sort().values


# Randomness is stateless: each use has its own stream, derived from the seed and a place in the run.
SPLIT, ORDER, STEP, MIRROR = range(4)


def derived_seed(seed: int, *place: int) -> int:
    return int(np.random.SeedSequence([seed, *place]).generate_state(1, np.uint64)[0])


def generator(seed: int, *place: int) -> torch.Generator:
    return torch.Generator().manual_seed(derived_seed(seed, *place))


def seed_torch(seed: int, device: torch.device) -> None:
    """Seed torch's own generators of `device` and of the CPU."""
    if device.type == "cpu":
        # torch.manual_seed would note for GPUs, whether there are any or not, where it was called: 0.25 ms a step
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)


class Batches:
    """A split on the device as uint8, or a stream of it, and the normalised batches made of it.

    One pass yields images (B, C, H, W) float32 and labels (B,) int64, B = batch_size; the last batch holds
    what is left. In training a single image left over joins the batch before it, since batch normalisation
    cannot learn from one.
    """

    def __init__(self, split: Split, info: DataInfo, batch_size: int, device: torch.device):
        images = split.images
        self.images = images if isinstance(images, Stream) else images.to(device)
        self.labels = split.labels.to(device)
        self.batch_size, self.num_classes = batch_size, len(info.classes)
        per_channel = (1, len(info.mean), 1, 1)
        self.mean = 255 * torch.tensor(info.mean, device=device).view(per_channel)
        self.std = 255 * torch.tensor(info.std, device=device).view(per_channel)

    def __len__(self) -> int:
        """Steps in a training epoch."""
        leftover = 1 if self.batch_size > 1 else 0
        return max(1, math.ceil((len(self.labels) - leftover) / self.batch_size))

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Every image once, in order, as it is."""
        chunks = torch.arange(len(self.labels), device=self.labels.device).split(self.batch_size)
        for images, labels in self.read(chunks):
            yield self.normalise(images), labels

    def shuffled(
        self,
        seed: int,
        epoch: int,
        config: Augment,
        start: int = 0,
        sampling: str = "natural",
    ) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Every image once, in the order of `epoch` (counted from 0) and augmented, as (step, images, labels).

        With "balanced" `sampling` there are as many images in all, but each class equally often. Where images
        are mixed, the labels are shares (B, classes) float32. The step counts from the start of the run; the
        first `start` batches of the epoch are left out. Torch's own generators are seeded from (seed, step),
        so that augmentation, and dropout in the step that follows, depend on nothing that went before.

        With the "alternating" flip each image is mirrored in every other epoch, half of them in the first (K. Jordan,
        94% on CIFAR-10 in 3.29 Seconds on a Single GPU, 2024): no two epochs in a row show it the same way round.
        """
        random = generator(seed, ORDER, epoch)
        if sampling == "balanced":
            order = balanced_order(self.labels.cpu(), random)
        else:
            order = torch.randperm(len(self.labels), generator=random)
        order = order.to(self.labels.device)
        ends = [self.batch_size * i for i in range(1, len(self))]
        chunks = order.tensor_split(ends)[start:]
        if config.flip == "alternating":
            first = torch.randint(2, (len(order),), generator=generator(seed, MIRROR))
            mirrored = ((first + epoch) % 2).bool().view(-1, 1, 1, 1).to(order.device)
        for i, (images, labels) in enumerate(self.read(chunks), start):
            step = epoch * len(self) + i
            if config.flip == "alternating":
                images = torch.where(mirrored[chunks[i - start]], images.flip(3), images)
            seed_torch(derived_seed(seed, STEP, step), self.labels.device)
            images = self.normalise(augment(images, config))
            if config.mixes:
                images, labels = mix(images, labels, self.num_classes, config)
            yield step, images, labels

    def read(self, chunks: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """The images (B, C, H, W) uint8 and labels (B,) of each tensor of indices, on the device."""
        if isinstance(self.images, Stream):
            images = self.images.batches(chunks)
        else:
            images = (self.images.index_select(0, chosen) for chosen in chunks)
        for chosen, batch in zip(chunks, images, strict=True):
            yield batch.to(self.labels.device), self.labels[chosen]

    def normalise(self, images: Tensor) -> Tensor:
        return (images - self.mean) / self.std


def balanced_order(labels: Tensor, random: torch.Generator) -> Tensor:
    """Indices (N,) of `labels` (N,), shuffled: each class equally often to within one image.

    No image of a class comes once more before all the others of its class have come.
    """
    classes = labels.unique()
    places = torch.arange(len(labels)) % len(classes)
    shares = torch.bincount(places)[torch.randperm(len(classes), generator=random)].tolist()
    chosen = []
    for label, share in zip(classes, shares, strict=True):
        members = (labels == label).nonzero().flatten()
        rounds = math.ceil(share / len(members))
        orders = [torch.randperm(len(members), generator=random) for _ in range(rounds)]
        chosen.append(members[torch.cat(orders)[:share]])
    return torch.cat(chosen)[torch.randperm(len(labels), generator=random)]
