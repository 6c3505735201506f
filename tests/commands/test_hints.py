"""What people type in their first minutes, and what they are told to type instead."""

import json
import re
import shlex
from pathlib import Path

import pytest
from conftest import load_config

UNSET = "is given an empty value, as by a variable that is not set"
HINTS = {  # command line -> the end of what it says, but for "('... --help' shows the usage)"
    # options of other tools, and keys written as options
    "train.py --seed 3": "type seed=3",
    "train.py --lr 0.1": "type optimizer.lr=0.1",
    "train.py --lr=0.1": "type optimizer.lr=0.1",
    "train.py --learning-rate 0.1": "type optimizer.lr=0.1",
    "train.py --optimizer.lr 0.1": "type optimizer.lr=0.1",
    "train.py --epochs 3 --lr 1": "type train.epochs=3",
    "train.py --epoch 3": "type train.epochs=3",
    "train.py --batch-size 32": "type train.batch_size=32",
    "train.py -b 32": "type train.batch_size=32",
    "train.py --wd 1e-4": "type optimizer.weight_decay=1e-4",
    "train.py --optimizer adam": "type optimizer=adam",
    "train.py --arch convnet": "type model=convnet",
    "train.py --dataset mnist": "type data.dataset=mnist",
    "train.py --data-dir pictures": "type --config folder.yaml data.root=pictures",
    "train.py --data-dir 'my data'": "type 'data.root=my data'",
    "train.py --name 'two words'": "type name=two_words",
    "train.py --device cpu": "type device=cpu",
    "train.py --no-cuda": "type device=cpu",
    "train.py --gpu 0": "type device=cuda",
    "train.py --nesterov": "type optimizer.nesterov=true",
    "train.py --optimizer.name adam": "type optimizer=adam",
    "train.py --early-stopping-patience 3": "type train.patience=3",
    "train.py --num-workers 4": "batches are made in this process, without workers; leave it out",
    "train.py --dry_run": "type --dry-run",
    "train.py --output-dir x": "type --run-dir x",
    "train.py --ckpt run": "type --resume run",
    "train.py --cfg mnist.yaml": "type --config mnist.yaml",
    "train.py --print-confg": "type --print-config",
    "train.py --config": "expected one argument; type --config digits.yaml",
    "train.py --resume": "expected one argument; type --resume auto",
    "train.py --config=": UNSET,
    "train.py --resume ''": UNSET,
    "nanocnn find-lr --lr 3": "type optimizer.lr=3",
    "nanocnn find-lr --seed 3": "type seed=3",
    "nanocnn layers --width 2": "type model=vgg11 model.width=2",
    "nanocnn layers --ckpt run": "type --config run/config.yaml",
    "nanocnn train": "type python train.py",
    "model.py --ckpt run": "type --config run/config.yaml",
    # keys that are not written in full, or as others call them
    "train.py lr=0.1": "did you mean 'optimizer.lr'?",
    "train.py epochs=3": "did you mean 'train.epochs'?",
    "train.py epoch=3": "did you mean 'train.epochs'?",
    "train.py betas=[0.9,0.99]": "did you mean 'optimizer.betas' with optimizer=adam?",
    "train.py optimizer.learning_rate=0.1": "did you mean 'optimizer.lr'?",
    "train.py model.dropuot=0.1 model=convnet": "did you mean 'model.dropout'?",
    "train.py dropout=0.1": "did you mean 'model.dropout' with model=convnet?",
    "train.py batch=3": "did you mean 'train.batch_size'?",
    "train.py gamma=0.5": (
        "did you mean 'loss.gamma' with loss=focal or 'schedule.gamma' with schedule=step?"
    ),
    "train.py schedule=step gamma=0.5": "did you mean 'schedule.gamma'?",
    "train.py augment.flip=true": "did you mean 'data.augment.flip'?",
    "train.py optim.lr=0.1": "did you mean 'optimizer.lr'?",
    "train.py device=gpu": "did you mean 'cuda'?",
    "train.py num_workers=4": "batches are made in this process, without workers; leave it out",
    "train.py data=mnist": "should be a section, such as data.dataset=mnist",
    "train.py optimizer.name=adam": "optimizer=adam begins this section anew",
    "model.py lr=1": "did you mean 'optimizer.lr'?",
    # not written key=value
    "train.py lr 0.1": "type optimizer.lr=0.1",
    "train.py optimizer.lr = 0.1": "type optimizer.lr=0.1",
    "train.py lr= 0.1": "type optimizer.lr=0.1",
    "train.py train.epochs:3": "type train.epochs=3",
    "train.py optimizer={name: adam, lr: 1}": '"optimizer={name: adam, lr: 1}", with the quotes',
    "train.py dry-run": "type --dry-run",
    "train.py anything": "type one, such as train.epochs=3",
    # configs, runs and images in the wrong place
    "train.py mnist_smoke.yaml": "type --config mnist_smoke.yaml",
    "train.py mnist": "type --config mnist",
    "train.py pictures": "type --config folder.yaml data.root=pictures",
    "train.py run": "type --resume run to go on with it, or --config run/config.yaml to repeat it",
    "train.py run/last.pt": "or --config run/config.yaml to repeat it",
    "train.py --config run": "python train.py --resume run goes on with it",
    "train.py --config run/best.pt": "python train.py --resume run goes on with it",
    "train.py --config mnst": "did you mean 'mnist'?",
    "train.py --resume run/last.pt": "a run goes on from its newest checkpoint; type --resume run",
    "train.py --resume run/config.yaml": "type --resume run",
    "train.py --resume five": "five/seed_3/config.yaml --seeds 2 --run-dir five --resume auto",
    "nanocnn find-lr mnist.yaml": "type --config mnist.yaml",
    "model.py mnist": "type --config mnist",
    # test.py
    "test.py run": "type --ckpt run",
    "test.py run/best.pt": "type --ckpt run/best.pt",
    "test.py --resume run": "type --ckpt run",
    "test.py --checkpoint run/best.pt": "type --ckpt run/best.pt",
    "test.py --config run/config.yaml": "type --ckpt run",
    "test.py --ckpt run/config.yaml": "no checkpoint; type --ckpt run",
    "test.py --lr 1": "the config is that of the checkpoint",
    "test.py train.epochs=3": "the config is that of the checkpoint",
    "test.py device=cpu": "type --device cpu",
    "test.py data.root=x": "type --data-root x",
    "test.py --batch_size 3": "type --batch-size 3",
    "test.py val": "type --split val",
    "test.py --data-root=": UNSET,
}  # fmt: skip


