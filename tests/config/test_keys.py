"""Each key of the config acts or is refused, and editors know them all."""

import json
from pathlib import Path

import jsonschema
import pytest
import yaml
from conftest import NETWORKS, load_config

from nanocnn.config.load import CONFIGS, json_schema
from nanocnn.config.schema import Section, dotted_items
from nanocnn.config.strict_yaml import parse_yaml
from nanocnn.system.errors import UserError

NET = "model={name: convnet, channels: [[4], [8]], norm: batch, hidden: [8], dropout: 0.1}"
QUICK = ["data.limit=120", "train.epochs=2", "train.batch_size=32", NET]


def test_the_schema_in_configs_is_current():
    """`python -m nanocnn.commands.schema` writes it anew."""
    assert json.loads((CONFIGS / "schema.json").read_text()) == json_schema(NETWORKS)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_schema_takes_the_shipped_configs_which_point_to_it(path):
    text = path.read_text()
    assert "# yaml-language-server: $schema=schema.json\n" in text
    values, _ = parse_yaml(text, str(path))
    jsonschema.validate(values, json_schema(NETWORKS))


@pytest.mark.parametrize(
    "text",
    [
        "optimzer: {lr: 1}",
        "optimizer: {name: sgdd}",
        "train: {epochs: many}",
        "seed: -1",
        "model: {name: lenett}",
        "data: {augment: {shift: 1.5}}",
        "schedule: {name: cosine, milestones: [1]}",
        "train: {checkpoint_every: 5 s}",
    ],
)
def test_the_schema_refuses_what_the_project_refuses(text):
    values = yaml.safe_load(text)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(values, json_schema(NETWORKS))
    with pytest.raises(UserError):
        load_config("digits.yaml", [f"{key}={json.dumps(value)}" for key, value in values.items()])


@pytest.mark.parametrize(
    "options",
    [
        [],
        [
            "optimizer={name: rmsprop, momentum: 0.5}",
            "schedule={name: step, step_size: 1}",
            "loss={name: mse}",
        ],
        [
            "optimizer={name: adadelta}",
            "schedule={name: cosine, min_lr: 1e-4}",
            "loss={name: focal}",
        ],
        ["optimizer={name: adagrad}", "schedule={name: exponential}", "data.augment.elastic=1"],
        ["optimizer={name: adamw}", "schedule={name: multistep, milestones: [1]}", "train.ema=0.9"],
        [
            "optimizer={name: adam}",
            "schedule={name: plateau, patience: 0}",
            "train.epochs=3",
            "loss={name: focal, class_weights: balanced}",
        ],
    ],
)
def test_no_key_is_without_a_reader(script, monkeypatch, options):
    """Whoever adds a key and forgets to use it finds this test red."""
    read, get = set(), Section.__getattribute__

    def noted(self, key):
        if key in type(self).model_fields:
            read.add((type(self).__name__, key))
        elif (
            key == "model_dump"
        ):  # all of a section at once, as arguments; of the whole config, for its record
            read.update((type(self).__name__, each) for each in type(self).model_fields)
        return get(self, key)

    config = load_config("digits.yaml", [*QUICK, *options])
    monkeypatch.setattr(Section, "__getattribute__", noted)
    assert script("train.py", *QUICK, *options, "--run-dir", "run").code == 0
    monkeypatch.undo()
    whole = {("Config", key) for key in type(config).model_fields}
    keys = {(type(config).__name__, key) for key, _ in config}
    for _, value in dotted_items(config):
        if isinstance(value, Section):
            keys |= {(type(value).__name__, key) for key, _ in value}
    own = ("channels", "resize", "memory_limit", "skip_unreadable")
    own_images_only = {("Data", key) for key in own}
    variants = {key for key in keys if key[1] == "name"}  # by the type itself
    assert keys - read - whole - own_images_only - variants == set()


@pytest.mark.parametrize(
    "options, part",
    [
        (["schedule={name: multistep, milestones: [5, 30]}", "train.epochs=20"], "milestones"),
        (["schedule={name: step, step_size: 9}", "train.epochs=5"], "schedule.step_size = 9"),
        (["schedule={name: plateau}", "data.validation=0"], "data.validation = 0"),
        (["schedule={name: constant, gamma: 0.1}"], "schedule.gamma"),
        (["train.patience=20", "train.epochs=20"], "train.patience"),
        (["train.patience=2", "data.validation=0"], "train.patience"),
        (["train.overfit_batches=45", "train.batch_size=32"], "train.overfit_batches = 45"),
        (["train.accumulate=2", "train.overfit_batches=1"], "train.accumulate = 2"),
        (["train.accumulate=4", "train.batch_size=2000"], "train.accumulate = 4"),
        (["train.channels_last=true", "model={name: mlp}"], "train.channels_last"),
        (["optimizer.momentum=0.9", "optimizer.name=adam"], "optimizer.momentum"),
        (["optimizer={name: sgd, nesterov: true, momentum: 0}"], "nesterov"),
        (["optimizer={name: sgd, decay_norm_and_bias: false}"], "decay_norm_and_bias"),
        (["loss={name: mse, label_smoothing: 0.1}"], "loss.label_smoothing"),
        (["loss={name: bce}"], "bce"),
        (["loss={name: focal}", "data.augment.mixup=0.2"], "data.augment.mixup"),
        (["data.augment.cutmix=1", "train.batch_size=1"], "data.augment.cutmix"),
        (["data.augment.elastic_sigma=3"], "elastic_sigma"),
        (["data.resize=pad"], "data.resize"),
        (["data.memory_limit=1MB", "data.image_size=30"], "data.memory_limit = 1MB"),
        (["data.skip_unreadable=true"], "data.skip_unreadable"),
        (["data.channels=3"], "data.channels"),
        (["model.dropout=0.5"], "model.dropout"),
    ],
)  # fmt: skip
def test_a_key_that_cannot_act_ends_the_run_before_it_begins(script, options, part):
    result = script("train.py", *options)
    assert result.code == 2 and result.error.count("\n") == 1 and part in result.error
    assert not list(Path().iterdir())


def test_flipped_digits_are_warned_of(script):
    result = script("train.py", *QUICK, "data.augment.flip=true", "--run-dir", "run")
    assert result.code == 0 and result.error.startswith("warning: data.augment.flip")
