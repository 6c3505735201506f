"""Which layers learn, how fast, and by which optimizer's steps."""

import json
import signal

import pytest
import torch
from conftest import CPU, after, go_on, load_config, made_up_info, made_up_learner, train
from torch import nn

from nanocnn.config.schema import SGD, Adadelta, Adagrad, Adam, AdamW, Augment, Muon, RMSprop
from nanocnn.images.batches import Batches
from nanocnn.images.splits import Split
from nanocnn.run.checkpoint import load_checkpoint
from nanocnn.run.run import Run
from nanocnn.system.errors import UserError
from nanocnn.system.signals import Stopped
from nanocnn.training.optimizer import build_optimizer, hidden_weights

INFO = made_up_info("ab")


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 2)
    )


def one_epoch(model, config, steps=1):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (8 * steps, 1, 6, 6), dtype=torch.uint8, generator=generator)
    batches = Batches(Split(images, torch.arange(8 * steps) % 2), INFO, 8, CPU)
    learner = made_up_learner(model, INFO, optimizer=config)
    for _, images, labels in batches.shuffled(0, 0, Augment()):
        learner.step(images, labels, 0.1)


def changes(groups, **arguments):
    """How far one step moves each parameter."""
    model = network()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    config = SGD(momentum=0.0, groups=groups, **arguments)
    one_epoch(model, config)
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
    one_epoch(model, SGD(groups=groups, weight_decay=0.1), steps=3)
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]) == key.startswith(("0.", "1.")), key
    assert not model[1].training and model[2].training


def test_a_batch_norm_without_parameters_is_not_taken_for_a_frozen_one():
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4, affine=False), nn.Flatten(), nn.Linear(64, 2)
    )
    one_epoch(model, SGD())
    assert model[1].running_mean.abs().sum() > 0


def test_a_pattern_that_matches_nothing_is_refused_with_the_layers():
    with pytest.raises(UserError, match=r"'features\.\*' matches no parameter.* 0, 1, 4"):
        build_optimizer(SGD(groups=[{"match": "features.*"}]), network(), (1, 6, 6))
    with pytest.raises(UserError, match=r"4\.bias"):
        build_optimizer(SGD(groups=[{"match": "4.*"}, {"match": "4.bias"}]), network(), (1, 6, 6))
    with pytest.raises(UserError, match="nothing is left to train"):
        build_optimizer(SGD(groups=[{"match": "*", "lr_mult": 0.0}]), network(), (1, 6, 6))


def test_groups_are_read_from_the_config():
    groups = (
        "optimizer.groups=[{match: features.0.*, lr_mult: 0.1}, {match: '*.bias', decay_mult: 0}]"
    )
    config = load_config("mnist.yaml", [groups])
    assert [(g.match, g.lr_mult, g.decay_mult) for g in config.optimizer.groups] == [
        ("features.0.*", 0.1, 1.0),
        ("*.bias", 1.0, 0.0),
    ]
    with pytest.raises(UserError, match=r"lr_multi'.*did you mean 'optimizer\.groups\.0\.lr_mult'"):
        load_config("mnist.yaml", ["optimizer.groups=[{match: a, lr_multi: 1}]"])


CASES = [
    SGD(lr=0.1, momentum=0.8, nesterov=True, weight_decay=0.1),
    Adagrad(lr=0.1, lr_decay=0.1, initial_accumulator_value=0.2, eps=1e-3, weight_decay=0.1),
    Adadelta(lr=0.5, rho=0.8, eps=1e-3, weight_decay=0.1),
    RMSprop(lr=0.01, alpha=0.8, eps=1e-3, momentum=0.5, centered=True, weight_decay=0.1),
    Adam(lr=0.01, betas=[0.8, 0.9], eps=1e-3, amsgrad=True, weight_decay=0.1),
    AdamW(lr=0.01, betas=[0.8, 0.9], eps=1e-3, amsgrad=True, weight_decay=0.1),
]
NAMES = ["sgd", "adagrad", "adadelta", "rmsprop", "adam", "adamw", "muon"]


def default(name):
    return load_config("digits.yaml", [f"optimizer={{name: {name}}}"]).optimizer


def steps(model, optimizers, count=5):
    """Train on made-up images, and return the weights."""
    images = torch.randn(count, 8, 1, 6, 6, generator=torch.Generator().manual_seed(1))
    for batch in images:
        loss = nn.functional.cross_entropy(model(batch), torch.arange(8) % 2)
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
    return [parameter.detach() for parameter in model.parameters()]


