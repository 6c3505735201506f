"""What several tests share: the scripts as a user calls them, short runs, and MNIST real or
imitated.
"""

import itertools
import json
import os
import signal
from functools import partial
from pathlib import Path
from typing import NamedTuple

if "PYTEST_XDIST_WORKER" in os.environ:  # each of several processes has a processor of its own
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.summary.writer import event_file_writer

import model as model_script
import test as test_script
import train as train_script
from model import MODELS
from nanocnn.commands import main as nanocnn_script
from nanocnn.config import load
from nanocnn.config.schema import Config
from nanocnn.images.splits import DataInfo, load_split
from nanocnn.networks import build
from nanocnn.run import restore as restoring
from nanocnn.run import resume
from nanocnn.run.checkpoint import load_checkpoint
from nanocnn.run.pictures import Pictures
from nanocnn.run.resume import Place
from nanocnn.system.errors import exit_code
from nanocnn.system.signals import NAMES
from nanocnn.training.device import Computing
from nanocnn.training.learner import Learner

PROJECT = Path(__file__).parent.parent
NETWORKS = build.catalogue(MODELS)
CPU = torch.device("cpu")
# TensorBoard reads event files in the order of their names: in seconds, and then in this count of a
# process's
# files. Runs in one process, in one second, are an affair of tests: let its text sort as its
# numbers do.
event_file_writer._global_uid = event_file_writer.AtomicCounter(10_000)
# tests compare figures of float32, also on a processor where precision=auto takes bf16
torch.cpu._is_amx_tile_supported = torch.cpu._is_avx512_bf16_supported = lambda: False
# most tests are of other things, and to draw takes a second
DRAW = Pictures.draw
Pictures.draw = lambda *_: None
SCRIPTS = {
    "train.py": train_script.main,
    "test.py": test_script.main,
    "model.py": model_script.main,
    "nanocnn": nanocnn_script.run,
}

load_config = partial(load.load_config, networks=NETWORKS)
build_model = partial(build.build_model, NETWORKS)
restore = partial(restoring.restore, networks=NETWORKS)


def errors_of(found, exact):
    """Of each tensor against that in float64, relative to its size."""
    return torch.tensor(
        [
            float((one.detach().double() - two.detach()).norm() / two.norm().clamp(min=1e-12))
            for one, two in zip(found, exact, strict=True)
        ]
    )


def small(name):
    """Arguments with which the network `name` is one for a test: as deep, but narrow."""
    width = {"width": 0.25} if name[:3] in ("ale", "zfn", "vgg", "goo", "res") else {}
    return width | ({"hidden": (64, 64)} if name[:3] in ("ale", "zfn", "vgg") else {})


def train(config, run_dir):
    """A new run in `run_dir`."""
    return train_script.train(config, Place(run_dir))


def go_on(config, run_dir):
    """The run that stopped in `run_dir`."""
    return train_script.train(config, resume.resume_run(run_dir, config, NETWORKS))


def made_up_info(classes="ab", shape=(1, 6, 6), mean=0.5, std=0.5, counts=()):
    """What a network is told of made-up data: `classes` has a letter for each."""
    return DataInfo("made up", list(classes), [mean], [std], shape, counts)


def made_up_learner(model, info=None, precision=torch.float32, **sections):
    """A Learner of `model` on the CPU, for made-up images; `sections` are those of its config."""
    computing = Computing(CPU, precision, torch.contiguous_format)
    return Learner(model, Config().model_copy(update=sections), info or made_up_info(), computing)


def heed_signals():
    """For a child process: a shell lets what it starts in the background ignore SIGINT, nohup
    SIGHUP.
    """
    for name in NAMES:
        signal.signal(getattr(signal, name), signal.SIG_DFL)


class Result(NamedTuple):
    code: int
    out: str
    error: str


@pytest.fixture
def script(tmp_path, monkeypatch, capsys):
    """Call a script in an empty folder: script("train.py", "--config", ...) -> code, output,
    error.
    """
    monkeypatch.chdir(tmp_path)

    def call(name, *arguments):
        capsys.readouterr()
        code = exit_code(partial(SCRIPTS[name], list(map(str, arguments))))
        return Result(code, *capsys.readouterr())

    return call


@pytest.fixture
def drawn(monkeypatch):
    """Runs draw the pictures of TensorBoard."""
    monkeypatch.setattr(Pictures, "draw", DRAW)


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory):
    """The folder of a run of two epochs on digits."""
    config = load_config("digits.yaml", ["train.epochs=2"])
    return train(config, tmp_path_factory.mktemp("runs") / "digits")


@pytest.fixture(scope="session")
def judging_run(tmp_path_factory):
    """The folder of a run on digits with enough validation images to tell pictures unlike them."""
    config = load_config("digits.yaml", ["train.epochs=2", "data.validation=300"])
    return train(config, tmp_path_factory.mktemp("runs") / "judging")


