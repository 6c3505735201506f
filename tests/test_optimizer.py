"""Which layers learn, and how fast."""

import pytest
import torch
from torch import nn

from config import SGD, Augment
from configure import load_config
from dataset import Batches, DataInfo, Split
from engine import train_one_epoch
from errors import UserError
from optimizer import build_optimizer

INFO = DataInfo("made up", ["a", "b"], [0.5], [0.5], (1, 6, 6))


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 2)
    )


def one_epoch(model, optimizer, steps=1):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (8 * steps, 1, 6, 6), dtype=torch.uint8, generator=generator)
    batches = Batches(Split(images, torch.arange(8 * steps) % 2), INFO, 8, torch.device("cpu"))
    updates = train_one_epoch(
        model,
        batches.shuffled(0, 0, Augment()),
        nn.CrossEntropyLoss(),
        optimizer,
        lambda step: 0.1,
        torch.float32,
    )
    list(updates)


def changes(groups, **arguments):
    """How far one step moves each parameter."""
    model = network()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    config = SGD(momentum=0.0, groups=groups, **arguments)
    one_epoch(model, build_optimizer(config, model))
    return {name: p.detach() - before[name] for name, p in model.named_parameters()}


def test_multipliers_scale_the_step_of_weights_and_biases_apart():
    plain = changes([])
    scaled = changes([{"match": "0.weight", "lr_mult": 0.5}, {"match": "*.bias", "lr_mult": 2.0}])
    torch.testing.assert_close(scaled["0.weight"], 0.5 * plain["0.weight"])
    for name in ("0.bias", "1.bias", "4.bias"):
        torch.testing.assert_close(scaled[name], 2 * plain[name])
    torch.testing.assert_close(scaled["4.weight"], plain["4.weight"])


def test_the_first_group_that_matches_counts():
    plain = changes([])
    scaled = changes([{"match": "4.bias", "lr_mult": 3.0}, {"match": "4.*", "lr_mult": 2.0}])
    torch.testing.assert_close(scaled["4.bias"], 3 * plain["4.bias"])
    torch.testing.assert_close(scaled["4.weight"], 2 * plain["4.weight"])


def test_decay_multipliers_scale_the_weight_decay():
    weight = network()[4].weight.detach()
    plain, decayed = changes([]), changes([], weight_decay=0.1)
    spared = changes([{"match": "*.weight", "decay_mult": 0.0}], weight_decay=0.1)
    torch.testing.assert_close(decayed["4.weight"], plain["4.weight"] - 0.1 * 0.1 * weight)
    torch.testing.assert_close(spared["4.weight"], plain["4.weight"])


def test_frozen_layers_do_not_move_and_neither_do_their_statistics():
    model = network()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    groups = [{"match": "[01].*", "lr_mult": 0.0}]
    one_epoch(model, build_optimizer(SGD(groups=groups, weight_decay=0.1), model), steps=3)
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]) == key.startswith(("0.", "1.")), key
    assert not model[1].training and model[2].training


def test_a_batch_norm_without_parameters_is_not_taken_for_a_frozen_one():
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4, affine=False), nn.Flatten(), nn.Linear(64, 2)
    )
    one_epoch(model, build_optimizer(SGD(), model))
    assert model[1].running_mean.abs().sum() > 0


def test_a_pattern_that_matches_nothing_is_refused_with_the_layers():
    with pytest.raises(UserError, match=r"'features\.\*' matches no parameter.* 0, 1, 4"):
        build_optimizer(SGD(groups=[{"match": "features.*"}]), network())
    with pytest.raises(UserError, match=r"4\.bias"):
        build_optimizer(SGD(groups=[{"match": "4.*"}, {"match": "4.bias"}]), network())
    with pytest.raises(UserError, match="nothing is left to train"):
        build_optimizer(SGD(groups=[{"match": "*", "lr_mult": 0.0}]), network())


def test_groups_are_read_from_the_config():
    groups = (
        "optimizer.groups=[{match: features.0.*, lr_mult: 0.1}, {match: '*.bias', decay_mult: 0}]"
    )
    config = load_config("mnist.yaml", [groups])
    assert [(g.match, g.lr_mult, g.decay_mult) for g in config.optimizer.groups] == [
        ("features.0.*", 0.1, 1.0),
        ("*.bias", 1.0, 0.0),
    ]
    with pytest.raises(UserError, match=r"optimizer\.groups\.0\.lr_multi'.*did you mean 'lr_mult'"):
        load_config("mnist.yaml", ["optimizer.groups=[{match: a, lr_multi: 1}]"])