def imitate_run(folder):
    folder.mkdir(parents=True)
    for name in ("config.yaml", "run.json", "best.pt", "last.pt"):
        (folder / name).write_text("{}")


@pytest.mark.parametrize("command", HINTS)
def test_a_slip_is_told_what_to_type(script, command):
    imitate_run(Path("run"))
    for seed in (3, 4):
        imitate_run(Path(f"five/seed_{seed}"))
    Path("pictures/train").mkdir(parents=True)
    before = sorted(Path().rglob("*"))
    name, *arguments = (
        command.split() if "{" in command else shlex.split(command)
    )  # braces without quotes reach the script in pieces
    done = script(name, *arguments)
    assert done.code == 2 and done.error.startswith("error: ") and done.error.count("\n") == 1
    said = re.sub(r" \((known: |'\w+ ).*?\)", "", done.error).strip()
    assert said.endswith(HINTS[command]), done.error
    assert sorted(Path().rglob("*")) == before and done.out == ""


def test_a_shipped_config_is_known_by_its_name(script):
    named, in_full = (
        script("train.py", "--config", n, "--print-config") for n in ("mlp", "mlp.yaml")
    )
    assert named.code == 0 and named.out == in_full.out
    Path("mlp.yaml").write_text("name: mine")
    assert script("train.py", "--config", "mlp", "--print-config").out.startswith("name: mine")


