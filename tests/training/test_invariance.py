"""What must change nothing, whatever key of the config is set: a table over the whole schema.

weights   all class weights times c: the same loss and the same gradients
split     a step in three parts, an evaluation in three batches: the same
doubled   each image twice in a step: the same loss and the same gradients
permuted  the classes in another order: the same loss, and the same gradients before the last layer

The images of a step are fixed: drawn, augmented and mixed once.
"""

import json
from functools import partial
from typing import NamedTuple, get_args

import pytest
import torch
from conftest import NETWORKS, load_config, small
from pydantic import BaseModel

from nanocnn.config.load import full_schema
from nanocnn.images.training_data import TrainingData
from nanocnn.networks.build import build_network
from nanocnn.training.device import pick_computing
from nanocnn.training.learner import Learner
from nanocnn.training.loss import build_loss

BASE = ["data.limit=50", "train.batch_size=24", "model={name: mlp, hidden: [8]}"]
OWN = ["data.dataset=folder", "data.image_size=8"]  # and a root with pictures
MAKES_STATISTICS = "batch normalisation takes its statistics from the part"
IS_DRAWN = "what is left out is drawn for each part anew"

# The value that each key of the schema takes in its turn, with what it needs besides; a key of
# several variants of a section has a row for all of them. `None`: not tried, for the reason given.
TABLE = {
    "name": ["other"],
    "seed": ["5"],
    "device": ["cpu"],
    "precision": ["bf16"],
    "data.dataset": ["folder", *OWN],
    "data.root": ["elsewhere"],  # digits lie nowhere
    "data.channels": ["3", *OWN],
    "data.image_size": ["12"],
    "data.resize": ["crop", *OWN],
    "data.interpolation": ["bicubic", *OWN],
    "data.crop_fraction": ["0.8", "data.resize=crop", *OWN],
    "data.background": ["white", *OWN],
    "data.value_range": None,  # digits have 8 bits; it acts before the pixels are uint8
    "data.shrink": ["false", *OWN],
    "data.limit": ["40"],
    "data.validation": ["12"],
    "data.test": ["0.1", *OWN],
    "data.list": None,  # with the keys of its table it says where pictures are
    "data.delimiter": None,
    "data.encoding": None,
    "data.extension": None,
    "data.columns.path": None,
    "data.columns.label": None,
    "data.columns.split": None,
    "data.columns.group": None,
    "data.group": ["'([0-9])[^/]*$'", *OWN],
    "data.sampling": ["balanced"],
    "data.memory_limit": ["1KB", *OWN],  # streamed
    "data.cache": ["false", *OWN],
    "data.cache_limit": ["1KB", *OWN],  # too small for one
    "data.skip_unreadable": ["true", *OWN],
    "data.relabel": None,  # which labels these are, makes no difference to a step
    "data.average_flips": ["true"],
    "data.augment.shift": ["2"],
    "data.augment.rotate": ["10"],
    "data.augment.scale": ["0.1"],
    "data.augment.shear": ["10"],
    "data.augment.elastic": ["1"],
    "data.augment.elastic_sigma": ["2", "data.augment.elastic=1"],
    "data.augment.flip": ["alternating"],
    "data.augment.crop": ["2"],
    "data.augment.random_resized_crop": ["[0.5, 1.0]"],
    "data.augment.trivial_augment": ["true"],
    "data.augment.erasing": ["0.5"],
    "data.augment.until": ["0.5", "data.augment.shift=2"],
    "data.augment.cutout": ["5"],
    "data.augment.brightness": ["0.2"],
    "data.augment.contrast": ["0.2"],
    "data.augment.mixup": ["0.4"],
    "data.augment.cutmix": ["1.0"],
    "model.name": [],
    "model.init.name": [],
    "model.init.bias": ["0.1"],
    "model.init.std": ["0.1"],
    "model.weights": None,  # which first weights these are, makes no difference to a step
    "model.channels": ["[[4], [8]]"],
    "model.kernel": ["5"],
    "model.stride": ["2"],
    "model.padding": ["1"],
    "model.groups": ["1"],  # more than one takes more channels than digits have
    "model.norm": ["batch"],
    "model.activation": ["tanh"],
    "model.pool": ["average"],
    "model.pool_kernel": ["3"],
    "model.pool_stride": ["1"],
    "model.odd": ["pad"],
    "model.hidden": ["[12]"],
    "model.dropout": ["0.3"],
    "model.modern": ["false"],
    "model.width": ["0.25"],
    "model.auxiliary_weight": ["0.3"],
    "model.large_kernel": ["3"],
    "model.widths": ["[8, 16, 16]"],
    "model.whitening": ["5"],
    "loss.name": [],
    "loss.label_smoothing": ["0.1"],
    "loss.class_weights": ["balanced"],
    "loss.gamma": ["0.5"],
    "optimizer.name": [],
    "optimizer.lr": ["0.01"],
    "optimizer.weight_decay": ["0.01"],
    "optimizer.decay_norm_and_bias": ["false", "optimizer.weight_decay=0.01"],
    "optimizer.backbone_lr_mult": ["0.5"],
    "optimizer.groups": ['[{match: "*.bias", lr_mult: 0.5}]'],
    "optimizer.momentum": ["0.8"],
    "optimizer.nesterov": ["true", "optimizer.momentum=0.8"],
    "optimizer.lr_decay": ["0.1"],
    "optimizer.initial_accumulator_value": ["0.1"],
    "optimizer.eps": ["0.001"],
    "optimizer.rho": ["0.8"],
    "optimizer.alpha": ["0.8"],
    "optimizer.centered": ["true"],
    "optimizer.betas": ["[0.8, 0.9]"],
    "optimizer.amsgrad": ["true"],
    "optimizer.ns_steps": ["3"],
    "optimizer.adjust_lr_fn": ["original"],
    "schedule.name": [],
    "schedule.warmup": ["0.1"],
    "schedule.step_size": ["2"],
    "schedule.gamma": ["0.5"],
    "schedule.milestones": ["[2, 4]"],
    "schedule.min_lr": ["0.001"],
    "schedule.factor": ["0.5"],
    "schedule.patience": ["1"],
    "schedule.threshold": ["0.1"],
    "train.epochs": ["12"],
    "train.fit_head": ["true"],
    "train.freeze_statistics": ["true", "model={name: convnet, channels: [[4]], norm: batch}"],
    "train.batch_size": ["16"],
    "train.checkpoint_every": ["7"],
    "train.accumulate": ["2", "train.batch_size=12"],
    "train.clip_norm": ["0.01"],
    "train.ema": ["0.9"],
    "train.patience": ["3"],
    "train.overfit_batches": ["1"],
    "train.channels_last": ["true", "model={name: convnet, channels: [[4]], norm: none}"],
    "train.compile": None,  # takes minutes; its steps are those of the network that is compiled
    "train.sync_batch_norm": None,  # acts in several processes: tests/training/test_processes.py
    "log.every": ["3"],
    "log.pictures": ["each"],
}
# (invariance, key or section=variant): why it need not hold there
EXCEPTIONS = {
    ("weights", "loss=mse"): "takes no class weights",
    ("weights", "loss=bce"): "takes no class weights",
    ("split", "model.norm"): MAKES_STATISTICS,
    ("split", "model=lenet"): MAKES_STATISTICS,
    ("split", "model=resnet18"): MAKES_STATISTICS,
    ("split", "model=airbench"): MAKES_STATISTICS,
    ("split", "model=googlenet"): MAKES_STATISTICS,
    ("doubled", "model=googlenet"): f"its auxiliary heads have dropout of their own: {IS_DRAWN}",
    ("split", "model.dropout"): IS_DRAWN,
    ("doubled", "model.dropout"): IS_DRAWN,
}


