"""Published data sets in their authors' own files, fetched where missing, read strictly and in
bounded memory.

Each function takes the data root and which split, and gives images (N, C, H, W) uint8 and labels
(N,) int64. Only the files, or members of an archive, that hold this split are read. Archives are
never unpacked to disk, so that no name or link in them leads anywhere. Every function raises
UserError where the files are neither there nor to be had, or are not what they should be.
data/README.md lists them all.
"""

import gzip
import io
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from nanocnn.images.download import download
from nanocnn.images.idx import parse_idx, read_idx
from nanocnn.system.errors import UserError

MOST_UNPACKED = (
    1 << 28
)  # bytes in an unpacked archive; the largest published one, SVHN's, has 225 MB

# over https, where torchvision names hosts that speak http alone
MIRRORS = {
    "FashionMNIST": [
        "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/"
    ],
    "KMNIST": ["https://codh.rois.ac.jp/kmnist/dataset/kmnist/"],
}


def read_mnist(name: str, root: Path, train: bool) -> tuple[Tensor, Tensor]:
    """MNIST, FashionMNIST or KMNIST from root/name/raw/train-images-idx3-ubyte.gz and so on, packed
    or not.

    Sources: Y. LeCun et al., Gradient-based learning applied to document recognition (1998); H.
    Xiao et al., Fashion-MNIST (2017), arXiv:1708.07747; T. Clanuwat et al., Deep Learning for
    Classical Japanese Literature (2018), arXiv:1812.01718.
    """
    folder = root / name / "raw"
    parts = []
    for kind, item_shape in (("images-idx3-ubyte", (28, 28)), ("labels-idx1-ubyte", ())):
        path = folder / f"{'train' if train else 't10k'}-{kind}"
        if not path.exists():
            path = path.with_name(f"{path.name}.gz")
        if not path.exists():
            import torchvision

            published = getattr(torchvision.datasets, name)
            mirrors = [*published.mirrors, *MIRRORS.get(name, [])]
            md5 = dict(published.resources)[path.name]
            download([mirror + path.name for mirror in mirrors], path, md5)
        parts.append(read_idx(path, item_shape))
    images, labels = parts
    return images.unsqueeze(1), labels.long()


def read_emnist(name: str, root: Path, train: bool) -> tuple[Tensor, Tensor]:
    """The "letters" or "balanced" part of EMNIST, upright, from root/EMNIST/raw/gzip.zip.

    The files in that archive may also lie beside it, packed or not, as torchvision leaves them.
    They hold each image transposed, and number the letters from 1. Source: G. Cohen et al., EMNIST:
    an extension of MNIST to handwritten letters (2017), arXiv:1702.05373.
    """
    folder = root / "EMNIST" / "raw"
    parts = []
    for kind, item_shape in (("images-idx3-ubyte", (28, 28)), ("labels-idx1-ubyte", ())):
        path = folder / f"emnist-{name}-{'train' if train else 'test'}-{kind}"
        packed = path.with_name(f"{path.name}.gz")
        if path.exists() or packed.exists():
            parts.append(read_idx(path if path.exists() else packed, item_shape))
            continue
        archive = folder / "gzip.zip"
        if not archive.exists():
            from torchvision.datasets import EMNIST

            download([EMNIST.url], archive, EMNIST.md5)
        parts.append(read_zipped_idx(archive, f"gzip/{packed.name}", item_shape))
    images, labels = parts
    labels = labels.long()
    if name == "letters":
        check_labels(labels, 1, 26, folder)
        labels -= 1
    return images.transpose(1, 2).unsqueeze(1).contiguous(), labels


class Binary(NamedTuple):
    """The binary version of a CIFAR data set: images after their label bytes, in files of one
    folder.
    """

    archive: str
    md5: str  # as the page of the data sets gives it, https://www.cs.toronto.edu/~kriz/cifar.html
    folder: str
    train: Sequence[str]
    test: Sequence[str]
    label_bytes: int  # the last is the class; CIFAR-100 has the superclass before it
    python: Sequence[str]  # the same images as pickles


