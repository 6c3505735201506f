"""Files that are unpacked while torch is imported are read as they would be without that."""

import gzip

import numpy as np
import pytest
import torch
from conftest import write_idx

from nanocnn.config.schema import Data
from nanocnn.images import ahead
from nanocnn.images.idx import read_idx
from nanocnn.system.errors import UserError

SHAPE = (28, 28)


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "MNIST/raw"
    folder.mkdir(parents=True)
    return Data(dataset="mnist", root=str(tmp_path))


def write(data, images):
    path = ahead.Path(data.root, "MNIST/raw/train-images-idx3-ubyte.gz")
    plain = path.with_suffix(".idx")
    write_idx(plain, images)
    path.write_bytes(gzip.compress(plain.read_bytes()))
    return path


def images_of(value):
    return np.full((30, *SHAPE), value, np.uint8)


def test_what_was_read_ahead_is_taken_once(data):
    path = write(data, images_of(1))
    ahead.read_ahead(data)
    ahead._begun[path].result()
    write(data, images_of(2))
    assert torch.equal(read_idx(path, SHAPE), torch.from_numpy(images_of(1)))
    assert torch.equal(read_idx(path, SHAPE), torch.from_numpy(images_of(2)))


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content[:-9],
        lambda content: content[:40] + bytes([content[40] ^ 1]) + content[41:],
        lambda content: content + b"more",
        lambda _: b"no gzip",
        lambda _: b"",
    ],
)
def test_a_damaged_file_is_told_as_without(data, change):
    path = write(data, np.random.default_rng(0).integers(0, 256, (30, *SHAPE), np.uint8))
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(UserError) as expected:
        read_idx(path, SHAPE)
    ahead.read_ahead(data)
    assert path in ahead._begun
    with pytest.raises(UserError) as told:
        read_idx(path, SHAPE)
    assert str(told.value) == str(expected.value)


def test_one_that_unpacks_to_more_is_read_in_its_turn(data, monkeypatch):
    monkeypatch.setattr(ahead, "MOST", 20)
    path = write(data, images_of(3))
    ahead.read_ahead(data)
    assert isinstance(ahead._begun[path].exception(), ValueError)
    assert torch.equal(read_idx(path, SHAPE), torch.from_numpy(images_of(3)))


def test_others_and_files_that_are_unpacked_already_are_left(data):
    path = write(data, images_of(4))
    ahead.read_ahead(data.model_copy(update={"dataset": "digits"}))
    path.with_suffix("").touch()
    ahead.read_ahead(data)
    assert not ahead._begun
