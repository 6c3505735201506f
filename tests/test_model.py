"""The networks: sizes by hand, and a new one with a class and a line."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from errors import UserError
from model import MODELS, build_model

PROJECT = Path(__file__).parent.parent


def test_lenet_has_the_parameters_of_its_layers():
    model = build_model("lenet", (1, 28, 28), 10)
    sizes = [
        25 * 1 * 3 * 3,  # convolution, no bias: 28 -> 26
        2 * 25,  # batch normalisation; pooling: 26 -> 13
        50 * 25 * 3 * 3,  # 13 -> 11
        2 * 50,  # pooling: 11 -> 5
        50 * 5 * 5 * 1024 + 1024,
        1024 * 128 + 128,
        128 * 10 + 10,
    ]
    assert sum(p.numel() for p in model.parameters()) == sum(sizes) == 1_425_139
    kinds = [type(layer).__name__ for layer in model.modules() if not list(layer.children())]
    block = ["Conv2d", "BatchNorm2d", "ReLU", "MaxPool2d"]
    assert kinds == [*block, *block, "Flatten", "Linear", "ReLU", "Linear", "ReLU", "Linear"]


@pytest.mark.parametrize("shape, classes", [((1, 28, 28), 10), ((3, 32, 40), 7)])
@pytest.mark.parametrize("name", MODELS)
def test_every_network_fits_its_data_and_starts_untouched(name, shape, classes):
    model = build_model(name, shape, classes)
    assert model.training
    for key, buffer in model.named_buffers():
        if key.endswith("running_mean"):
            assert buffer.abs().sum() == 0, "the trial image left its mean in the network"
    assert model(torch.rand(2, *shape)).shape == (2, classes)


def test_a_map_that_collapses_is_refused_with_its_layer():
    with pytest.raises(UserError, match=r"lenet.*1x6x6.*features\.4 = Conv2d.*25x2x2"):
        build_model("lenet", (1, 6, 6), 10)
    with pytest.raises(UserError, match=r"1x8x8.*features\.7 = MaxPool2d.*50x1x1"):
        build_model("lenet", (1, 8, 8), 10)
    build_model("lenet", (1, 10, 10), 10)


NEW_NETWORK = """
class Tiny(nn.Module):
    def __init__(self, image_shape: ImageShape, num_classes: int, width: int = 8):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.LazyLinear(width), nn.ReLU(), nn.Linear(width, num_classes))

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images)


MODELS: dict[str, Callable[..., nn.Module]] = {
    "tiny": Tiny,
"""


def test_a_new_network_is_a_class_and_a_line_in_model_py(tmp_path):
    for path in PROJECT.glob("*.py"):
        shutil.copy(path, tmp_path)
    shutil.copytree(PROJECT / "configs", tmp_path / "configs")
    source = (tmp_path / "model.py").read_text()
    head = "\nMODELS: dict[str, Callable[..., nn.Module]] = {\n"
    assert source.count(head) == 1
    (tmp_path / "model.py").write_text(source.replace(head, NEW_NETWORK))

    def run(*command):
        done = subprocess.run(
            [sys.executable, *command], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    out = run("train.py", "model={name: tiny, width: 16}", "train.epochs=1", "--run-dir", "run")
    assert f"{784 * 16 + 16 + 16 * 10 + 10:,} parameters" in out
    assert "accuracy" in run("test.py", "--ckpt", "run")
