"""Small files in the formats of the published data sets, for tests that need no download."""

import gzip
import io
import tarfile
import zipfile

import numpy as np
from scipy.io import savemat

COUNTS = {"train": 40, "test": 20}


def pixels(split, *shape):
    """Random images, the same each time."""
    generator = np.random.default_rng([*map(ord, split), *shape])
    return generator.integers(0, 256, (COUNTS[split], *shape), dtype=np.uint8)


def idx(array):
    """An IDX file."""
    array = np.asarray(array)
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, dtype=">u4").tobytes()
    return header + array.astype(np.uint8).tobytes()


def write_mnist(root, name, split, labels):
    """One split of `name`, as torchvision calls it, unpacked; its images."""
    raw = root / name / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    prefix = "train" if split == "train" else "t10k"
    images = pixels(split, 28, 28)
    (raw / f"{prefix}-images-idx3-ubyte").write_bytes(idx(images))
    (raw / f"{prefix}-labels-idx1-ubyte").write_bytes(idx(labels))
    return images


def emnist_files(part, split, labels):
    """Name -> content of the two files of one split of EMNIST, not packed."""
    prefix = f"emnist-{part}-{split}"
    return {
        f"{prefix}-images-idx3-ubyte": idx(pixels(split, 28, 28)),
        f"{prefix}-labels-idx1-ubyte": idx(labels),
    }


def write_zip(path, members):
    """A zip file of `members`, name -> content."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def write_emnist(root, members):
    """EMNIST's archive, with the files `members` packed in it."""
    packed = {f"gzip/{name}.gz": gzip.compress(content, 1) for name, content in members.items()}
    write_zip(root / "EMNIST" / "raw" / "gzip.zip", packed)


def cifar_records(images, *labels):
    """Images (N, 3, 32, 32) after their label bytes."""
    columns = [np.asarray(label, np.uint8).reshape(-1, 1) for label in labels]
    return np.concatenate([*columns, images.reshape(len(images), -1)], axis=1).tobytes()


def cifar10_files():
    """Name -> content of the files in CIFAR-10's binary version: five of 8 training images, one of
    20.
    """
    images, labels = pixels("train", 3, 32, 32), np.arange(40) % 10
    files = {}
    for number in range(5):
        part = slice(8 * number, 8 * number + 8)
        files[f"data_batch_{number + 1}.bin"] = cifar_records(images[part], labels[part])
    files["test_batch.bin"] = cifar_records(pixels("test", 3, 32, 32), np.arange(20) % 10)
    return files


def member(name, content=b"", kind=tarfile.REGTYPE, target=""):
    """A member of a tar archive and its content."""
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = len(content), kind, target
    return info, content


def write_tar(path, members):
    """A .tar.gz of `members`, as `member` makes them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz", compresslevel=1) as archive:
        for info, content in members:
            archive.addfile(info, io.BytesIO(content))


def write_cifar10(root, files=None, extra=()):
    """CIFAR-10's archive, with the members `extra` before and after its own."""
    files = cifar10_files() if files is None else files
    own = [member(f"cifar-10-batches-bin/{name}", content) for name, content in files.items()]
    write_tar(root / "cifar-10-binary.tar.gz", [*extra, *own, *extra])


def write_svhn(root, split, labels, **variables):
    """One of SVHN's MATLAB files; its images (N, 3, 32, 32)."""
    root.mkdir(parents=True, exist_ok=True)
    images = pixels(split, 3, 32, 32)
    labels = np.asarray(labels, np.uint8).reshape(-1, 1)
    contents = {"X": images.transpose(2, 3, 1, 0), "y": labels} | variables
    savemat(root / f"{split}_32x32.mat", contents, do_compression=True)
    return images
