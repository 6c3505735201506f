"""The config: what is read, what is refused, and in which words."""

from pathlib import Path

import pytest
from conftest import PROJECT, load_config

from nanocnn.config.load import config_from_dict
from nanocnn.config.schema import Config, items_of, to_yaml
from nanocnn.networks.build import catalogue
from nanocnn.system.errors import UserError

CONFIGS = sorted((PROJECT / "configs").glob("*.yaml"))


def load(tmp_path, text, *overrides):
    path = tmp_path / "my.yaml"
    path.write_text(text)
    return load_config(path, overrides)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_shipped_configs_load_by_their_bare_names_and_open_with_their_command(path):
    assert load_config(path.name).name == path.stem
    command = (
        "# python train.py" if path.stem == "digits" else f"# python train.py --config {path.name}"
    )
    if path.stem in ("folder", "photos"):
        command += " data.root=FOLDER"
    assert path.read_text().splitlines()[0] == command


def test_a_file_in_the_way_of_a_bare_name_is_taken_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mnist.yaml").write_text("name: mine")
    assert load_config("mnist.yaml").name == "mine"


def test_every_key_is_printed_with_its_comment_and_read_back(tmp_path):
    config = load_config(
        "mnist.yaml", ["name='1e-3'", "optimizer.weight_decay=1e-5", f"data.root=/{'r' * 200}"]
    )
    text = to_yaml(config)
    assert load(tmp_path, text) == config
    assert load(tmp_path, text).name == "1e-3"
    for line in text.splitlines():
        key, _, value = line.partition(":")
        assert not value or "#" in value or key.strip() == "name", f"no comment: {line}"
    printed = [line.split(":")[0].strip() for line in text.splitlines()]
    assert printed == [item.key.split(".")[-1] for item in items_of(config)]


def test_numbers_are_those_of_yaml_1_2(tmp_path):
    config = load(
        tmp_path, "optimizer: {lr: 1e-3, weight_decay: 5E-4}\nseed: 10", "train.epochs=+3"
    )
    assert config.optimizer.lr == 0.001
    assert config.optimizer.weight_decay == 0.0005
    assert config.train.epochs == 3


def test_overrides_take_the_path_of_the_file(tmp_path):
    text = "optimizer: {lr: 0.5, momentum: 0.8}\nschedule: {name: constant}"
    config = load(tmp_path, text, "optimizer.lr=1e-3", "data.augment.shift=2")
    assert (config.optimizer.lr, config.optimizer.momentum) == (0.001, 0.8)
    assert config.data.augment.shift == 2
    config = load(tmp_path, text, "optimizer={name: sgd, lr: 1}", "schedule={warmup: 0.5}")
    assert (config.optimizer.lr, config.optimizer.momentum) == (1.0, 0.9)
    assert config.schedule.name == "one_cycle"


