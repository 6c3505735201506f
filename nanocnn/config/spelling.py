"""What keys and values of the config are called elsewhere, and how to type what is meant."""

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, get_args

from pydantic import ValidationError

from nanocnn.config.schema import Config, Section, is_named
from nanocnn.config.strict_yaml import inline, parse_yaml
from nanocnn.system.errors import UserError

# keys, and what they are called elsewhere
CALLED = {
    "optimizer.lr": "learning_rate base_lr init_lr initial_lr max_lr peak_lr lr0 eta",
    "optimizer.weight_decay": "wd decay l2",
    "optimizer.momentum": "mom",
    "optimizer": "opt optim optimiser",
    "train.batch_size": "b batch batchsize bs bsz minibatch train_batch_size",
    "train.epochs": "e ep num_epochs n_epochs nepochs max_epochs nb_epochs",
    "train.patience": "patience early_stopping early_stop early_stopping_patience",
    "train.clip_norm": "clip clip_grad grad_clip max_grad_norm gradient_clip gradient_clip_val",
    "train.accumulate": (
        "grad_accum accum_steps gradient_accumulation accumulate_grad_batches "
        "gradient_accumulation_steps"
    ),
    "train.ema": "model_ema ema_decay",
    "train.checkpoint_every": "save_every save_freq save_steps save_interval checkpoint_interval",
    "log.every": "log_every log_interval log_freq print_freq logging_steps",
    "schedule": "scheduler sched lr_scheduler lr_schedule",
    "schedule.warmup": "warmup_epochs warmup_steps warmup_ratio",
    "model": "arch architecture net network backbone",
    "model.dropout": "dropout drop drop_rate p_drop",
    "model.activation": "activation act",
    "model.hidden": "hidden hidden_size",
    "model.norm": "norm",
    "model.width": "width",
    "loss": "criterion loss_fn",
    "loss.label_smoothing": "smoothing ls",
    "data.dataset": "data ds",
    "data.root": "data data_dir data_path data_root dataset_path dataset_dir train_dir image_dir",
    "data.image_size": "img_size imgsz input_size resolution size crop_size",
    "data.validation": "val val_split val_size val_fraction validation_split valid_size",
    "data.augment.flip": "hflip horizontal_flip random_flip",
    "data.augment.rotate": "rotation random_rotation",
    "data.augment.random_resized_crop": "rrc resized_crop randomresizedcrop",
    "data.augment.trivial_augment": (
        "trivialaugment trivial_augment_wide auto_augment autoaugment rand_augment randaugment"
    ),
    "data.augment.erasing": "random_erasing random_erase reprob",
    "data.augment.until": "mixup_off_epoch close_mosaic",
    "data.augment": "augment aug augmentation augmentations transform transforms",
    "precision": "amp fp16 bf16 dtype mixed_precision half",
    "seed": "s random_seed manual_seed rng",
    "device": "gpus accelerator",
}
# values of keys, and what they are called elsewhere
VALUES = {
    "device": {"cuda": r"gpu|cuda:\d+|\d+(,\d+)*|true|all", "cpu": "false|none"},
    "precision": {
        "fp16": "16|half|float16|16-mixed|16-true",
        "bf16": "bfloat16|bf16-mixed|bf16-true",
        "fp32": "32|32-true|float|float32|full|single|false|no|none",
        "auto": "true|mixed|amp",
    },
    "optimizer": {"adamw": "adam_w"},
    "schedule": {
        "cosine": "cosineannealing.*|cosine_annealing|cos",
        "one_cycle": "onecycle.*|1cycle",
        "constant": "none|null",
        "multistep": "multi_step",
        "plateau": "reduce.*plateau",
    },
    "loss": {"cross_entropy": "ce|softmax|nll.*", "bce": "bcewithlogits.*|binary.*", "mse": "l2"},
}
# options and words that say key and value at once
SWITCHES = {
    "cpu no_cuda no_gpu": "device=cpu",
    "gpu gpus cuda use_cuda use_gpu": "device=cuda",
    "mps": "device=mps",
    "amp mixed mixed_precision use_amp": "precision=auto",
    "fp16 half float16": "precision=fp16",
    "bf16 bfloat16": "precision=bf16",
    "fp32 float32 no_amp": "precision=fp32",
    "no_ema": "train.ema=null",
    "no_augment no_aug": "data.augment={}",
    "no_val no_validation": "data.validation=0",
}
# a value for keys that are null without one
EXAMPLES = {
    "data.channels": "1",
    "data.image_size": "32",
    "data.value_range": "[0, 4095]",
    "data.limit": "1000",
    "data.augment": "{shift: 2}",
    "data.augment.shift": "2",
    "data.augment.elastic_sigma": "4.0",
    "loss.class_weights": "balanced",
    "model.init": "kaiming",
    "train.checkpoint_every": "60s",
    "train.clip_norm": "1.0",
    "train.ema": "0.999",
    "train.patience": "3",
    "train.overfit_batches": "1",
    "model.dropout": "0.5",
    "model.activation": "relu",
    "model.norm": "batch",
    "model.hidden": "[128]",
    "model.width": "0.5",
}
# keys of networks, which only those know, and one that takes them
OF_NETWORKS = {
    "model.dropout": "convnet",
    "model.activation": "convnet",
    "model.norm": "convnet",
    "model.hidden": "convnet",
    "model.width": "vgg11",
}
# what there is not, and why
WITHOUT = {
    "num_workers workers n_workers j nw pin_memory persistent_workers": (
        "batches are made in this process, without workers; leave it out"
    ),
    "num_classes n_classes nb_classes classes in_channels": "that comes from the images",
    "shuffle": "training images are always shuffled, others never",
}