CIFAR = {
    "cifar10": Binary(
        archive="cifar-10-binary.tar.gz",
        md5="c32a1d4ab5d03f1284b67883e8d87530",
        folder="cifar-10-batches-bin",
        train=[f"data_batch_{number}.bin" for number in range(1, 6)],
        test=["test_batch.bin"],
        label_bytes=1,
        python=["cifar-10-batches-py", "cifar-10-python.tar.gz"],
    ),
    "cifar100": Binary(
        archive="cifar-100-binary.tar.gz",
        md5="03b5dce01913d631647c71ecec9e9cb8",
        folder="cifar-100-binary",
        train=["train.bin"],
        test=["test.bin"],
        label_bytes=2,
        python=["cifar-100-python", "cifar-100-python.tar.gz"],
    ),
}


def read_cifar(name: str, root: Path, train: bool) -> tuple[Tensor, Tensor]:
    """CIFAR-10 or CIFAR-100 from the archive of its binary version in `root`, or from the folder in
    it.

    The python version is refused: it is made of pickles, and reading those may run any code.
    Source: A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images (2009).
    """
    published = CIFAR[name]
    members = [
        f"{published.folder}/{file}" for file in (published.train if train else published.test)
    ]
    archive = root / published.archive
    if (root / published.folder).is_dir():
        contents = {member: memoryview(read_file(root / member)) for member in members}
    else:
        if not archive.exists():
            from torchvision.datasets import CIFAR10

            url = f"{CIFAR10.url.rpartition('/')[0]}/{archive.name}"
            try:
                download([url], archive, published.md5)
            except UserError as error:
                pickles = [root / path for path in published.python if (root / path).exists()]
                if pickles:
                    raise UserError(
                        f"{pickles[0]}: the python version, whose pickles may run any code, is "
                        f"not read; {error}"
                    ) from None
                raise
        contents = read_tar(archive, members)

    length = published.label_bytes + 3 * 32 * 32
    for member, content in contents.items():
        if not content or len(content) % length:
            raise UserError(
                f"{root / member}: {len(content):,} bytes, should be images of {length:,} bytes "
                "each"
            )
    records = np.concatenate(
        [np.frombuffer(content, np.uint8).reshape(-1, length) for content in contents.values()]
    )
    images = records[:, published.label_bytes :].reshape(-1, 3, 32, 32)
    labels = records[:, published.label_bytes - 1].astype(np.int64)
    return torch.from_numpy(images), torch.from_numpy(labels)


def read_svhn(root: Path, train: bool) -> tuple[Tensor, Tensor]:
    """SVHN's cropped digits from root/train_32x32.mat or root/test_32x32.mat, where 10 stands for
    the digit 0.

    Source: Y. Netzer et al., Reading Digits in Natural Images with Unsupervised Feature Learning
    (2011).
    """
    path = root / f"{'train' if train else 'test'}_32x32.mat"
    if not path.exists():
        from torchvision.datasets import SVHN

        url, _, md5 = SVHN.split_list["train" if train else "test"]
        download([url], path, md5)

    arrays = read_mat(path, ["X", "y"])
    images, labels = arrays["X"], arrays["y"]
    if images.shape != (32, 32, 3, labels.size):
        sizes = "x".join(map(str, images.shape))
        raise UserError(
            f"{path}: X is {sizes} for {labels.size} labels in y, should be 32x32x3xN for N labels"
        )
    numbers = torch.from_numpy(labels.reshape(-1).astype(np.int64))
    check_labels(numbers, 1, 10, path)
    return torch.from_numpy(np.ascontiguousarray(images.transpose(3, 2, 0, 1))), numbers % 10


def check_labels(labels: Tensor, first: int, last: int, path: Path) -> None:
    """Raises UserError where a label, as the file at `path` numbers them, is not from `first` to
    `last`.
    """
    wrong = ((labels < first) | (labels > last)).nonzero()
    if len(wrong):
        image = int(wrong[0])
        raise UserError(
            f"{path}: image {image} has the label {labels[image]}, should be from {first} to {last}"
        )


def read_file(path: Path) -> bytes:
    try:
        if path.stat().st_size > MOST_UNPACKED:
            raise UserError(f"{path}: larger than {MOST_UNPACKED:,} bytes")
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None