FILES = {
    "optimzer: {lr: 1}": ["line 1", "'optimzer'", "did you mean 'optimizer.lr'"],
    "name: a\nlr: 1": ["line 2", "'lr'", "did you mean 'optimizer.lr'"],
    "optimizer:\n  momentun: 1": [
        "line 2",
        "'optimizer.momentun'",
        "did you mean 'optimizer.momentum'",
    ],
    "optimizer: {lr: -1}": ["optimizer.lr = -1", "greater than 0"],
    "optimizer: {lr: abc}": ["optimizer.lr = abc", "valid number"],
    "optimizer: {lr: .nan}": ["optimizer.lr = .nan", "finite"],
    "optimizer: {lr: 1e999}": ["optimizer.lr", "finite"],
    "optimizer: {lr: true}": ["optimizer.lr = true", "valid number"],
    "optimizer: {momentum: 0, nesterov: true}": ["optimizer.nesterov", "momentum = 0"],
    "optimizer: {name: sdg}": ["optimizer.name = sdg", "did you mean 'sgd'"],
    "schedule: {name: onecycle}": ["did you mean 'one_cycle'? (known: one_cycle, constant, step"],
    "optimizer: {name: adam, momentum: 0.9}": ["'optimizer.momentum'", "known: name, lr"],
    "data: {sampling: even}": ["data.sampling = even", "balanced"],
    "model: {name: lenett}": ["model.name = lenett", "did you mean 'lenet'"],
    "model: {name: lenet, width: 3}": ["'model.width'"],
    "model: {name: convnet, channels: [[0]]}": ["model.channels.0.0 = 0", "greater than 0"],
    "model: {name: resnet18, width: -1}": ["model.width = -1", "greater than 0"],
    "model: {name: vgg11, convolutions: [1]}": ["unknown key 'model.convolutions'"],
    "model: {name: torchvision.resnet81}": ["torchvision.resnet81", "did you mean 'resnet18'"],
    "model: {name: vgg11, init: {name: kaimin}}": [
        "model.init.name = kaimin",
        "did you mean 'kaiming'",
    ],
    "model: lenet": ["model = lenet", "section"],
    "data: {dataset: mnits}": ["data.dataset = mnits", "did you mean 'mnist'", "digits"],
    "data: {validation: 1.5}": ["data.validation = 1.5", "less than 1"],
    "data: {validation: yes}": ["data.validation = yes", "integer or", "number"],
    "data:": ["data = null", "section"],
    "train: {epochs: 3.0}": ["train.epochs = 3.0", "integer"],
    "train: {epochs: true}": ["train.epochs = true", "integer"],
    "train: {epochs: 010}": ["train.epochs", "integer"],
    "train: {batch_size: 0}": ["train.batch_size = 0", "greater than or equal to 1"],
    "device: gpu": ["device = gpu", "cuda"],
    "name: ../a": ["name = '../a'"],
    "seed: 1\nname: a\nseed: 2": ["line 3", "'seed' stands twice"],
    "train: {epochs: 1, epochs: 2}": ["'epochs' stands twice"],
    "a: !!python/object/apply:os.system [echo]": ["line 1", "tag"],
    "data: &d {limit: 5}\nmodel: *d": ["line 2", "aliases"],
    "<<: {seed: 1}": ["unknown key '<<'"],
    "1: 2": ["1"],
    "[a]: 1": ["line 1", "a key should be a name"],
    "seed: !!bool foo": ["line 1", "the tag !!bool is not allowed"],
    "seed: !!int ''": ["line 1", "the tag !!int is not allowed"],
    "name: a\nseed: !!int 0x1F": ["line 2", "the tag !!int is not allowed"],
    "seed: !!int 1:30": ["tag !!int"],
    "seed: !!int 1_000": ["tag !!int"],
    "optimizer: {lr: !!float 1:30.5}": ["tag !!float"],
    "data: {skip_unreadable: !!bool yes}": ["tag !!bool"],
    "data: {limit: !!null x}": ["tag !!null"],
    "name: !!binary aGk=": ["tag !!binary"],
    "seed: !<tag:yaml.org,2002:int> 0x1F": ["tag !!int"],
    "seed: ! 12": ["the tag ! is not allowed"],
    "!!map {seed: 1}": ["tag !!map"],
    "%TAG !e! tag:yaml.org,2002:\n---\nseed: !e!int 0x1F": ["line 3", "tag !!int"],
    f"seed: {'1' * 5000}": ["line 1", "seed = 111", "integer"],
    f"data: {{memory_limit: {'1' * 5000}}}": ["line 1", "data.memory_limit"],
    f"data: {{memory_limit: {'1' * 5000}GB}}": ["line 1", "data.memory_limit"],
    f"train: {{checkpoint_every: 0.{'0' * 5000}1s}}": ["line 1", "train.checkpoint_every"],
    f"train: {{epochs: {10**18 * 100}}}": ["line 1", "train.epochs", "at most 18 digits"],
    "data: {augment: {mixup: 1e-300}}": ["data.augment.mixup = 1.0e-300", "0 or between 1e-37"],
    "data: {augment: {cutmix: 1e-20}}": ["data.augment.cutmix = 1e-20", "0 or at least 0.001"],
    "data: {augment: {elastic: 1, elastic_sigma: 1e-30}}": ["elastic_sigma = 1.0e-30", "0.1"],
    "model: {name: mlp, init: {name: normal, std: 1e308}}": ["model.init.std", "1e+38"],
    "optimizer: {name: adagrad, initial_accumulator_value: 1e39}": ["accumulator_value = 1.0e+39"],
    "optimizer: {groups: [{match: '*', lr_mult: 1e-300}]}": ["optimizer.groups.0.lr_mult"],
    "loss: {class_weights: [1e300, 1]}": ["loss.class_weights = [1.0e+300, 1.0]", "1e+38"],
    "model: {name: vgg11, width: 1e30}": ["model.width = 1.0e+30", "1000"],
    "name: !!timestamp foo": ["line 1", "tag"],
    "a: !!map [1]": ["line 1"],
    "": ["my.yaml", "null"],
    "- a\n- b": ["[a, b]"],
    "a: [1": ["line 1"],
    "a:\n\tb: 1": ["line 2"],
    "[" * 10_000: ["not a YAML document"],
    "# " + "x" * 1_000_000: ["larger than 1,000,000 bytes"],
}