@pytest.mark.parametrize("name", ["model=convnet", "model={name: convnet}"])
def test_a_section_and_keys_in_it_come_in_any_order(name):
    for overrides in ([name, "model.activation=tanh"], ["model.activation=tanh", name]):
        model = load_config("vgg11.yaml", overrides).model
        assert (model.name, model.activation, model.channels) == (
            "convnet",
            "tanh",
            load_config("digits.yaml", ["model={name: convnet}"]).model.channels,
        )


def test_a_name_stands_for_each_section_that_has_one():
    config = load_config(
        "digits.yaml",
        ["optimizer=adam", "schedule=cosine", "loss=mse", "model=vgg11", "model.init=xavier"],
    )
    names = (config.optimizer.name, config.schedule.name, config.loss.name, config.model.init.name)
    assert names == ("adam", "cosine", "mse", "xavier")
    assert config.optimizer.lr == 1e-3, "of the section before, nothing is left"


def test_a_section_that_would_undo_a_key_is_refused(script):
    done = script("train.py", "optimizer.lr=0.5", "optimizer={name: adam, lr: 1e-3}")
    assert done.code == 2 and "says it too; one of them should go" in done.error
    done = script(
        "train.py", "optimizer={name: adam, lr: 1e-3}", "optimizer.lr=0.5", "--print-config"
    )
    assert "lr: 0.5" in done.out


NET = ["model={name: mlp, hidden: [4]}", "train.epochs=1", "train.batch_size=32"]


def test_a_device_that_is_not_here_is_told_which_to_type(script, monkeypatch):
    assert script("train.py", *NET, "data.limit=60", "--run-dir", "run").code == 0
    done = script("test.py", "--ckpt", "run", "--device", "mps")
    assert done.code == 2 and "device = mps: not available here" in done.error
    assert done.error.strip().endswith("type --device cpu")
    assert script("train.py", "device=mps").error.strip().endswith("type device=cpu")


def test_images_that_have_moved_are_told_what_to_type(script, digit_pictures):
    root = digit_pictures({"train": 60, "test": 20})
    own = ["data.dataset=folder", "data.root=pictures", *NET]
    assert (
        script("train.py", *own, "train.epochs=2", "train.patience=1", "--run-dir", "run").code == 0
    )
    root.rename("moved")
    done = script("test.py", "--ckpt", "run")
    assert done.code == 2 and done.error.strip().endswith(
        "if the images have moved, type --data-root DIR"
    )
    assert script("test.py", "--ckpt", "run", "--data-root", "moved").code == 0
    done = script("train.py", "--resume", "run", "train.epochs=3")
    assert done.code == 2 and done.error.strip().endswith(
        "if the images have moved, type data.root=DIR"
    )
    done = script(
        "train.py", "--resume", "run", "train.epochs=3", "train.patience=2", "data.root=moved"
    )
    assert done.code == 0, done.error


def test_a_relative_root_says_from_where_it_counts(script, digit_pictures, monkeypatch):
    root = digit_pictures({"train": 60, "test": 20})
    own = ["data.dataset=folder", "data.root=pictures", *NET]
    trained = script("train.py", *own, "--run-dir", "run")
    assert f"reading {root}; writing to run" in trained.out
    assert json.loads(Path("run/run.json").read_text())["data_root"] == str(root)
    assert not script("test.py", "--ckpt", "run").error
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    done = script("train.py", "--config", "../run/config.yaml")
    assert (
        done.code == 2
        and f"no such folder in {Path.cwd()}, where a relative data.root begins" in done.error
    )
    Path("pictures").symlink_to(root)
    said = f"images are read from {Path.cwd()}/pictures, in ../run they were in {root}"
    assert said in script("test.py", "--ckpt", "../run").error
    assert said in script("train.py", "--config", "../run/config.yaml", "--run-dir", "again").error
    explicit = ["--config", "../run/config.yaml", f"data.root={root}", "--run-dir", "third"]
    assert "warning: images" not in script("train.py", *explicit).error
