"""Published data sets from small files in their formats: values, orientation, labels, splits, where
from.
"""

import gzip
import shutil
import struct
import zlib
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torchvision
from conftest import PROJECT
from imitation import (
    cifar10_files,
    cifar_records,
    emnist_files,
    member,
    pixels,
    write_cifar10,
    write_emnist,
    write_mnist,
    write_svhn,
    write_tar,
)

from nanocnn.config.schema import Data
from nanocnn.images.sets import DATASETS
from nanocnn.images.splits import load_splits, load_test
from nanocnn.system.errors import UserError


def load(name, root, split):
    data = Data(dataset=name, root=str(root), validation=0)
    read = load_test(data) if split == "test" else load_splits(data, seed=0)["train"]
    return read.images, read.labels


@pytest.mark.parametrize("name", DATASETS)
def test_each_data_set_describes_itself(name):
    dataset = DATASETS[name]
    assert len(dataset.classes) == len(set(dataset.classes))
    assert len(dataset.mean) == len(dataset.std) == dataset.image_shape[0]
    assert all(0 < value < 1 for value in dataset.mean + dataset.std)


def test_class_names_are_those_of_torchvision():
    published = torchvision.datasets
    assert DATASETS["fashion_mnist"].classes == published.FashionMNIST.classes
    assert DATASETS["kmnist"].classes == published.KMNIST.classes
    by_part = published.EMNIST.classes_split_dict
    assert DATASETS["emnist_balanced"].classes == by_part["balanced"]
    assert ["N/A", *DATASETS["emnist_letters"].classes] == by_part["letters"]
    # as in the files batches.meta.txt and fine_label_names.txt: both lists are in alphabetical
    # order
    assert len(DATASETS["cifar10"].classes) == 10 and len(DATASETS["cifar100"].classes) == 100
    for name in ("cifar10", "cifar100"):
        assert DATASETS[name].classes == sorted(DATASETS[name].classes)


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name, folder", [("fashion_mnist", "FashionMNIST"), ("kmnist", "KMNIST")])
def test_the_kin_of_mnist_are_what_torchvision_reads(tmp_path, name, folder, packed, split):
    labels = np.arange(40 if split == "train" else 20) % 10
    write_mnist(tmp_path, folder, split, labels)
    train = split == "train"
    expected = getattr(torchvision.datasets, folder)  # which wants both splits to be there
    write_mnist(tmp_path, folder, "test" if train else "train", labels)
    expected = expected(tmp_path, train=train)
    for path in (tmp_path / folder / "raw").iterdir():
        if packed:
            path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
            path.unlink()
    images, found = load(name, tmp_path, split)
    assert torch.equal(images.squeeze(1), expected.data) and images.dtype == torch.uint8
    assert found.tolist() == expected.targets.tolist() == labels.tolist()


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("layout", ["archive", "packed", "unpacked"])
@pytest.mark.parametrize("part, first, last", [("letters", 1, 26), ("balanced", 0, 46)])
def test_emnist_is_upright_and_its_labels_begin_at_zero(tmp_path, part, first, last, layout, split):
    labels = np.linspace(first, last, 40 if split == "train" else 20).astype(int)
    files = emnist_files(part, split, labels)
    raw = tmp_path / "EMNIST" / "raw"
    raw.mkdir(parents=True)
    if layout == "archive":
        write_emnist(tmp_path, files)
    for name, content in files.items():
        if layout == "packed":
            (raw / f"{name}.gz").write_bytes(gzip.compress(content))
        if layout == "unpacked":
            (raw / name).write_bytes(content)
    images, found = load(f"emnist_{part}", tmp_path, split)
    assert torch.equal(images[:, 0].transpose(1, 2), torch.from_numpy(pixels(split, 28, 28)))
    assert found.tolist() == (labels - first).tolist()
    names = DATASETS[f"emnist_{part}"].classes
    assert names[found[0]] + names[found[-1]] == {"letters": "az", "balanced": "0t"}[part]
    if layout == "archive":
        assert [path.name for path in raw.iterdir()] == ["gzip.zip"], "it was unpacked to disk"
    if layout == "unpacked":
        expected = torchvision.datasets.EMNIST(tmp_path, part, train=split == "train")
        assert torch.equal(images[:, 0].transpose(1, 2), expected.data)
        assert [names[label] for label in found] == [expected.classes[i] for i in expected.targets]


