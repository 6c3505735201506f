"""Splits, batches and augmentation, on real digits and on real and imitated MNIST files."""

import shutil

import pytest
import torch
from conftest import PROJECT, made_up_info

from nanocnn.config.schema import Augment, Data
from nanocnn.images.batches import Batches
from nanocnn.images.randomness import stratified_split
from nanocnn.images.sets import DATASETS
from nanocnn.images.splits import Split, data_info, few_images, load_splits, load_test
from nanocnn.system.errors import UserError

CPU = torch.device("cpu")
INFO = made_up_info("ab", (1, 4, 4), std=0.25)


def test_stratified_split_is_exact_disjoint_seeded_and_in_proportion():
    labels = torch.tensor([0] * 50 + [1] * 30 + [2] * 21)
    rest, held_out = stratified_split(labels, 20, seed=1)
    assert len(held_out) == 20
    assert torch.cat([rest, held_out]).sort().values.tolist() == list(range(101))
    for held, total in zip(labels[held_out].bincount().tolist(), [50, 30, 21], strict=True):
        assert abs(held - 20 * total / 101) < 1
    assert torch.equal(held_out, stratified_split(labels, 20, seed=1)[1])
    assert not torch.equal(held_out, stratified_split(labels, 20, seed=2)[1])


def test_digits_are_the_1797_of_scikit_learn_in_disjoint_splits():
    data = Data(dataset="digits", validation=100)
    splits = load_splits(data, seed=3) | {"test": load_test(data)}
    assert {name: len(split.labels) for name, split in splits.items()} == {
        "train": 1338,
        "val": 100,
        "test": 359,
    }
    seen = [image.numpy().tobytes() for split in splits.values() for image in split.images]
    assert len(set(seen)) == 1797
    for split in splits.values():
        assert split.images.dtype == torch.uint8 and split.images.shape[1:] == (1, 28, 28)
        counts = split.labels.bincount()
        assert counts.max() - counts.min() <= 0.1 * counts.max() + 1
    assert torch.equal(
        load_splits(data, seed=4)["train"].labels.bincount().sum(), torch.tensor(1338)
    )
    assert not torch.equal(load_splits(data, seed=4)["val"].images, splits["val"].images)
    assert torch.equal(load_test(data).images, splits["test"].images)


@pytest.mark.parametrize("name", DATASETS)
def test_mean_and_std_are_those_of_the_training_images(name, monkeypatch):
    monkeypatch.setattr(
        "nanocnn.images.published.download", lambda *_: pytest.skip(f"{name} is not in data/")
    )
    root = str(PROJECT / "data")
    images = load_splits(Data(dataset=name, root=root, validation=0), seed=0)["train"].images / 255
    mean, std = images.mean((0, 2, 3)), images.std((0, 2, 3))
    torch.testing.assert_close(mean, torch.tensor(DATASETS[name].mean), atol=5e-5, rtol=0)
    torch.testing.assert_close(std, torch.tensor(DATASETS[name].std), atol=5e-5, rtol=0)


def test_limit_and_image_size_act():
    splits = load_splits(Data(limit=200, validation=0.25, image_size=20), seed=0)
    assert (len(splits["train"].labels), len(splits["val"].labels)) == (150, 50)
    assert splits["train"].images.shape[1:] == (1, 20, 20)
    both = torch.cat([split.labels for split in splits.values()]).bincount()
    assert both.min() >= 19 and both.max() <= 21
    assert data_info(Data(), splits["train"]).image_shape == (1, 20, 20)


@pytest.mark.parametrize(
    "data, message",
    [
        (Data(limit=2000), r"data\.limit = 2000.*1438"),
        (Data(validation=0.0001), r"data\.validation = 0\.0001.*less than one"),
        (Data(augment=Augment(shift=28)), r"data\.augment\.shift = 28.*28x28"),
        (Data(validation=1438), r"data\.validation = 1438.*1438"),
    ],
)
def test_more_images_than_there_are_is_refused(data, message):
    with pytest.raises(UserError, match=message):
        load_splits(data, seed=0)


def test_mnist_is_read_as_published(mnist_root):
    data = Data(dataset="mnist", root=str(mnist_root), validation=5000)
    splits = load_splits(data, seed=0) | {"test": load_test(data)}
    assert [len(split.labels) for split in splits.values()] == [55_000, 5_000, 10_000]
    labels = torch.cat([splits["train"].labels, splits["val"].labels])
    published = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert labels.bincount().tolist() == published
    assert splits["test"].labels[:5].tolist() == [7, 2, 1, 0, 4]


