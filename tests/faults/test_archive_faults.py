"""Archives and data files that are hostile, damaged or wrong: one line and exit code 2, and no file
anywhere.
"""

import gzip
import io
import tarfile
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from imitation import (
    cifar10_files,
    emnist_files,
    idx,
    member,
    write_cifar10,
    write_emnist,
    write_svhn,
    write_tar,
    write_zip,
)
from scipy.io import savemat

from nanocnn.config.schema import Data
from nanocnn.images import published
from nanocnn.images.splits import load_splits
from nanocnn.system.errors import UserError

pytestmark = pytest.mark.slow

OPTIONS = ["data.validation=10", "train.epochs=1", "model={name: mlp, hidden: [8]}"]
ROOT = Path("data")  # of the folder that `train` is in
FILES = {
    "cifar10": ROOT / "cifar-10-binary.tar.gz",
    "emnist_letters": ROOT / "EMNIST" / "raw" / "gzip.zip",
    "svhn": ROOT / "train_32x32.mat",
}
TAR, ZIP, MAT = FILES.values()
LETTERS = np.arange(40) % 26 + 1


@pytest.fixture
def train(script, tmp_path):
    """Train on a data set in data/, which must not change, nor anything else here but the run
    folder.
    """

    def here():
        paths = (
            path for path in tmp_path.rglob("*") if path.relative_to(tmp_path).parts[0] != "run"
        )
        return {path: (path.stat().st_size, path.stat().st_mtime_ns) for path in paths}

    def call(name):
        before = here()
        result = script("train.py", "--config", f"{name}.yaml", "--run-dir", "run", *OPTIONS)
        assert here() == before
        return result

    return call


def refused(result, *parts):
    """The one line of a run that ended with exit code 2 and wrote nothing."""
    assert result.code == 2
    assert result.error.startswith("error: ") and result.error.count("\n") == 1, result.error
    for part in parts:
        assert str(part) in result.error
    return True