@pytest.mark.parametrize("layout", ["archive", "folder"])
def test_cifar10_is_read_from_its_binary_version(tmp_path, layout):
    write_cifar10(tmp_path)
    if layout == "folder":
        shutil.unpack_archive(tmp_path / "cifar-10-binary.tar.gz", tmp_path)
        (tmp_path / "cifar-10-binary.tar.gz").write_bytes(b"not opened")
    before = sorted(tmp_path.rglob("*"))
    for split, count in (("train", 40), ("test", 20)):
        images, labels = load("cifar10", tmp_path, split)
        assert torch.equal(images, torch.from_numpy(pixels(split, 3, 32, 32)))
        assert labels.tolist() == [number % 10 for number in range(count)]
    assert sorted(tmp_path.rglob("*")) == before


def test_a_record_holds_red_green_and_blue_row_by_row(tmp_path):
    record = bytearray(1 + 3 * 1024)
    record[0] = 9
    for channel, row, column, value in ((0, 0, 1, 11), (1, 2, 0, 22), (2, 31, 31, 33)):
        record[1 + 1024 * channel + 32 * row + column] = value
    files = {f"data_batch_{number}.bin": bytes(record) for number in range(1, 6)}
    write_cifar10(tmp_path, files)
    images, labels = load("cifar10", tmp_path, "train")
    assert (images[0, 0, 0, 1], images[0, 1, 2, 0], images[0, 2, 31, 31]) == (11, 22, 33)
    assert images[0].sum() == 66 and labels.tolist() == [9] * 5


