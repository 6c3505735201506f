"""The published data sets: readers, classes, sizes, mean and spread of pixels."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from string import ascii_lowercase, ascii_uppercase
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from nanocnn.config.preprocessing import Interpolation
from nanocnn.images.published import read_cifar, read_emnist, read_mnist, read_svhn
from nanocnn.images.randomness import stratified_split


class DataSet(NamedTuple):
    read: Callable[[Path, bool], tuple[Tensor, Tensor]]  # (root, train) -> images and labels
    classes: list[str]
    image_shape: tuple[int, int, int]  # (C, H, W), where the config asks for no other size
    mean: list[float]
    std: list[float]


def read_digits(root: Path, train: bool) -> tuple[Tensor, Tensor]:
    """The 8x8 digits that come with scikit-learn, a fifth of them (359) as a fixed test split.

    Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine
    Learning Repository (1998); scikit-learn ships its 1,797 test images. Pixels there run from 0 to
    16.
    """
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    images = (torch.from_numpy(pixels).reshape(-1, 1, 8, 8) * (255 / 16)).round().to(torch.uint8)
    images, labels = resize(images, (28, 28)), torch.from_numpy(labels).long()
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
    # mean and std over the training images of each, checked in tests/test_dataset.py where they are
    # there
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


def resize(
    images: Tensor, size: tuple[int, int], interpolation: Interpolation = "bilinear"
) -> Tensor:
    """uint8 images (N, C, H, W) stretched to `size` (H, W), with antialiasing."""
    return F.interpolate(images, size, mode=interpolation, antialias=True)