HOSTILE = {
    "a name that climbs": lambda outside: member("../climbed", b"x"),
    "a name that climbs later": lambda outside: member("cifar-10-batches-bin/../../climbed", b"x"),
    "an absolute name": lambda outside: member(str(outside / "absolute"), b"x"),
    "a symbolic link": lambda outside: member("link", b"", tarfile.SYMTYPE, str(outside)),
    "a hard link": lambda outside: member("link", b"", tarfile.LNKTYPE, "/etc/passwd"),
    "a device": lambda outside: member("device", b"", tarfile.CHRTYPE),
    "a pipe": lambda outside: member("pipe", b"", tarfile.FIFOTYPE),
    "another case": lambda outside: member("CIFAR-10-batches-bin/DATA_BATCH_1.BIN", bytes(3073)),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_members_of_a_tar_file_are_passed_over(train, tmp_path, kind):
    outside = tmp_path / "outside"
    outside.mkdir()
    write_cifar10(ROOT, extra=[HOSTILE[kind](outside)])
    result = train("cifar10")
    assert result.code == 0, result.error
    assert "30 train and 10 val images" in result.out
    assert not list(outside.iterdir())


@pytest.mark.parametrize(
    "name", ["../climbed", "gzip/../../climbed", "{outside}/absolute", "C:\\climbed", "GZIP/A.GZ"]
)
def test_hostile_members_of_a_zip_file_are_passed_over(train, tmp_path, name):
    outside = tmp_path / "outside"
    outside.mkdir()
    files = emnist_files("letters", "train", LETTERS)
    packed = {f"gzip/{file}.gz": gzip.compress(content) for file, content in files.items()}
    archive = ZIP
    write_zip(archive, {name.format(outside=outside): b"x"} | packed)
    result = train("emnist_letters")
    assert result.code == 0, result.error
    assert not list(outside.iterdir())


KINDS = {
    "symbolic link": (tarfile.SYMTYPE, "data_batch_2.bin"),
    "symbolic link outside": (tarfile.SYMTYPE, "/etc/passwd"),
    "hard link": (tarfile.LNKTYPE, "cifar-10-batches-bin/data_batch_2.bin"),
    "device": (tarfile.CHRTYPE, ""),
    "pipe": (tarfile.FIFOTYPE, ""),
    "folder": (tarfile.DIRTYPE, ""),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_wanted_member_that_is_no_file_is_refused(train, kind):
    files = cifar10_files()
    del files["data_batch_1.bin"]
    name = "cifar-10-batches-bin/data_batch_1.bin"
    write_cifar10(ROOT, files, extra=[member(name, b"", *KINDS[kind])])
    assert refused(train("cifar10"), TAR, name, "regular file")


def test_a_link_in_the_place_of_a_zipped_file_is_not_followed(train, tmp_path):
    files = emnist_files("letters", "train", LETTERS)
    write_emnist(ROOT, files)
    secret = tmp_path / "secret.gz"
    secret.write_bytes(gzip.compress(files["emnist-letters-train-images-idx3-ubyte"]))
    link = zipfile.ZipInfo("gzip/emnist-letters-train-images-idx3-ubyte.gz")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(ZIP, "w") as archive:
        archive.writestr(link, str(secret))
    assert refused(train("emnist_letters"), "gzip.zip", link.filename, "damaged")


def write(name, root):
    """A whole data set for training in `root`; its archive."""
    if name == "cifar10":
        write_cifar10(root)
    elif name == "emnist_letters":
        write_emnist(root, emnist_files("letters", "train", LETTERS))
    else:
        write_svhn(root, "train", np.arange(40) % 10 + 1)
    return root / FILES[name].relative_to(ROOT)


@pytest.mark.parametrize("left", [0.0, 0.3, 0.9, 0.999])
@pytest.mark.parametrize("name", ["cifar10", "emnist_letters", "svhn"])
def test_a_truncated_file_is_refused(train, name, left):
    path = write(name, ROOT)
    content = path.read_bytes()
    path.write_bytes(content[: int(left * len(content))])
    assert refused(train(name), path)


@pytest.mark.parametrize("name", ["cifar10", "emnist_letters", "svhn"])
def test_a_changed_byte_is_noticed(train, name):
    path = write(name, ROOT)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert refused(train(name), path, "damaged")


@pytest.mark.parametrize("folder", [False, True])
@pytest.mark.parametrize("change", ["short", "long", "empty", "missing"])
def test_a_cifar_file_of_the_wrong_size_is_refused(train, change, folder):
    files = cifar10_files()
    whole = files.pop("data_batch_3.bin")
    if change != "missing":
        files["data_batch_3.bin"] = {"short": whole[:-1], "long": whole + b"x", "empty": b""}[
            change
        ]
    if folder:
        unpacked = ROOT / "cifar-10-batches-bin"
        unpacked.mkdir(parents=True)
        for name, content in files.items():
            (unpacked / name).write_bytes(content)
    else:
        write_cifar10(ROOT, files)
    message = "3,073 bytes each" if change != "missing" else ""
    assert refused(train("cifar10"), "cifar-10-batches-bin/data_batch_3.bin", message)


def mat(**variables):
    file = io.BytesIO()
    savemat(file, variables)
    return file.getvalue()


X = np.zeros((32, 32, 3, 4), np.uint8)
Y = np.ones((4, 1), np.uint8)


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "no MATLAB 5 file"),
        (b"\x89HDF\r\n\x1a\n".ljust(512, b"\0"), "no MATLAB 5 file"),
        (mat(X=X), "no array y"),
        (mat(X=X.astype(float), y=Y), "no array X of unsigned bytes"),
        (mat(X={"a": 1}, y=Y), "no array X of unsigned bytes"),
        (mat(X=X, y=Y[:3]), "X is 32x32x3x4 for 3 labels"),
        (mat(X=X.transpose(3, 0, 1, 2), y=Y), "X is 4x32x32x3"),
        (mat(X=X, y=Y)[:128] + b"\x0e\0\0\0", "damaged"),
    ],
)
def test_a_matlab_file_of_something_else_is_refused(train, content, message):
    ROOT.mkdir()
    MAT.write_bytes(content)
    assert refused(train("svhn"), "train_32x32.mat", message)


@pytest.mark.parametrize("name", ["cifar10", "emnist_letters", "svhn"])
def test_text_in_the_place_of_an_archive_is_refused(train, name):
    FILES[name].parent.mkdir(parents=True)
    FILES[name].write_bytes(b"<html>404 not found</html>" * 20)
    assert refused(train(name), FILES[name])


def peak_memory(call, *arguments):
    """The most bytes that Python had during the call, beyond those before, and what it returned."""
    tracemalloc.start()
    try:
        result = call(*arguments)
        return tracemalloc.get_traced_memory()[1], result
    finally:
        tracemalloc.stop()


BOMB = bytes(64 << 20)