@pytest.mark.parametrize("split", ["train", "test"])
def test_cifar100_has_its_fine_labels(tmp_path, split):
    images = pixels(split, 3, 32, 32)
    fine = np.linspace(0, 99, len(images)).astype(int)
    content = cifar_records(images, fine // 5, fine)
    write_tar(
        tmp_path / "cifar-100-binary.tar.gz", [member(f"cifar-100-binary/{split}.bin", content)]
    )
    found, labels = load("cifar100", tmp_path, split)
    assert torch.equal(found, torch.from_numpy(images))
    assert labels.tolist() == fine.tolist()
    names = DATASETS["cifar100"].classes
    assert (names[labels[0]], names[labels[-1]]) == ("apple", "worm")


@pytest.mark.parametrize("split", ["train", "test"])
def test_svhn_is_what_torchvision_reads(tmp_path, split, monkeypatch):
    numbers = np.arange(40 if split == "train" else 20) % 10 + 1
    images = write_svhn(tmp_path, split, numbers)
    found, labels = load("svhn", tmp_path, split)
    assert torch.equal(found, torch.from_numpy(images)) and found.is_contiguous()
    assert labels.tolist() == [number % 10 for number in numbers]
    monkeypatch.setattr("torchvision.datasets.SVHN._check_integrity", lambda self: True)
    expected = torchvision.datasets.SVHN(tmp_path, split)
    assert np.array_equal(found.numpy(), expected.data)
    assert labels.tolist() == expected.labels.tolist()


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("order, mark", [("<", b"\x00\x01IM"), (">", b"\x01\x00MI")])
def test_svhn_is_read_in_either_byte_order_compressed_or_not(tmp_path, order, mark, compressed):
    """Such a file made by hand, with labels few enough for the shorter form, sizes that need
    padding, and one variable more.
    """

    def element(kind, content):
        if 0 < len(content) <= 4:
            return struct.pack(f"{order}I", kind | len(content) << 16) + content.ljust(4, b"\0")
        padding = b"" if kind == 15 else bytes(-len(content) % 8)
        return struct.pack(f"{order}II", kind, len(content)) + content + padding

    def variable(name, array, stored_as=2):
        shape = struct.pack(f"{order}{array.ndim}I", *array.shape)
        parts = [(6, bytes(8)), (5, shape), (1, name), (stored_as, array.tobytes(order="F"))]
        content = element(14, b"".join(element(*part) for part in parts))
        return element(15, zlib.compress(content)) if compressed else content

    images = pixels("train", 3, 32, 32)[:3]
    variables = [
        variable(b"notes", np.ones((2, 3)), stored_as=9),
        variable(b"y", np.array([[[1]], [[10]], [[9]]], np.uint8)),
        variable(b"X", images.transpose(2, 3, 1, 0)),
    ]
    (tmp_path / "train_32x32.mat").write_bytes(bytes(124) + mark + b"".join(variables))
    found, labels = load("svhn", tmp_path, "train")
    assert torch.equal(found, torch.from_numpy(images))
    assert labels.tolist() == [1, 0, 9]


@pytest.mark.parametrize("name", DATASETS)
def test_training_reads_no_test_images(tmp_path, name, monkeypatch):
    """They are damaged, or not there at all."""
    monkeypatch.setattr(
        "nanocnn.images.published.download", lambda *_: pytest.fail("it wants the test images")
    )
    labels = np.arange(40) % 10
    if name in ("mnist", "fashion_mnist", "kmnist"):
        folder = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST", "kmnist": "KMNIST"}[name]
        write_mnist(tmp_path, folder, "train", labels)
        (tmp_path / folder / "raw" / "t10k-images-idx3-ubyte").write_bytes(b"garbage")
    elif name.startswith("emnist"):
        part = name.removeprefix("emnist_")
        test = dict.fromkeys(emnist_files(part, "test", labels), b"garbage")
        write_emnist(tmp_path, emnist_files(part, "train", labels + 1) | test)
    elif name == "cifar10":
        write_cifar10(tmp_path, cifar10_files() | {"test_batch.bin": b"garbage"})
    elif name == "cifar100":
        folder = tmp_path / "cifar-100-binary"
        folder.mkdir()
        records = cifar_records(pixels("train", 3, 32, 32), labels, labels)
        (folder / "train.bin").write_bytes(records)
    elif name == "svhn":
        write_svhn(tmp_path, "train", labels + 1)
        (tmp_path / "test_32x32.mat").write_bytes(b"garbage")
    assert len(load(name, tmp_path, "train")[1]) == (1438 if name == "digits" else 40)


@pytest.mark.parametrize(
    "name, wrong, message",
    [
        ("kmnist", 10, "image 3 has the label 10, but there are 10 classes"),
        ("emnist_letters", 0, "image 3 has the label 0, should be from 1 to 26"),
        ("emnist_letters", 27, "image 3 has the label 27, should be from 1 to 26"),
        ("emnist_balanced", 47, "image 3 has the label 47, but there are 47 classes"),
        ("cifar10", 10, "image 3 has the label 10, but there are 10 classes"),
        ("svhn", 0, "image 3 has the label 0, should be from 1 to 10"),
        ("svhn", 11, "image 3 has the label 11, should be from 1 to 10"),
    ],
)
def test_a_label_of_no_class_is_refused(tmp_path, name, wrong, message):
    labels = np.arange(40) % 10 + 1
    labels[labels == 10] = 9
    labels[3] = wrong
    if name == "kmnist":
        write_mnist(tmp_path, "KMNIST", "train", labels)
    elif name.startswith("emnist"):
        write_emnist(tmp_path, emnist_files(name.removeprefix("emnist_"), "train", labels))
    elif name == "cifar10":
        first = cifar_records(pixels("train", 3, 32, 32)[:8], labels[:8])
        write_cifar10(tmp_path, cifar10_files() | {"data_batch_1.bin": first})
    else:
        write_svhn(tmp_path, "train", labels)
    with pytest.raises(UserError, match=message):
        load(name, tmp_path, "train")


@pytest.fixture
def wanted(monkeypatch):
    """What would be fetched, as (url, file, MD5); nothing comes."""
    tries = []

    def fetch(url, path, md5):
        tries.append((url, path, md5))
        raise OSError("no network")

    monkeypatch.setattr("nanocnn.images.download.fetch", fetch)
    monkeypatch.setattr("nanocnn.images.download.time", SimpleNamespace(sleep=lambda seconds: None))
    return tries


TORONTO = "https://www.cs.toronto.edu/~kriz/"
SOURCES = {
    ("mnist", "train"): (
        "https://ossci-datasets.s3.amazonaws.com/mnist/train-images-idx3-ubyte.gz",
        "MNIST/raw/train-images-idx3-ubyte.gz",
        "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    ),
    ("fashion_mnist", "test"): (
        "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/t10k-images-idx3-ubyte.gz",
        "FashionMNIST/raw/t10k-images-idx3-ubyte.gz",
        "bef4ecab320f06d8554ea6380940ec79",
    ),
    ("kmnist", "train"): (
        "https://codh.rois.ac.jp/kmnist/dataset/kmnist/train-images-idx3-ubyte.gz",
        "KMNIST/raw/train-images-idx3-ubyte.gz",
        "bdb82020997e1d708af4cf47b453dcf7",
    ),
    ("emnist_balanced", "test"): (
        torchvision.datasets.EMNIST.url,
        "EMNIST/raw/gzip.zip",
        "58c8d27c78d21e728a6bc7b3cc06412e",
    ),
    ("cifar10", "train"): (
        f"{TORONTO}cifar-10-binary.tar.gz",
        "cifar-10-binary.tar.gz",
        "c32a1d4ab5d03f1284b67883e8d87530",
    ),
    ("cifar100", "test"): (
        f"{TORONTO}cifar-100-binary.tar.gz",
        "cifar-100-binary.tar.gz",
        "03b5dce01913d631647c71ecec9e9cb8",
    ),
}


@pytest.mark.parametrize("name, split", SOURCES)
def test_what_is_missing_is_asked_of_its_publisher_over_https(tmp_path, wanted, name, split):
    url, file, md5 = SOURCES[name, split]
    with pytest.raises(UserError, match=r"is missing in .*data/README\.md"):
        load(name, tmp_path, split)
    assert wanted == [(url, tmp_path / file, md5)] * 3
    assert url.startswith("https://")
    readme = (PROJECT / "data" / "README.md").read_text()
    assert md5 in readme and file.rpartition("/")[2] in readme


def test_what_is_not_offered_over_https_is_to_be_put_there_by_hand(tmp_path, wanted):
    with pytest.raises(UserError, match=r"train_32x32\.mat is missing in .*no https.*README"):
        load("svhn", tmp_path, "train")
    assert wanted == []


@pytest.mark.parametrize("name", ["cifar-10-batches-py", "cifar-10-python.tar.gz"])
def test_cifars_python_version_alone_gets_one_clear_line(tmp_path, wanted, name):
    (tmp_path / name).mkdir()
    with pytest.raises(UserError) as caught:
        load("cifar10", tmp_path, "train")
    message = str(caught.value)
    assert "\n" not in message
    for part in (str(tmp_path / name), "pickles", "cifar-10-binary.tar.gz", "data/README.md"):
        assert part in message


@pytest.mark.parametrize("name", ["fashion_mnist", "cifar10"])
def test_both_scripts_run_on_them(tmp_path, script, name):
    root = tmp_path / "data"
    if name == "cifar10":
        write_cifar10(root)
    else:
        write_mnist(root, "FashionMNIST", "train", np.arange(40) % 10)
        write_mnist(root, "FashionMNIST", "test", np.arange(20) % 10)
    options = ["data.validation=10", "train.epochs=1", "train.batch_size=16", "log.every=1"]
    options += ["data.augment.shift=1", "model={name: mlp, hidden: [8]}", "--run-dir", "run"]
    trained = script("train.py", "--config", f"{name}.yaml", *options)
    assert trained.code == 0, trained.error
    shape = "x".join(map(str, DATASETS[name].image_shape))
    assert f"{name}: 30 train and 10 val images of {shape}" in trained.out
    tested = script("test.py", "--ckpt", "run")
    assert tested.code == 0, tested.error
    for part in (f"{name}, test split", "of 20 correct", *DATASETS[name].classes):
        assert part in tested.out