@pytest.fixture(scope="session")
def test_digits(judging_run):
    """The images (N, 28, 28) uint8 and the labels of the test split, as arrays."""
    _, config, info, *_ = restore(judging_run)
    split = load_split("test", config.data, config.seed, info)
    return split.images[:, 0].numpy(), split.labels.numpy()


@pytest.fixture
def mnist_root():
    """The data root of real MNIST; without it the test is skipped."""
    root = PROJECT / "data"
    if not (root / "MNIST" / "raw" / "train-images-idx3-ubyte.gz").exists():
        pytest.skip("real MNIST is not in data/MNIST/raw (see data/README.md)")
    return root


def write_idx(path, array, dtype_code=8):
    array = np.ascontiguousarray(array, dtype=np.uint8)
    header = bytes([0, 0, dtype_code, array.ndim]) + np.array(array.shape, dtype=">i4").tobytes()
    path.write_bytes(header + array.tobytes())


@pytest.fixture
def small_mnist(tmp_path):
    """A data root with 40 training images in MNIST's own format, unpacked, and no test files."""
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    generator = np.random.default_rng(0)
    write_idx(raw / "train-images-idx3-ubyte", generator.integers(0, 256, (40, 28, 28)))
    write_idx(raw / "train-labels-idx1-ubyte", np.arange(40) % 10)
    return tmp_path


# A short run in which everything random takes part: six steps an epoch, the last of another size.
SHORT = [
    "data.limit=200",
    "data.augment.shift=1",
    "train.epochs=3",
    "train.batch_size=32",
    "log.every=4",
    "model={name: convnet, channels: [[4], [8]], norm: batch, hidden: [16], dropout: 0.3}",
]
STEPS_PER_EPOCH = 6


def differing(value, other, key=""):
    """The keys under which two nested values, as in checkpoints, are not the same bit for bit."""
    if isinstance(value, dict) and isinstance(other, dict) and value.keys() == other.keys():
        return [found for k in value for found in differing(value[k], other[k], f"{key}.{k}")]
    if isinstance(value, list | tuple) and isinstance(other, list | tuple):
        if len(value) == len(other):
            pairs = enumerate(zip(value, other, strict=True))
            return [found for i, pair in pairs for found in differing(*pair, f"{key}.{i}")]
    elif isinstance(value, torch.Tensor) and isinstance(other, torch.Tensor):
        same = value.dtype == other.dtype and torch.equal(value, other)
        return [] if same else [key]
    elif type(value) is type(other) and value == other:
        return []
    return [key]


def differences_of_runs(run, other):
    """What two runs do not have in common, times aside: both checkpoints, the metrics, the
    curves.
    """
    found = []
    for name in ("last.pt", "best.pt"):
        checkpoints = [load_checkpoint(folder / name) for folder in (run, other)]
        found += differing(*checkpoints, name)
    rows, points = [], []
    for folder in (run, other):
        lines = (folder / "metrics.jsonl").read_text().splitlines()
        times = {"images_per_second": 0, "seconds": 0}
        rows.append([json.loads(line) | times for line in lines])
        events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
        events.Reload()
        curves = {tag: events.Scalars(tag) for tag in events.Tags()["scalars"]}
        points.append(
            {
                tag: [(p.step, 0 if tag == "images_per_second" else p.value) for p in curve]
                for tag, curve in curves.items()
            }
        )
    return found + differing(*rows, "metrics") + differing(*points, "curves")


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory):
    """The folder of the short run that nothing disturbed."""
    return train(load_config("digits.yaml", SHORT), tmp_path_factory.mktemp("undisturbed") / "run")


def after(monkeypatch, owner, name, calls, act):
    """Let `act()` happen right before the call number `calls` of owner.name."""
    function, made = getattr(owner, name), []

    def counted(*arguments, **options):
        made.append(None)
        if len(made) == calls:
            act()
        return function(*arguments, **options)

    monkeypatch.setattr(owner, name, counted)


@pytest.fixture
def digit_pictures(tmp_path):
    """Make root/<split>/<class>/<n>.png or .jpg of real digits: digit_pictures({"train": 60}) ->
    root.
    """

    def make(counts, classes=3, size=28):
        digits, numbers = load_digits(n_class=classes), itertools.count()
        for split, count in counts.items():
            for number in itertools.islice(numbers, count):
                pixels = (digits.images[number] * (255 / 16)).astype(np.uint8)
                folder = tmp_path / "pictures" / split / f"digit {digits.target[number]}"
                folder.mkdir(parents=True, exist_ok=True)
                picture = Image.fromarray(pixels).resize((size, size))
                picture.save(folder / f"{number}.{'jpg' if number % 2 else 'png'}")
        return tmp_path / "pictures"

    return make
