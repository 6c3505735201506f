"""What someone may have meant by a word that is no key or option, and what to type instead."""

import shlex
from collections.abc import Collection, Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_args

from nanocnn.config.schema import Config, Section

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
    "precision": "amp fp16 bf16 dtype mixed_precision half",
    "seed": "s random_seed manual_seed rng",
    "device": "gpus accelerator",
}
# options of the scripts, and what they are called elsewhere
OPTIONS = {
    "--ckpt": "checkpoint weights load model resume run run_dir checkpoint_path model_path r m w",
    "--resume": "ckpt checkpoint weights load continue resume_from resume_from_checkpoint r",
    "--run-dir": "output output_dir outdir out save_dir logdir log_dir workdir work_dir exp run o",
    "--config": "c cfg conf yaml config_file config_path",
    "--json": "output out report o",
    "--data-root": "data data_dir data_path root dataset_path data.root",
    "--dry-run": "fast_dev_run dryrun dry check",
    "--print-config": "show_config cfg_job",
}
# what there is not, and why
WITHOUT = {
    "num_workers workers n_workers j nw pin_memory persistent_workers": (
        "batches are made in this process, without workers; leave it out"
    ),
    "num_classes n_classes nb_classes classes in_channels": "that comes from the images",
    "shuffle": "training images are always shuffled, others never",
}


DEVICES = {"cpu": "cpu", "no_cuda": "cpu", "no_gpu": "cpu", "gpu": "cuda", "cuda": "cuda"}


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


def instead_of_option(
    option: str, value: str | None, options: Collection[str], takes_keys: bool
) -> str:
    """What to type instead of `option`, which is not among `options`; empty if nobody knows."""
    word = word_of(option)
    alike = [each for each in options if word_of(each) == word]  # --dry_run
    others = [each for each, words in OPTIONS.items() if each in options and word in words.split()]
    nearest = get_close_matches(option, options, 1, 0.75)
    text = "" if value is None else f" {shlex.quote(value)}"
    run = run_folder_of(Path(value)) if value and "--resume" not in options else None
    if takes_keys and word in DEVICES:
        return f"device={DEVICES[word]}"
    if value and run and not alike:  # as an option of another script takes it
        if "--ckpt" in options:
            return f"--ckpt {shlex.quote(value if value.endswith('.pt') else str(run))}"
        return f"--config {shlex.quote(str(run / 'config.yaml'))}"
    if alike:
        return alike[0] + text
    section, _, last = option.lstrip("-").rpartition(".")
    if takes_keys and last == "name" and f"{section}.name" in all_keys():
        return assignments([section], value)
    if takes_keys and not section and word in all_keys():
        return assignments([word], value)
    if others:
        return others[0] + text
    if takes_keys and (keys := meant_keys(word)):
        return assignments(keys, value)
    if nearest:
        return nearest[0] + text
    return assignments(meant_keys(word, guess=True), value) if takes_keys else ""


def assignments(keys: list[str], value: str | None) -> str:
    """The overrides that give `value` to one of `keys`."""
    types = all_keys()
    shown = []
    for key in keys:
        is_switch = bool in (types.get(key), *get_args(types.get(key)))
        text = value if value is not None else "true" if is_switch else "VALUE"
        shown.append(shlex.quote(f"{key}={text}"))
    return " or ".join(shown)


def instead_of_argument(arguments: list[str], index: int, options: Collection[str]) -> str:
    """What to type instead of arguments[index], which is no key=value; empty if nobody knows."""
    word, before = arguments[index], "".join(arguments[index - 1 : index])
    following = "".join(arguments[index + 1 : index + 2])
    start = next((i for i in range(index) if is_open(" ".join(arguments[i:index]))), None)
    if start is not None:
        end = index + 1
        while end < len(arguments) and is_open(" ".join(arguments[start:end])):
            end += 1
        return f'"{" ".join(arguments[start:end])}", with the quotes'
    if before.endswith("="):
        return assignments(meant_keys(before[:-1]) or [before[:-1]], word)
    key, colon, text = word.partition(":")
    if colon and (keys := meant_keys(key)):
        return assignments(keys, text)
    if instead := instead_of_path(word, options):
        return instead
    if f"--{word}" in options:
        return f"--{word}"
    if following.startswith("="):
        following = following[1:] or "".join(arguments[index + 2 : index + 3])
    if keys := meant_keys(word):
        return assignments(keys, following or None)
    return ""


def is_open(text: str) -> bool:
    """Whether `text` is the begin of a key=value that a shell has cut at its blanks."""
    return "=" in text and (text.count("{") > text.count("}") or text.count("[") > text.count("]"))


def instead_of_stray(word: str, options: Collection[str], choices: Collection[str]) -> str:
    """What to type instead of `word` where a command takes options alone; `choices` are splits."""
    key, equals, value = word.partition("=")
    if equals:
        return instead_of_option(f"--{word_of(key)}", value, options, takes_keys=False)
    if word in choices:
        return f"--split {word}"
    if Path(word).exists():
        return f"--ckpt {shlex.quote(word)}"
    return f"--{word}" if f"--{word}" in options else "--ckpt RUN"


def instead_of_path(word: str, options: Collection[str]) -> str:
    """What to type for a config, a run or a folder of images; empty if `word` is none."""
    from nanocnn.config.load import locate_config  # which stands on this file

    path, name = Path(word), shlex.quote(word)
    run = run_folder_of(path)
    if run is not None:
        config = f"--config {shlex.quote(str(run / 'config.yaml'))}"
        if path.name == "config.yaml" or "--resume" not in options:
            return config
        return f"--resume {shlex.quote(str(run))} to go on with it, or {config} to repeat it"
    if locate_config(word):
        return f"--config {name}"
    if (path / "train").is_dir():
        return f"--config folder.yaml data.root={name}"
    if (path / "train.csv").is_file():
        return f"--config folder.yaml data.dataset=csv data.root={name}"
    return ""


def run_folder_of(path: Path) -> Path | None:
    """The run folder that `path` is, or is a file of; None if it is none."""
    folders = (path, path.parent) if path.exists() else ()
    return next((folder for folder in folders if is_run(folder)), None)


def is_run(folder: Path) -> bool:
    return (folder / "config.yaml").is_file() and (folder / "run.json").is_file()


def newest_run(folder: Path) -> Path | None:
    """The newest of the runs in `folder`, which is none itself; None where there is none."""
    runs = [path.parent for path in folder.glob("*/config.yaml") if is_run(path.parent)]
    return max(runs, key=lambda run: run.stat().st_mtime, default=None)