def test_training_does_not_open_the_test_files(mnist_root, tmp_path):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for path in (mnist_root / "MNIST" / "raw").glob("train-*.gz"):
        shutil.copy(path, raw)
    garbage = {raw / f"t10k-{kind}-ubyte.gz": b"garbage" for kind in ("images-idx3", "labels-idx1")}
    for path, content in garbage.items():
        path.write_bytes(content)
    data = Data(dataset="mnist", root=str(tmp_path), limit=100)
    assert len(load_splits(data, seed=0)["train"].labels) == 90
    assert {path: path.read_bytes() for path in garbage} == garbage
    assert not list(raw.glob("t10k*ubyte"))
    with pytest.raises(UserError, match="t10k-images"):
        load_test(data)


def test_mnist_that_is_nowhere_is_refused_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("torchvision.datasets.MNIST.mirrors", ["https://127.0.0.1:9/"])
    monkeypatch.setattr("nanocnn.images.download.time.sleep", lambda seconds: None)
    root = tmp_path / "data"
    with pytest.raises(UserError) as caught:
        load_splits(Data(dataset="mnist", root=str(root)), seed=0)
    message = str(caught.value)
    for part in ("train-images-idx3-ubyte.gz", f"{root}/MNIST/raw", "'python train.py'"):
        assert part in message
    assert not root.exists()
    root.mkdir()
    with pytest.raises(UserError):
        load_splits(Data(dataset="mnist", root=str(root)), seed=0)
    assert root.exists(), "it was there before"


def numbered(count):
    """Images of 4x4 whose pixels all hold the image's number."""
    images = (
        torch.arange(count, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 4, 4).contiguous()
    )
    return Split(images, torch.arange(count) % 2)


def numbers(images):
    """Undo INFO's normalisation."""
    return ((images[:, 0, 0, 0] * 0.25 + 0.5) * 255).round().int().tolist()


def test_batches_in_order_are_normalised_and_complete():
    batches = list(Batches(numbered(10), INFO, 4, CPU))
    assert [len(labels) for _, labels in batches] == [4, 4, 2]
    images = torch.cat([images for images, _ in batches])
    assert images.dtype == torch.float32
    torch.testing.assert_close(images[3], torch.full((1, 4, 4), (3 / 255 - 0.5) / 0.25))


@pytest.mark.parametrize(
    "count, batch_size, sizes",
    [
        (10, 4, [4, 4, 2]),
        (9, 4, [4, 5]),
        (8, 4, [4, 4]),
        (1, 4, [1]),
        (3, 1, [1, 1, 1]),
        (2, 4, [2]),
    ],
)
def test_a_training_epoch_shows_every_image_once_and_leaves_none_alone(count, batch_size, sizes):
    batches = Batches(numbered(count), INFO, batch_size, CPU)
    epoch = list(batches.shuffled(0, 2, Augment()))
    assert [len(labels) for _, _, labels in epoch] == sizes
    assert [step for step, _, _ in epoch] == [2 * len(batches) + i for i in range(len(batches))]
    shown = [number for _, images, _ in epoch for number in numbers(images)]
    assert sorted(shown) == list(range(count))
    for _, images, labels in epoch:
        assert labels.tolist() == [number % 2 for number in numbers(images)]


def test_the_order_depends_on_seed_and_epoch_alone():
    def order(seed, epoch):
        batches = Batches(numbered(100), INFO, 7, CPU).shuffled(seed, epoch, Augment())
        return [number for _, images, _ in batches for number in numbers(images)]

    first = order(0, 0)
    torch.rand(5)  # whatever else draws random numbers
    assert order(0, 0) == first != order(0, 1)
    assert order(1, 0) != first


def test_augmentation_depends_on_the_step_alone():
    split = Split(torch.randint(0, 256, (20, 1, 8, 8), dtype=torch.uint8), torch.zeros(20).long())
    batches = Batches(split, INFO, 5, CPU)
    passes = []
    for _ in range(2):
        passes.append(
            torch.cat([images for _, images, _ in batches.shuffled(0, 1, Augment(shift=2))])
        )
        torch.rand(3)
    assert torch.equal(*passes)
    plain = torch.cat([images for _, images, _ in batches.shuffled(0, 1, Augment())])
    assert not torch.equal(plain, passes[0])


def test_a_few_images_are_of_all_classes():
    labels = torch.arange(10).repeat_interleave(20)  # class by class, as folders are listed
    few = few_images(Split(torch.zeros(200, 1, 2, 2, dtype=torch.uint8), labels), 30, seed=0)
    assert few.labels.bincount().tolist() == [3] * 10 and few.images.shape == (30, 1, 2, 2)