def bomb(kind):
    """A small file that unpacks to 64 MB."""
    images = "emnist-letters-train-images-idx3-ubyte"
    forty_and_more = idx(np.zeros((40, 28, 28))) + BOMB
    ZIP.parent.mkdir(parents=True)
    if kind == "idx.gz":
        (ZIP.parent / f"{images}.gz").write_bytes(gzip.compress(forty_and_more, 1))
    if kind == "idx.gz in a zip":
        write_emnist(ROOT, {images: forty_and_more})
    if kind == "zip":  # the archive itself unpacks to that much
        write_zip(ZIP, {f"gzip/{images}.gz": BOMB})
    if kind == "zip of another method":  # its reader unpacks as much as there is at once
        with zipfile.ZipFile(ZIP, "w", zipfile.ZIP_BZIP2) as archive:
            archive.writestr(f"gzip/{images}.gz", BOMB)
    if kind == "tar.gz":
        write_cifar10(ROOT, extra=[member("large", BOMB)])
    if kind == "tar.gz, its member":
        write_cifar10(ROOT, cifar10_files() | {"data_batch_1.bin": BOMB})
    if kind == "tar.gz, its header":
        write_tar(TAR, [member("././@LongLink", BOMB, tarfile.GNUTYPE_LONGNAME)])
    if kind == "folder":
        path = ROOT / "cifar-10-batches-bin" / "data_batch_1.bin"
        path.parent.mkdir()
        with path.open("wb") as file:
            file.truncate(len(BOMB))
    if kind == "mat":
        packed = zlib.compress(np.array([14, len(BOMB)], "<u4").tobytes() + BOMB, 1)
        MAT.write_bytes(mat()[:128] + np.array([15, len(packed)], "<u4").tobytes() + packed)


@pytest.mark.parametrize(
    "name, kind",
    [
        ("emnist_letters", "idx.gz"),
        ("emnist_letters", "idx.gz in a zip"),
        ("emnist_letters", "zip"),
        ("emnist_letters", "zip of another method"),
        ("cifar10", "tar.gz"),
        ("cifar10", "tar.gz, its member"),
        ("cifar10", "tar.gz, its header"),
        ("cifar10", "folder"),
        ("svhn", "mat"),
    ],
)
def test_what_unpacks_to_much_more_is_refused_in_bounded_memory(train, name, kind, monkeypatch):
    monkeypatch.setattr(published, "MOST_UNPACKED", 4 << 20)
    bomb(kind)
    peak, result = peak_memory(train, name)
    assert refused(result, ROOT)
    assert peak < 24 << 20, f"{peak / 2**20:.0f} MB"


def test_a_tar_file_that_ends_early_is_refused(train):
    """Between two images, in an archive that is compressed without a fault."""
    write_cifar10(ROOT)
    content = gzip.decompress(TAR.read_bytes())
    start = content.index(b"cifar-10-batches-bin/data_batch_5.bin") + 512
    TAR.write_bytes(gzip.compress(content[: start + 2 * 3073], 1))
    assert refused(train("cifar10"), TAR, "damaged")


@pytest.mark.parametrize("size", [-(1 << 40), -512, -1, 1 << 50])
def test_a_tar_member_of_an_impossible_size_ends_in_one_line(train, size):
    """After one of -512 bytes comes, by the rules, that one again."""
    info, _ = member("cifar-10-batches-bin/data_batch_1.bin")
    header = info.tobuf(tarfile.GNU_FORMAT)
    info.size = size
    header += info.tobuf(tarfile.GNU_FORMAT)
    ROOT.mkdir()
    TAR.write_bytes(gzip.compress(header + bytes(10240)))
    assert refused(train("cifar10"), TAR)


def test_a_sparse_tar_member_is_refused(train):
    """It may say that it is of any size, all zeros but for the few bytes that are there."""
    info, _ = member("cifar-10-batches-bin/data_batch_1.bin", b"", tarfile.GNUTYPE_SPARSE)
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[483:495] = b"%011o\0" % (3073 << 30)  # its size
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    ROOT.mkdir()
    TAR.write_bytes(gzip.compress(bytes(header) + bytes(10240)))
    assert refused(train("cifar10"), TAR, "regular file")


@pytest.mark.parametrize("name", ["cifar10", "emnist_letters", "svhn"])
def test_whatever_bytes_are_damaged_the_end_is_one_line(tmp_path, name):
    """Without the checksums of compression, which would notice at once."""
    path = write(name, tmp_path)
    content = path.read_bytes()
    places = [*range(100), *range(len(content) - 300, len(content))]
    if name == "cifar10":
        content = gzip.decompress(content)
        places = [start + i for start in (0, 25088) for i in range(512)]  # two headers
    if name == "svhn":
        images, labels = np.zeros((32, 32, 3, 40), np.uint8), np.ones((40, 1), np.uint8)
        content = mat(X=images, y=labels)
        places = [*range(124, 200), *range(len(content) - 104, len(content))]
    generator = np.random.default_rng(0)
    refusals = 0
    for _ in range(150):
        damaged = bytearray(content)
        for place in generator.choice(places, 2):
            damaged[place] = generator.integers(256)
        path.write_bytes(gzip.compress(damaged, 0) if name == "cifar10" else damaged)
        try:
            load_splits(Data(dataset=name, root=str(tmp_path)), seed=0)
        except UserError as error:
            refusals += 1
            assert str(tmp_path) in str(error)
    assert refusals > 50