def variants(annotation):
    """The sections that a field of the schema may hold."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for part in get_args(annotation) for found in variants(part)]


def keys_of(schema, section=""):
    """(section, variant, key) of each key of the schema; the variant where there are several."""
    for key, field in schema.model_fields.items():
        found = variants(field.annotation)
        if not found or key == "groups":  # a list of sections is one value
            yield section, "", key
        for each in found if key != "groups" else []:
            name = each.model_fields["name"].default if len(found) > 1 else ""
            for inner, variant, last in keys_of(each, f"{section}{key}."):
                yield inner, variant or name, last


KEYS = list(dict.fromkeys(keys_of(full_schema(NETWORKS))))
# each network by name, and what several of them take with the first of these
FIRST = {section + key: (section, variant, key) for section, variant, key in reversed(KEYS)}
ROWS = [row for row in KEYS if row[0] != "model." or row[2] == "name" or row in FIRST.values()]


def test_the_table_has_the_keys_of_the_schema():
    assert {section + key for section, _, key in ROWS} == TABLE.keys()


def options_of(section, variant, key):
    """The overrides that set one key of the table, on top of BASE."""
    value, *needed = TABLE[section + key] or [None]
    chosen = {"name": variant}
    if section == "model.":  # as small as the key lets it be, and without what is drawn
        taken = {each.name for each in NETWORKS.keys(variant)}
        plain = {"dropout": 0, "norm": "none", "padding": 0, "channels": [[4], [8]]}
        plain |= {"width": 0.125, "widths": [8, 8, 8]}
        chosen |= small(variant) | {each: plain[each] for each in plain.keys() & taken}
    options = [*BASE]
    if variant:
        options.append(f"{section[:-1]}={json.dumps(chosen)}")
    options += needed
    if (section, variant) == ("loss.", "bce"):
        options += OWN  # of two classes
    return options if value is None else [*options, f"{section}{key}={value}"]


def with_weights(config, info, times=1.0):
    """`config` with weights of the classes, those it has or 1, 2, 3 ..., `times` as large."""
    if not hasattr(config.loss, "class_weights"):
        return config
    weights = config.loss.class_weights or list(range(1, len(info.classes) + 1))
    if weights == "balanced":
        weights = build_loss(config.loss, info).class_weights.tolist()
    loss = config.loss.model_copy(update={"class_weights": [times * weight for weight in weights]})
    return config.model_copy(update={"loss": loss})


def reorder(order, is_logistic, network, images, outputs):
    """A hook that gives the logits of the classes in another order."""
    if not isinstance(outputs, torch.Tensor):
        logits, *auxiliary = outputs
        moved = [(share, reorder(order, is_logistic, network, images, x)) for share, x in auxiliary]
        return reorder(order, is_logistic, network, images, logits), *moved
    moved = outputs[:, order]
    return moved - moved[:, :1] if is_logistic else moved  # which has (0, z)


class Found(NamedTuple):
    loss: torch.Tensor
    gradients: list
    judged: float  # the loss in evaluation


def step(config, info, images, labels, parts=1, order=None):
    """What one step and one evaluation make of the images, in so many parts."""
    size = -(-len(images) // parts)
    options = config.train.model_copy(update={"accumulate": parts, "batch_size": size})
    config = config.model_copy(update={"train": options})
    model = build_network(config, NETWORKS, info.image_shape, len(info.classes))
    if order is not None:
        model.register_forward_hook(partial(reorder, order, config.loss.logistic))
    learner = Learner(model, config, info, pick_computing(config))
    if config.precision != "bf16":  # deep networks make much of how float32 rounds
        images = images.double()
        for part in (learner.parts[name] for name in ("model", "ema") if name in learner.parts):
            part.double()
        for state in learner.optimizer.state.values():  # Adagrad's, which is there from the start
            state |= {name: state[name].double() for name in state.keys() & {"sum"}}
    torch.manual_seed(0)
    result = learner.step(images, labels, 0.0)
    hard = labels.argmax(1) if labels.ndim == 2 else labels
    evaluation = learner.judge(zip(images.split(size), hard.split(size), strict=True))
    gradients = [weight.grad for weight in model.parameters() if weight.grad is not None]
    return Found(result.total / result.weight, gradients, evaluation.loss)


def assert_same(found, expected, tolerance):
    torch.testing.assert_close(found.loss, expected.loss, rtol=tolerance, atol=0)
    assert found.judged == pytest.approx(expected.judged, rel=tolerance)
    assert len(found.gradients) == len(expected.gradients) > 0
    for one, other in zip(found.gradients, expected.gradients, strict=True):
        assert (one - other).abs().max() <= tolerance * other.abs().max() + 1e-7


@pytest.mark.parametrize("section, variant, key", ROWS, ids=lambda part: part or "-")
def test_what_must_change_nothing_changes_nothing(section, variant, key, digit_pictures):
    if TABLE[section + key] is None:
        pytest.skip("not tried: see the table")
    options = options_of(section, variant, key)
    if OWN[0] in options:
        classes = 2 if variant == "bce" else 3
        options.append(f"data.root={digit_pictures({'train': 60}, classes=classes)}")
    config = load_config("digits.yaml", options)
    data = TrainingData(config)
    _, images, labels = next(data.epoch(1))
    info, config = data.info, with_weights(config, data.info)
    expected = step(config, info, images, labels)
    exempt = {
        invariance
        for invariance, place in EXCEPTIONS
        if place in (section + key, f"{section[:-1]}={variant}")
    }
    same = partial(assert_same, expected=expected, tolerance=5e-2 if key == "precision" else 1e-3)

    if "weights" not in exempt:
        same(step(with_weights(config, info, times=100.0), info, images, labels))
    if "split" not in exempt:
        same(step(config, info, images, labels, parts=3))
    if "doubled" not in exempt:
        same(step(config, info, torch.cat([images, images]), torch.cat([labels, labels])))
    order = torch.randperm(len(info.classes), generator=torch.Generator().manual_seed(1))
    moved = labels[:, order] if labels.ndim == 2 else order.argsort()[labels]
    weights = getattr(config.loss, "class_weights", None)
    if weights:
        weights = {"class_weights": [weights[index] for index in order]}
        config = config.model_copy(update={"loss": config.loss.model_copy(update=weights)})
    same(step(config, info, images, moved, order=order))
