"""What several tests share: the scripts as a user calls them, a short run, and real MNIST where it is."""

import sys
from pathlib import Path
from typing import NamedTuple

import pytest

import test as test_script
import train as train_script
from configure import load_config
from errors import exit_code

PROJECT = Path(__file__).parent.parent
SCRIPTS = {"train.py": train_script.main, "test.py": test_script.main}


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
