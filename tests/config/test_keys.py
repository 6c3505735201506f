"""Each key of the config acts or is refused, and editors know them all."""

import json
from pathlib import Path

import jsonschema
import pytest
import yaml
from conftest import NETWORKS, load_config, train

from nanocnn.config.load import CONFIGS, json_schema
from nanocnn.config.schema import Columns, Section, Train, items_of
from nanocnn.config.strict_yaml import parse_yaml
from nanocnn.system.errors import UserError

NET = "model={name: convnet, channels: [[4], [8]], norm: batch, hidden: [8], dropout: 0.1}"
QUICK = ["data.limit=120", "train.epochs=2", "train.batch_size=32", NET, "data.augment.elastic=1"]


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
        ["optimizer={name: adagrad}", "schedule={name: exponential}"],
        ["optimizer={name: adamw}", "schedule={name: multistep, milestones: [1]}", "train.ema=0.9"],
        [
            "optimizer={name: adam}",
            "schedule={name: plateau, patience: 0}",
            "train.epochs=3",
            "loss={name: focal, class_weights: balanced}",
        ],
    ],
)
@pytest.mark.slow
@pytest.mark.usefixtures("drawn")
def test_no_key_is_without_a_reader(tmp_path, options):
    """Whoever adds a key and forgets to use it finds this test red."""
    assert unread_keys(load_config("digits.yaml", [*QUICK, *options]), tmp_path) == set()


@pytest.mark.usefixtures("drawn")
def test_a_key_without_a_reader_is_found(tmp_path):
    class MoreOptions(Train):
        speed: int = 3

    config = load_config("digits.yaml", QUICK)
    options = MoreOptions(**config.train.model_dump())
    config = config.model_copy(update={"train": options})
    assert unread_keys(config, tmp_path) == {("MoreOptions", "speed")}


def unread_keys(config, folder):
    """(section, key) of what a run under `config` never asks for.

    To write the config down is no reading: a dump counts only where it leaves something out, as it
    does for the arguments of networks and optimizers.
    """
    read, get = set(), Section.__getattribute__

    def noted(self, key):
        value, names = get(self, key), type(self).model_fields
        if key in names:
            read.add((type(self).__name__, key))
        if key != "model_dump":
            return value

        def dump(**options):
            if options.get("exclude"):
                read.update((type(self).__name__, name) for name in names)
            return value(**options)

        return dump

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Section, "__getattribute__", noted)
        train(config, folder / "run")
    sections = [config, *(item.value for item in items_of(config))]
    keys = {
        (type(section).__name__, key)
        for section in sections
        if isinstance(section, Section)
        for key, _ in section
    }
    own_images_only = {
        ("Data", key)
        for key in (
            *("channels", "resize", "background", "value_range", "test", "group"),
            *("list", "delimiter", "encoding", "extension", "columns"),
            *("memory_limit", "skip_unreadable", "root", "shrink", "cache", "cache_limit"),
        )
    }
    own_images_only |= {("Columns", key) for key in Columns.model_fields}
    by_the_type_itself = {key for key in keys if key[1] == "name"}
    return keys - read - own_images_only - by_the_type_itself


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
        (["data.shrink=false"], "data.shrink"),
        (["data.cache=false"], "data.cache"),
        (["data.cache_limit=1GB"], "data.cache_limit"),
        (["data.channels=3"], "data.channels"),
        (["data.background=white"], "data.background"),
        (["data.value_range=[0, 4095]"], "data.value_range"),
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