@pytest.mark.parametrize("config", CASES, ids=lambda config: config.name)
def test_an_optimizer_takes_the_steps_of_torch_with_every_key(config):
    ours_alone = {"name", "groups", "backbone_lr_mult", "decay_norm_and_bias"}
    arguments = config.model_dump(exclude=ours_alone)
    defaults = type(config)().model_dump()
    assert not [key for key in arguments if arguments[key] == defaults[key] and key != "lr"]
    model, same = network(), network()
    ours = build_optimizer(config, model, (1, 6, 6))
    torchs = {optimizer.__name__.lower(): optimizer for optimizer in (
        torch.optim.SGD, torch.optim.Adagrad, torch.optim.Adadelta, torch.optim.RMSprop,
        torch.optim.Adam, torch.optim.AdamW,
    )}[config.name](same.parameters(), **arguments)  # fmt: skip
    assert isinstance(ours, type(torchs))
    found, expected = steps(model, [ours]), steps(same, [torchs])
    for parameter, other in zip(found, expected, strict=True):
        torch.testing.assert_close(parameter, other)
    assert bool(ours.defaults.get("fused")) == (config.name not in ("adadelta", "rmsprop"))


@pytest.mark.parametrize("adjust", ["match_rms_adamw", "original"])
def test_muon_takes_the_steps_of_torch_and_leaves_the_rest_to_adamw(adjust):
    def mlp():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Flatten(), nn.Linear(36, 12), nn.ReLU(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 2)
        )

    model, same = mlp(), mlp()
    arguments = {"lr": 0.01, "momentum": 0.8, "nesterov": False, "weight_decay": 0.1, "ns_steps": 4}
    ours = build_optimizer(Muon(adjust_lr_fn=adjust, **arguments), model, (1, 6, 6))
    hidden = [same[1].weight, same[3].weight]
    rest = [same[1].bias, same[3].bias, same[5].weight, same[5].bias]
    muon = torch.optim.Muon(hidden, adjust_lr_fn=adjust, **arguments)
    adamw = torch.optim.AdamW(rest, lr=0.01)  # but for lr its defaults
    found, expected = steps(model, [ours]), steps(same, [muon, adamw])
    for parameter, other in zip(found, expected, strict=True):
        torch.testing.assert_close(parameter, other)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_muon_takes_a_convolution_as_the_linear_layer_that_it_is(memory_format):
    """A convolution as large as the image is a linear layer."""
    torch.manual_seed(0)
    linear = nn.Sequential(nn.Flatten(), nn.Linear(72, 5), nn.ReLU(), nn.Linear(5, 2))
    conv = nn.Sequential(nn.Conv2d(2, 5, 6), nn.Flatten(), nn.ReLU(), nn.Linear(5, 2))
    conv[0].weight.data = linear[1].weight.data.clone().view(5, 2, 6, 6)
    conv[0].bias.data = linear[1].bias.data.clone()
    conv[3].load_state_dict(linear[3].state_dict())
    conv = conv.to(memory_format=memory_format)
    before = conv[0].weight.detach().clone()
    for model in (linear, conv):
        optimizer = build_optimizer(Muon(lr=0.02), model, (2, 6, 6))
        for k in range(3):
            images = torch.randn(8, 2, 6, 6, generator=torch.Generator().manual_seed(k))
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images), torch.arange(8) % 2).backward()
            optimizer.step()
    assert (conv[0].weight - before).abs().max() > 1e-3
    torch.testing.assert_close(conv[0].weight.flatten(1), linear[1].weight, atol=2e-4, rtol=0)


def test_muon_without_a_hidden_layer_is_refused():
    for model in (nn.Sequential(nn.Flatten(), nn.Linear(36, 2)), nn.BatchNorm2d(1)):
        with pytest.raises(UserError, match=r"optimizer\.name = muon: has nothing to train"):
            build_optimizer(Muon(), model, (1, 6, 6))
    frozen = [{"match": "0.*", "lr_mult": 0.0}]
    with pytest.raises(UserError, match=r"optimizer\.name = muon: has nothing to train"):
        build_optimizer(Muon(groups=frozen), network(), (1, 6, 6))


