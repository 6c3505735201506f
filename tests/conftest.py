"""What several tests share: the scripts as a user calls them, a short run, and real MNIST where it is."""

import itertools
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

import model as model_script
import test as test_script
import train as train_script
from configure import load_config
from errors import exit_code

PROJECT = Path(__file__).parent.parent
SCRIPTS = {
    "train.py": train_script.main,
    "test.py": test_script.main,
    "model.py": model_script.main,
}


class Result(NamedTuple):
    code: int
    out: str
    error: str


@pytest.fixture
def script(tmp_path, monkeypatch, capsys):
    """Call a script in an empty folder: script("train.py", "--config", ...) -> code, output, error."""
    monkeypatch.chdir(tmp_path)

    def call(name, *arguments):
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        capsys.readouterr()
        code = exit_code(SCRIPTS[name])
        return Result(code, *capsys.readouterr())

    return call


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory):
    """The folder of a run of two epochs on digits."""
    config = load_config("digits.yaml", ["train.epochs=2"])
    return train_script.train(config, tmp_path_factory.mktemp("runs") / "digits")


@pytest.fixture
def mnist_root():
    """The data root of real MNIST; without it the test is skipped."""
    root = PROJECT / "data"
    if not (root / "MNIST" / "raw" / "train-images-idx3-ubyte.gz").exists():
        pytest.skip("real MNIST is not in data/MNIST/raw (see data/README.md)")
    return root


@pytest.fixture
def digit_pictures(tmp_path):
    """Make root/<split>/<class>/<n>.png or .jpg of real digits: digit_pictures({"train": 60}) -> root."""

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
