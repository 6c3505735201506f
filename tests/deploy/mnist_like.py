"""The digits of scikit-learn made as MNIST's were, for tests that need no download."""

import numpy as np
from conftest import write_idx
from PIL import Image
from sklearn.datasets import load_digits


def mnist_like():
    """1,797 images (28, 28) uint8 and their labels."""
    found = load_digits()
    return np.stack([as_mnist_is_made(each) for each in found.images]), found.target


def write_mnist_like(root, count):
    """The first `count` as the training images of a data root."""
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    images, labels = mnist_like()
    write_idx(raw / "train-images-idx3-ubyte", images[:count])
    write_idx(raw / "train-labels-idx1-ubyte", labels[:count])


def as_mnist_is_made(pixels):
    """A digit in 20 of 28 pixels, its centre of mass in the middle."""
    rows, columns = (np.flatnonzero(pixels.any(axis)) for axis in (1, 0))
    box = pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] * (255 / 16)
    height, width = (round(20 * side / max(box.shape)) for side in box.shape)
    small = np.asarray(Image.fromarray(box.astype(np.uint8)).resize((width, height), Image.BOX))
    y, x = ((np.indices(small.shape)[axis] * small).sum() / small.sum() for axis in (0, 1))
    image = np.zeros((28, 28), np.uint8)
    top, left = (
        int(np.clip(np.floor(14 - place + 0.5), 0, 28 - side))
        for place, side in ((y, height), (x, width))
    )
    image[top : top + height, left : left + width] = small
    return image