def moved(name, **keys):
    """How far three steps of given gradients move each parameter, whatever happens to the
    others.
    """
    model = network()
    before = {key: p.detach().clone() for key, p in model.named_parameters()}
    config = type(default(name))(**{"weight_decay": 0.0} | keys)
    optimizer = build_optimizer(config, model, (1, 6, 6))
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        for group in optimizer.param_groups:
            group["lr"] = 0.01 * group["lr_mult"]
        for parameter in model.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step()
    return {key: p.detach() - before[key] for key, p in model.named_parameters()}


@pytest.mark.parametrize("name", NAMES)
def test_groups_work_with_each_optimizer(name):
    plain, decayed = moved(name), moved(name, weight_decay=0.5)
    groups = [
        {"match": "0.weight", "lr_mult": 0.5},
        {"match": "4.bias", "lr_mult": 3.0},
        {"match": "[01].*", "lr_mult": 0.0},
    ]
    scaled = moved(name, groups=groups)
    torch.testing.assert_close(scaled["0.weight"], 0.5 * plain["0.weight"])
    torch.testing.assert_close(scaled["4.bias"], 3 * plain["4.bias"])
    assert torch.equal(scaled["4.weight"], plain["4.weight"])
    assert not any(scaled[key].any() for key in ("0.bias", "1.weight", "1.bias"))
    spared = moved(name, weight_decay=0.5, groups=[{"match": "4.weight", "decay_mult": 0.0}])
    for key, change in spared.items():
        expected, other = (plain, decayed) if key == "4.weight" else (decayed, plain)
        assert torch.equal(change, expected[key]) and not torch.equal(change, other[key])


@pytest.mark.parametrize("name", NAMES)
def test_biases_and_normalisation_can_be_spared_the_weight_decay(name):
    plain, decayed = moved(name), moved(name, weight_decay=0.5)
    for key, change in moved(name, weight_decay=0.5, decay_norm_and_bias=False).items():
        expected, other = (decayed, plain) if key in ("0.weight", "4.weight") else (plain, decayed)
        assert torch.equal(change, expected[key]) and not torch.equal(change, other[key])


def test_the_default_decays_everything_as_one_group():
    (group,) = build_optimizer(SGD(weight_decay=0.1), network(), (1, 6, 6)).param_groups
    assert len(group["params"]) == 6 and group["weight_decay"] == 0.1


REFUSED = {
    "{name: adam, momentum: 0.9}": "unknown key 'optimizer.momentum'",
    "{name: adadelta, betas: [0.9, 0.9]}": "unknown key 'optimizer.betas'",
    "{name: sgd, eps: 1e-8}": "unknown key 'optimizer.eps'",
    "{name: rmsprop, nesterov: true}": "unknown key 'optimizer.nesterov'",
    "{name: sgd, momentum: 0, nesterov: true}": "nesterov = true cannot act with momentum = 0",
    "{name: muon, momentum: 0}": "optimizer.nesterov = true cannot act with momentum = 0",
    "{name: adam, decay_norm_and_bias: false}": (
        "optimizer.decay_norm_and_bias = false cannot act with weight_decay = 0"
    ),
    "{name: sgd, groups: [{match: '*', decay_mult: 2}]}": (
        "optimizer.groups with a decay_mult cannot act with weight_decay = 0"
    ),
    "{name: adam, betas: [0.9]}": "optimizer.betas = [0.9]: should have at least 2 items",
    "{name: adamw, betas: [0.9, 1.0]}": "optimizer.betas.1 = 1.0: should be less than 1",
    "{name: adam, eps: 0}": "optimizer.eps = 0: should be greater than 0",
    "{name: adagrad, lr_decay: -1}": "optimizer.lr_decay = -1",
    "{name: adadelta, rho: 1}": "optimizer.rho = 1",
    "{name: rmsprop, alpha: 1.5}": "optimizer.alpha = 1.5",
    "{name: muon, ns_steps: 100}": "optimizer.ns_steps = 100",
    "{name: muon, adjust_lr_fn: rms}": "optimizer.adjust_lr_fn = rms is unknown",
    "{name: adamm}": "optimizer.name = adamm is unknown; did you mean 'adam'?",
}


@pytest.mark.parametrize("optimizer", REFUSED)
def test_a_key_that_cannot_act_or_is_out_of_range_is_refused(optimizer):
    with pytest.raises(UserError) as caught:
        load_config("digits.yaml", [f"optimizer={optimizer}"])
    message = str(caught.value)
    assert message.startswith("command line: ") and REFUSED[optimizer] in message


