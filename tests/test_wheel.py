"""The wheel alone: a library and a command, in a folder where nothing of the project lies."""

import os
import subprocess
import sys
import zipfile

import pytest
from conftest import PROJECT, load_config, train

pytestmark = pytest.mark.slow
JUDGE = """
import sys, torch
from nanocnn import NETWORKS, evaluate, restore
from nanocnn.images.batches import Batches
from nanocnn.images.splits import load_split
assert sys.argv[1] in __import__("nanocnn").__file__
model, config, info, *_ = restore("run", networks=NETWORKS)
split = load_split("test", config.data, config.seed, info)
evaluation = evaluate(model, Batches(split, info, 256, torch.device("cpu")))
print(len(split.labels), evaluation.accuracy > 0.3)
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder with the wheel unpacked."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--wheel-dir", folder, PROJECT], check=True)
    (wheel,) = folder.glob("nanocnn-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def test_the_wheel_holds_the_package_the_configs_and_model_py(site):
    assert (site / "nanocnn" / "_model.py").read_text() == (PROJECT / "model.py").read_text()
    shipped = {path.name for path in (PROJECT / "configs").iterdir()}
    assert {path.name for path in (site / "nanocnn" / "configs").iterdir()} == shipped
    others = {path.name for path in site.iterdir() if not path.name.endswith(".dist-info")}
    assert others == {"nanocnn"}


def test_a_run_is_judged_and_a_learning_rate_found_from_the_wheel(site, tmp_path):
    train(load_config("digits.yaml", ["train.epochs=1"]), tmp_path / "run")
    options = {"cwd": tmp_path, "env": os.environ | {"PYTHONPATH": str(site)}}
    options |= {"capture_output": True, "text": True}
    judged = subprocess.run([sys.executable, "-c", JUDGE, str(site)], check=False, **options)
    assert judged.stdout == "359 True\n", judged.stderr
    verb = ["find-lr", "--config", "digits.yaml", "--steps", "30"]
    found = subprocess.run([sys.executable, "-m", "nanocnn", *verb], check=False, **options)
    assert found.returncode == 0 and "steepest at lr" in found.stdout, found.stderr
    assert f"networks: {site / 'nanocnn' / '_model.py'}" in found.stderr