def word_of(name: str) -> str:
    return name.rpartition(".")[2].lstrip("-").replace("-", "_").lower()


def all_keys() -> dict[str, Any]:
    """Every key in full with its type, of sections with a name too; but for those of networks."""
    return dict(keys_below(Config))


def keys_below(section: type[Section], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, field in section.model_fields.items():
        types = (field.annotation, *get_args(field.annotation))
        sections = [each for each in types if isinstance(each, type) and issubclass(each, Section)]
        if not sections or "name" in sections[0].model_fields:
            yield prefix + name, field.annotation
        for section_type in sections:
            yield from keys_below(section_type, f"{prefix}{name}.")


def meant_keys(name: str, guess: bool = False) -> list[str]:
    """The keys, in full, that `name` may mean: itself, by its last part, or as others call them.

    With `guess` also one that is spelled nearly so.
    """
    word, keys = word_of(name), all_keys()
    if name in keys:
        return [name]
    found = [key for key, words in CALLED.items() if word in words.split()]
    found = found or [key for key in keys if word_of(key) == word]
    if not found and guess:
        words = {word_of(key) for key in keys}.union(*(words.split() for words in CALLED.values()))
        nearest = get_close_matches(word, sorted(each for each in words if len(each) > 3), 1, 0.8)
        return meant_keys(nearest[0]) if nearest else []
    return found


def reason_without(name: str) -> str:
    """Why there is no key or option `name`; empty where that is not known."""
    return next((why for words, why in WITHOUT.items() if word_of(name) in words.split()), "")


def accepts(key: str, text: str) -> bool:
    """Whether `text` is a value that the key may have, whatever the other keys are."""
    from nanocnn.config.load import apply_override  # which stands on this file

    values: dict[str, Any] = {}
    try:
        # a name may have to come first, for its section to have the key
        for override in [*missing_names(key, {}), f"{key}={text}"]:
            apply_override(values, {}, override)
        if key == "model.hidden" and not isinstance(parse_yaml(text, key)[0], list):
            return False
        Config.model_validate(values)
    except UserError:
        return False
    except ValidationError as error:
        return not any(is_of_value(each, key) for each in error.errors())
    return True


def is_of_value(complaint: Any, key: str) -> bool:
    """Whether a complaint of pydantic's is of the value of `key` alone, not of several keys."""
    message = complaint["msg"].removeprefix("Value error, ")
    if complaint["type"] != "value_error":
        return True
    own = re.match(rf"{word_of(key)}\b", message) and "should" in message
    return bool(own) and "cannot act" not in message


def missing_names(key: str, names: Mapping[str, str]) -> list[str]:
    """The override, if one is needed, that gives a section a name which takes `key`.

    `names` are those that the sections have, of the default config where they are not told.
    """
    section, _, last = key.partition(".")
    field = Config.model_fields.get(section)
    if not last or field is None or not is_named(field):
        return []
    name = names.get(section, field.default.name)
    if section == "model":
        network = OF_NETWORKS.get(key)
        return [f"model={network}"] if network and name == field.default.name else []
    variants = [each for each in get_args(field.annotation) if last in each.model_fields]
    takers = [each.model_fields["name"].default for each in variants]
    return [f"{section}={takers[0]}"] if takers and name not in takers else []


def variants_of(key: str) -> list[str]:
    """The names or words that the key may have as its value; empty where it may have others."""
    annotation = all_keys().get(key)
    found = []
    for each in get_args(annotation):
        if isinstance(each, str):
            found.append(each)
        elif isinstance(each, type) and issubclass(each, Section) and "name" in each.model_fields:
            found.append(each.model_fields["name"].default)
    return [each for each in found if isinstance(each, str)]


def meant_value(key: str, text: str) -> str:
    """What is accepted as a value of `key` and `text` may mean; empty where there is nothing."""
    return next((each for each in (text, *other_spellings(key, text)) if accepts(key, each)), "")


def other_spellings(key: str, text: str) -> Iterator[str]:
    """What `text` may stand for, the likeliest first."""
    text = text.lower()
    switch = {"true": "yes|y|on|1", "false": "no|n|off|0"}
    for value, words in (*VALUES.get(key, {}).items(), *switch.items()):
        if re.fullmatch(words, text):
            yield value
    bare = {re.sub(r"[\W_]", "", each): each for each in variants_of(key)}  # CIFAR-10
    plain = re.sub(r"[\W_]", "", text)
    for each in (plain, re.sub(r"(loss|lr|optimizer|scheduler)$", "", plain)):
        if each in bare:
            yield bare[each]
    yield from (bare[each] for each in get_close_matches(plain, sorted(bare), 1, 0.75))
    if number := re.fullmatch(r"(\d+\.?\d*(?:e[-+]?\d\d?)?)(%?)", text):
        amount = float(number[1]) / (100 if number[2] else 1)
        yield f"{amount:.0f}" if amount.is_integer() else f"{amount:g}"
    if key == "name":
        yield re.sub(r"[^\w.-]+", "_", text).strip("_")
    yield f"[{text.strip('()[]')}]"


def example_of(key: str) -> str:
    """A value that `key` may have, for someone who has not given one."""
    if key in EXAMPLES:
        return EXAMPLES[key]
    section: Any = Config()
    *sections, last = key.split(".")
    for part in sections:
        section = getattr(section, part)
    if last not in type(section).model_fields:  # of another name
        taker = missing_names(key, {})[0].partition("=")[2]
        variants = get_args(Config.model_fields[sections[0]].annotation)
        section = next(each() for each in variants if each.model_fields["name"].default == taker)
    value = getattr(section, last)
    if isinstance(value, Section):
        return str(getattr(value, "name", "{}"))
    return "true" if value is False else inline(value)


def assignments(
    keys: Sequence[str], value: str | None, names: Mapping[str, str] | None = None
) -> str:
    """The overrides that give `value` to one of `keys`, in a config whose sections have `names`.

    Where `value` is nothing that a key takes, it is an example.
    """
    keys = [key for key in keys if value is None or meant_value(key, value)] or keys
    ready = [key for key in keys if not missing_names(key, names or {})]  # no name need be given
    shown, is_example = [], False
    for key in ready or keys:
        text = meant_value(key, value) if value else ""
        is_switch = bool in (all_keys().get(key), *get_args(all_keys().get(key)))
        is_example |= not text and not (is_switch and value is None)
        overrides = [*missing_names(key, names or {}), f"{key}={text or example_of(key)}"]
        shown.append(" ".join(map(shlex.quote, overrides)))
    return ("a value, such as " if is_example else "") + " or ".join(shown) if shown else ""