RUNS = [
    (
        "{name: sgd, lr: 0.02, weight_decay: 1e-4, decay_norm_and_bias: false}",
        "{name: step}",
        "{name: focal}",
    ),
    ("{name: adagrad}", "{name: cosine, warmup: 0.1}", "{name: mse}"),
    ("{name: adadelta}", "{name: constant}", "{label_smoothing: 0.1, class_weights: balanced}"),
    ("{name: rmsprop, lr: 1e-3, momentum: 0.5}", "{name: exponential}", "{name: cross_entropy}"),
    ("{name: adam, lr: 3e-3}", "{name: multistep, milestones: [2, 3]}", "{name: focal, gamma: 1}"),
    ("{name: adamw, lr: 3e-3}", "{name: plateau, patience: 0}", "{class_weights: balanced}"),
    ("{name: muon, lr: 3e-3}", "{name: one_cycle}", "{name: cross_entropy}"),
]


@pytest.mark.parametrize("optimizer, schedule, loss", RUNS, ids=NAMES)
def test_each_learns_digits(optimizer, schedule, loss, tmp_path):
    options = [
        "model={name: mlp, hidden: [32]}",
        "data.limit=600",
        "train.epochs=4",
        "log.every=50",
    ]
    sections = [f"optimizer={optimizer}", f"schedule={schedule}", f"loss={loss}"]
    config = load_config("digits.yaml", [*options, *sections, "train.batch_size=32"])
    run = train(config, tmp_path / "run")
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["val_accuracy"] >= 0.7
    assert rows[-1]["train_loss"] < 0.8 * rows[0]["train_loss"]


@pytest.mark.parametrize("name", ["adagrad", "muon"])
def test_a_run_stopped_in_an_epoch_resumes_to_the_very_bits(name, tmp_path, monkeypatch):
    """Those whose state begins otherwise than empty, or belongs to two; Adam is in
    test_schedule.py.
    """
    network = "model={name: convnet, channels: [[4]], hidden: [8]}"
    options = [network, "data.limit=100", "train.epochs=2", "train.batch_size=32"]
    config = load_config("digits.yaml", [*options, f"optimizer={{name: {name}}}"])
    train(config, tmp_path / "whole")
    with monkeypatch.context() as patch:
        after(patch, Run, "after_step", 4, lambda: signal.raise_signal(signal.SIGTERM))
        with pytest.raises(Stopped):
            train(config, tmp_path / "parts")
    go_on(config, tmp_path / "parts")
    first, second = (load_checkpoint(tmp_path / run / "last.pt") for run in ("whole", "parts"))
    assert all(torch.equal(first["model"][key], second["model"][key]) for key in first["model"])
    assert first["optimizer"]["state"].keys() == second["optimizer"]["state"].keys()
    for key, state in first["optimizer"]["state"].items():
        assert state and all(
            torch.equal(state[name], second["optimizer"]["state"][key][name]) for name in state
        )


def test_muon_takes_weights_in_any_layout(tmp_path):
    options = ["data.limit=40", "train.epochs=1", "optimizer={name: muon}", "train.batch_size=20"]
    net = "model={name: convnet, channels: [[4], [8]], hidden: [16]}"
    runs = [
        train(
            load_config("digits.yaml", [*options, net, f"train.channels_last={value}"]),
            tmp_path / value,
        )
        for value in ("false", "true")
    ]
    plain, other = (load_checkpoint(run / "last.pt")["model"] for run in runs)
    for key in plain:
        torch.testing.assert_close(other[key], plain[key], atol=1e-2, rtol=1e-1)


def test_beside_muon_adamw_has_its_defaults():
    optimizer = build_optimizer(Muon(lr=0.02, weight_decay=0.3), network(), (1, 6, 6))
    torch_defaults = torch.optim.AdamW([torch.zeros(1, requires_grad=True)]).defaults
    for key in ("betas", "eps", "weight_decay"):
        assert {group[key] for group in optimizer.adamw.param_groups} == {torch_defaults[key]}
    assert {group["weight_decay"] for group in optimizer.muon.param_groups} == {0.3}
    without = build_optimizer(Muon(weight_decay=0.0), network(), (1, 6, 6))
    assert {group["weight_decay"] for group in without.param_groups} == {0.0}


def test_the_output_layer_is_the_last_to_work_wherever_it_is_declared():
    class HeadFirst(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(8, 2)
            self.body = nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.ReLU())

        def forward(self, images):
            return self.head(self.body(images))

    model = HeadFirst()
    assert hidden_weights(model, (1, 6, 6)) == {model.body[1].weight}