@pytest.mark.parametrize("text", FILES, ids=lambda text: text[:40])
def test_a_bad_file_is_refused_in_one_line(tmp_path, text):
    with pytest.raises(UserError) as caught:
        load(tmp_path, text)
    message = str(caught.value)
    assert "my.yaml" in message and "\n" not in message
    for part in FILES[text]:
        assert part in message


OVERRIDES = {
    "train.epochs=yes": ["command line: train.epochs = yes", "integer"],
    "train.epochs=": ["train.epochs = null"],
    "optimizer.lr='1e-3'": ["optimizer.lr = '1e-3'", "number"],
    "optimizer={name: sgd, lr: -1}": ["command line", "optimizer.lr = -1"],
    "optimizer.lr=[1": ["command line, optimizer.lr"],
    "train.epoch=3": ["did you mean 'train.epochs'"],
    "train.epochs": ["key=value"],
    "=3": ["key=value"],
    "train..epochs=3": ["key=value"],
    "train.epochs.x=3": ["train.epochs is a value"],
    "nonsense=1": ["command line: unknown key 'nonsense'"],
    "optimzer.lr=1": ["command line: unknown key 'optimzer'"],
    "optimizer.groups=[0]": ["optimizer.groups.0 = 0: should be a section", "{match: '*.bias'}"],
}


@pytest.mark.parametrize("override", OVERRIDES)
def test_a_bad_override_is_refused_in_one_line(tmp_path, override):
    with pytest.raises(UserError) as caught:
        load(tmp_path, "train: {epochs: 1}\noptimizer: {lr: 1}", override)
    for part in OVERRIDES[override]:
        assert part in str(caught.value)


def test_a_missing_or_unreadable_file_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"mnits\.yaml.*did you mean 'mnist'.*digits"):
        load_config("mnits.yaml")
    (tmp_path / "latin.yaml").write_bytes("name: caf\xe9".encode("latin-1"))
    with pytest.raises(UserError, match=r"latin\.yaml.*UTF-8"):
        load_config(tmp_path / "latin.yaml")


def test_a_network_that_needs_an_argument_says_so(tmp_path, monkeypatch):
    from model import MODELS, LeNet
    from nanocnn.config import load as configure

    class Wide(LeNet):
        def __init__(
            self,
            image_shape,
            num_classes,
            width: int,
            depth=2,
            sizes: tuple[int, ...] = (8, 16),
            act=None,
            **rest,
        ):
            super().__init__(image_shape, num_classes)

    monkeypatch.setitem(MODELS, "wide", Wide)
    configure.full_schema.cache_clear()
    try:
        with pytest.raises(UserError, match=r"model needs the key 'width'"):
            load(tmp_path, "model: {name: wide}")
        with pytest.raises(UserError, match=r"model\.depth = x: should be a valid integer"):
            load(tmp_path, "model: {name: wide, width: 3, depth: x}")
        with pytest.raises(UserError, match=r"model\.sizes\.1 = x: should be a valid integer"):
            load(tmp_path, "model: {name: wide, width: 3, sizes: [1, x]}")
        given = load(tmp_path, "model: {name: wide, width: 3, sizes: [1, 2], act: relu}")
        arguments = {"width": 3, "depth": 2, "sizes": (1, 2), "act": "relu", "init": None}
        assert given.model.arguments() == arguments
        assert load(tmp_path, to_yaml(given)) == given
    finally:
        configure.full_schema.cache_clear()


def test_a_network_whose_argument_is_a_key_of_every_network_is_refused():
    def mine(image_shape, num_classes, weights: int = 3):
        return None

    networks = catalogue({"mine": mine})
    with pytest.raises(UserError, match=r"model mine: its constructor's argument 'weights'"):
        config_from_dict({"model": {"name": "mine"}}, networks)


def test_the_defaults_are_a_config():
    assert load_config("digits.yaml").model.name == Config().model.name == "lenet"
