"""Faults in the data: files that are damaged, hostile or too few (8 to 10, 14)."""

import gzip
import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from conftest import write_idx

TRAIN = ["--config", "mnist_smoke.yaml", "data.limit=null", "data.validation=0", "train.epochs=1"]
NET = "model={name: mlp, hidden: [8]}"


def refused(result, *parts):
    """One line that names all of `parts`, exit code 2, and no run folder."""
    assert result.code == 2, result
    assert result.error.count("\n") == 1 and result.error.startswith("error: ")
    for part in parts:
        assert part in result.error
    assert not Path("runs").exists()


def raw(root):
    folder = root / "MNIST" / "raw"
    return folder / "train-images-idx3-ubyte", folder / "train-labels-idx1-ubyte"


DAMAGE = {
    "wrong magic": (lambda data: b"\x00\x00\x0d\x03" + data[4:], "00 00 0d 03", "00 00 08 03"),
    "truncated": (lambda data: data[:-100], "31,376 bytes", "31,276"),
    "extra bytes": (lambda data: data + b"x", "31,376 bytes", "more"),
    "no images": (lambda data: data[:4] + bytes(4) + data[8:16], "0x28x28", "N from 1"),
    "giant header": (lambda data: data[:4] + b"\xff" * 12, "4294967295"),
    "other size": (lambda data: data[:8] + b"\x00\x00\x00\x0e" + data[12:], "14x28", "Nx28x28"),
    "empty": (lambda data: b"", "0 bytes"),
    "text": (lambda data: b"<html>404 not found</html>", "00 00 08 03"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_fault_08_a_damaged_idx_file_is_refused_with_its_sizes(small_mnist, script, kind):
    images, _ = raw(small_mnist)
    damage, *parts = DAMAGE[kind]
    images.write_bytes(damage(images.read_bytes()))
    refused(script("train.py", *TRAIN, f"data.root={small_mnist}"), str(images), *parts)


def test_fault_08_swapped_files_and_counts_that_do_not_match_are_refused(small_mnist, script):
    images, labels = raw(small_mnist)
    good = labels.read_bytes()
    labels.write_bytes(images.read_bytes())
    refused(script("train.py", *TRAIN, f"data.root={small_mnist}"), str(labels), "00 00 08 01")
    labels.write_bytes(good)
    write_idx(labels, np.arange(39) % 10)
    refused(script("train.py", *TRAIN, f"data.root={small_mnist}"), "40 images with 39 labels")


@pytest.mark.parametrize("label", [10, 255])
def test_fault_09_a_label_out_of_range_is_refused_with_its_index(small_mnist, script, label):
    write_idx(raw(small_mnist)[1], [*range(10), *[7] * 29, label])
    result = script("train.py", *TRAIN, f"data.root={small_mnist}")
    refused(result, f"image 39 has the label {label}", "10 classes")


def packed(small_mnist, content):
    """Put `content`, packed, in the place of the training images."""
    images, _ = raw(small_mnist)
    images.unlink()
    path = images.with_name(f"{images.name}.gz")
    path.write_bytes(content)
    return path


def test_fault_10_damaged_gzip_is_refused_and_whole_gzip_is_read(small_mnist, script):
    images, _ = raw(small_mnist)
    good = gzip.compress(images.read_bytes())
    path = packed(small_mnist, good)
    options = [*TRAIN, f"data.root={small_mnist}", NET, "train.batch_size=8"]
    assert script("train.py", *options, "--run-dir", "good").code == 0
    flipped = bytearray(good)
    flipped[-6] ^= 1  # in the checksum
    for content in (good[:-500], good[:-4], bytes(flipped), b"\x1f\x8b" + bytes(100), b"no gzip"):
        path.write_bytes(content)
        refused(script("train.py", *options), str(path), "damaged")


@pytest.mark.parametrize("promised", [40, 300_000_000])
def test_fault_10_a_gzip_bomb_takes_little_memory(small_mnist, script, promised):
    header = bytes([0, 0, 8, 3]) + np.array([promised, 28, 28], ">i4").tobytes()
    path = packed(small_mnist, gzip.compress(header + bytes(300_000_000), compresslevel=1))
    script("train.py", "--config", "nowhere")  # so that imports are not counted
    tracemalloc.start()
    result = script("train.py", *TRAIN, f"data.root={small_mnist}")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    refused(result, str(path))
    assert peak < 50_000_000


@pytest.mark.parametrize(
    "options",
    [
        ["data.limit=33", "train.batch_size=16", "data.validation=0"],  # one image is left over
        ["data.limit=33", "train.batch_size=31", "data.validation=1"],
        ["data.limit=10", "train.batch_size=128", "data.validation=0"],  # less than a batch
        ["data.limit=12", "train.batch_size=1", "data.validation=2"],
    ],
)
def test_fault_14_batches_of_odd_sizes_train(script, options):
    """With maps of a single pixel, where batch normalisation cannot learn from a single image."""
    net = "model={name: convnet, channels: [[4]], kernel: 3, padding: 0, pool: none, norm: batch}"
    if "train.batch_size=1" not in options:
        options = [*options, net, "data.image_size=3"]
    assert script("train.py", "train.epochs=2", *options, "--run-dir", "run").code == 0
    assert len(Path("run/metrics.jsonl").read_text().splitlines()) == 2
    assert script("test.py", "--ckpt", "run").code == 0


def test_fault_14_one_class_only_trains(small_mnist, script):
    write_idx(raw(small_mnist)[1], [3] * 40)
    options = [*TRAIN, f"data.root={small_mnist}", NET, "train.batch_size=8", "--run-dir", "run"]
    assert script("train.py", *options, "train.epochs=3").code == 0
    rows = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["train_accuracy"] == 1