def read_zipped_idx(archive: Path, member: str, item_shape: tuple[int, ...]) -> Tensor:
    """As read_idx, from the .gz file that has exactly the name `member` in the zip file
    `archive`.
    """
    name = f"{archive}, {member}"
    try:
        with zipfile.ZipFile(archive) as files:
            if files.getinfo(member).compress_type not in (
                zipfile.ZIP_STORED,
                zipfile.ZIP_DEFLATED,
            ):
                raise UserError(f"{name}: compressed in a way that the published file is not")
            with files.open(member) as packed, gzip.open(packed) as file:
                return parse_idx(file, name, item_shape)
    except UserError:
        raise
    except KeyError:
        raise UserError(f"{archive}: holds no {member}") from None
    except Exception as error:  # noqa: BLE001  whatever the readers of zip and gzip stumble on
        raise UserError(f"{name}: damaged: {error}") from None


def read_tar(archive: Path, members: Sequence[str]) -> dict[str, memoryview]:
    """The content of the regular files that have exactly the names `members` in a .tar.gz.

    All else in it is passed over, whatever it is and wherever it points.
    """
    found = {}
    try:
        with gzip.open(archive) as packed:
            unpacked = packed.read(MOST_UNPACKED + 1)
        if len(unpacked) > MOST_UNPACKED:
            raise UserError(f"{archive}: unpacks to more than {MOST_UNPACKED:,} bytes")
        with tarfile.open(fileobj=io.BytesIO(unpacked), mode="r:") as files:
            for member in files:
                if member.size < 0:  # there would be no end of it
                    raise tarfile.ReadError(f"{member.name} has a negative size")
                if member.name not in members:
                    continue
                if not member.isreg() or member.issparse():
                    raise UserError(f"{archive}: {member.name} in it should be a regular file")
                found[member.name] = memoryview(unpacked)[member.offset_data :][: member.size]
    except UserError:
        raise
    except Exception as error:  # noqa: BLE001  whatever the readers of gzip and tar stumble on
        raise UserError(f"{archive}: damaged: {error}") from None
    if missing := [member for member in members if member not in found]:
        raise UserError(f"{archive}: holds no {missing[0]}")
    return {member: found[member] for member in members}


def read_mat(path: Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    """The arrays `names` of bytes in a MATLAB file; what else it holds is passed over.

    Not by scipy.io.loadmat, which a hostile file can make fill the memory or end the process.
    Format: a header of 128 bytes that ends in version and byte order, then elements (see
    `elements`): variables (type 14), compressed by zlib or not (type 15). A variable is the
    elements flags, shape, name and values, of the types 6, 5, 1 and here 2 for unsigned bytes.
    Source: The MathWorks, MAT-File Format, level 5.
    """
    arrays = {}
    content = memoryview(read_file(path))
    order = {b"\x00\x01IM": "<", b"\x01\x00MI": ">"}.get(bytes(content[124:128]))
    if order is None:
        raise UserError(f"{path}: no MATLAB 5 file")
    try:
        for kind, data in elements(content[128:], order):
            if kind == 15:
                # where this cuts off, less is left than the variable says
                unpacked = memoryview(zlib.decompressobj().decompress(data, MOST_UNPACKED))
                kind, data = next(elements(unpacked, order), (kind, data))
            parts = list(islice(elements(data, order), 4)) if kind == 14 else []
            if [kind for kind, _ in parts] == [6, 5, 1, 2]:
                shape, name, values = (part for _, part in parts[1:])
                if (known := bytes(name).decode("latin-1")) in names:
                    sizes = np.frombuffer(shape, f"{order}u4")
                    arrays[known] = np.frombuffer(values, np.uint8).reshape(sizes, order="F")
    except (struct.error, zlib.error, ValueError) as error:
        raise UserError(f"{path}: damaged: {error}") from None
    if missing := [name for name in names if name not in arrays]:
        raise UserError(f"{path}: holds no array {missing[0]} of unsigned bytes")
    return arrays


def elements(content: memoryview, order: str) -> Iterator[tuple[int, memoryview]]:
    """(type, data) of the elements of a MATLAB file, one after the other.

    Each begins with type and size, of 32 bits both, or of 16 bits the other way round where the
    data are no more than four bytes; all but compressed ones end at a multiple of eight bytes.
    """
    start = 0
    while start < len(content):
        kind, size = struct.unpack_from(f"{order}II", content, start)
        if small := kind >> 16:
            yield kind & 0xFFFF, content[start + 4 :][: min(small, 4)]
            start += 8
        else:
            yield kind, content[start + 8 :][:size]
            start += 8 + size + (0 if kind == 15 else -size % 8)
