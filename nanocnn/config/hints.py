"""What someone may have meant by a word that is no key or option, and what to type instead."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import NamedTuple

from nanocnn.config.spelling import (
    SWITCHES,
    accepts,
    all_keys,
    assignments,
    meant_keys,
    meant_value,
    variants_of,
    word_of,
)
from nanocnn.system.errors import UserError
from nanocnn.system.output import in_shell

# options of the scripts, and what they are called elsewhere
OPTIONS = {
    "--ckpt": "checkpoint weights load model resume run run_dir checkpoint_path model_path r m w",
    "--resume": "ckpt checkpoint weights load continue resume_from resume_from_checkpoint r",
    "--run-dir": "output output_dir outdir out save_dir logdir log_dir workdir work_dir exp run o",
    "--config": "c cfg conf yaml config_file config_path",
    "--json": "output out results o",
    "--predictions": "preds predict prediction csv submission",
    "--data-root": "data data_dir data_path root dataset_path data.root",
    "--dry-run": "fast_dev_run dryrun dry check",
    "--print-config": "show_config cfg_job",
    "--split": "subset phase partition",
}
# options that take a value, and one for someone who has given none
TAKES = {
    "--ckpt": "",  # the newest run
    "--resume": "auto",
    "--run-dir": "runs/mine",
    "--config": "digits.yaml",
    "--seeds": "3",
    "--json": "report.json",
    "--predictions": "predictions.csv",
    "--data-root": "data",
    "--split": "val",
    "--device": "cpu",
    "--batch-size": "128",
    "--model": "model.py",
    "--from": "1e-5",
    "--to": "10",
    "--steps": "200",
    "--layer": "features.0",
    "--images": "5000",
    "--out": "looked",
}
SPLITS = {"val": "val valid validation dev eval", "train": "train training", "test": "test testing"}


class Given(NamedTuple):
    """What a command that was not understood was given, and what it understands."""

    options: Collection[str]
    names: Mapping[str, str] | None  # of its config's sections; None where it takes no keys


def split_of(word: str) -> str:
    return next((each for each, words in SPLITS.items() if word_of(word) in words.split()), "")


def with_value(option: str, value: str | None) -> str:
    """`option` as one types it with `value`; empty where that cannot be its value."""
    if option not in TAKES:
        return option
    if value is None:
        return f"{option} {TAKES[option]}".strip()
    if option == "--resume" and Path(value).exists():
        run = run_folder_of(Path(value))
        return f"--resume {in_shell(run)}" if run else seeds_again(Path(value))
    if option == "--ckpt" and Path(value).exists():
        return checkpoint_option(Path(value))
    if option == "--device":
        value = meant_value("device", value) or "cpu"
    if option == "--split":
        value = split_of(value) or value
    return f"{option} {in_shell(value)}"


def instead_of_option(option: str, values: Sequence[str], given: Given) -> str:
    """What to type instead of `option`, which `given` has not; empty if nobody knows."""
    return next(filter(None, ways_to_say(option, values, given)), "")


def ways_to_say(option: str, values: Sequence[str], given: Given) -> Iterator[str]:
    """What `option`, followed by `values`, may have meant, the likeliest first."""
    options, names = given
    word, value = word_of(option), values[0] if values else None
    section, _, last = option.lstrip("-").rpartition(".")
    alike = [each for each in options if word_of(each) == word]  # --dry_run
    called = [each for each, words in OPTIONS.items() if each in options and word in words.split()]

    def keys_with_value(keys: Sequence[str]) -> str:
        whole = ",".join(values)  # of a list
        is_list = len(values) > 1 and any(accepts(key, f"[{whole}]") for key in keys)
        return assignments(keys, f"[{whole}]" if is_list else value, names)

    if names is not None:
        yield switched(word, value)
    elif "--device" in options and (word == "device" or "device=" in switched(word, value)):
        yield with_value("--device", switched(word, value).partition("=")[2] or value)
    if value and not alike and run_folder_of(Path(value)):  # as another script takes it
        runs = (each for each in ("--resume", "--ckpt", "--config") if each in options)
        yield with_run(next(runs, ""), value)
    yield from (with_value(each, value) for each in alike)
    if names is not None and last == "name" and f"{section}.name" in all_keys():
        yield keys_with_value([section])
    if names is not None and not section and word in all_keys():
        yield keys_with_value([word])
    if "--split" in options and not value and split_of(word):
        yield f"--split {split_of(word)}"
    if value and names is not None and "data.root" in meant_keys(word):
        yield instead_of_path(value, options)
    yield from (with_value(each, value) for each in called)
    if names is not None:
        yield keys_with_value(meant_keys(word))
    yield from (with_value(each, value) for each in get_close_matches(option, options, 1, 0.75))
    if names is not None:
        yield keys_with_value(meant_keys(word, guess=True))


def switched(word: str, value: str | None = None) -> str:
    """The override that `word` says alone, such as gpu or adam; empty if it says none."""
    found = next((say for words, say in SWITCHES.items() if word in words.split()), "")
    if found:
        key, _, usual = found.partition("=")
        is_no = word.startswith("no_") or word == usual
        return f"{key}={usual if is_no or not value else meant_value(key, value) or usual}"
    sections = ("optimizer", "schedule")
    return next((f"{key}={word}" for key in sections if word in variants_of(key)), "")


def with_run(option: str, value: str) -> str:
    """`option` for the run that `value` is, or is a file of."""
    if option == "--config":
        run = run_folder_of(Path(value))
        return f"--config {in_shell(run / 'config.yaml')}" if run else ""
    return with_value(option, value) if option else ""


def instead_of_argument(arguments: list[str], index: int, given: Given) -> str:
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
        return assignments(meant_keys(before[:-1]) or [before[:-1]], word, given.names)
    key, colon, text = word.partition(":")
    if colon and (keys := meant_keys(key)):
        return assignments(keys, text, given.names)
    if instead := instead_of_path(word, given.options) or switched(word):
        return instead
    if f"--{word}" in given.options:
        return with_value(f"--{word}", following or None)
    if following.startswith("="):
        following = following[1:] or "".join(arguments[index + 2 : index + 3])
    if keys := meant_keys(word):
        return assignments(keys, following or None, given.names)
    return ""


def is_open(text: str) -> bool:
    """Whether `text` is the begin of a key=value that a shell has cut at its blanks."""
    return "=" in text and (text.count("{") > text.count("}") or text.count("[") > text.count("]"))


def instead_of_stray(word: str, options: Collection[str], choices: Collection[str]) -> str:
    """What to type instead of `word` where a command takes options alone; `choices` are splits."""
    key, equals, value = word.partition("=")
    if equals:
        return instead_of_option(f"--{word_of(key)}", [value], Given(options, None))
    if split_of(word) in choices:
        return f"--split {split_of(word)}"
    if Path(word).exists():
        return checkpoint_option(Path(word))
    return with_value(f"--{word}", None) if f"--{word}" in options else ""


def instead_of_path(word: str, options: Collection[str]) -> str:
    """What to type for a config, a run or a folder of images; empty if `word` is none."""
    from nanocnn.config.load import locate_config  # which stands on this file

    path, name = Path(word), in_shell(word)
    run = run_folder_of(path)
    if run is not None:
        config = f"--config {in_shell(run / 'config.yaml')}"
        if path.name == "config.yaml" or "--resume" not in options:
            return config
        return f"--resume {in_shell(run)} to go on with it, or {config} to repeat it"
    if "--resume" in options and path.is_dir() and (again := seeds_again(path)):
        return again
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


def newest_run(folder: Path, holding: str) -> Path | None:
    """The newest of the runs in `folder` that have a file `holding`; None where there is none."""
    runs = [path.parent for path in folder.glob(f"*/{holding}") if is_run(path.parent)]
    return max(runs, key=lambda run: run.stat().st_mtime, default=None)


def seeds_again(folder: Path) -> str:
    """The options that go on with what --seeds made in `folder`; empty where it made nothing."""
    runs = [path.parent for path in folder.glob("seed_*/config.yaml")]
    seeds = {int(run.name[5:]): run for run in runs if run.name[5:].isdecimal()}
    if not seeds:
        return ""
    first, last = min(seeds), max(seeds)
    return (
        f"--config {in_shell(seeds[first] / 'config.yaml')} --seeds {max(2, last - first + 1)} "
        f"--run-dir {in_shell(folder)} --resume auto"
    )


def checkpoint_option(path: Path) -> str:
    """The --ckpt that judges what lies at `path`; empty where there is no checkpoint."""
    if path.is_file() and path.suffix == ".pt":
        return f"--ckpt {in_shell(path)}"
    if any(path.glob("seed_*/best.pt")):
        return f"--ckpt {in_shell(path)}"
    folder = run_folder_of(path) or path
    if (folder / "best.pt").is_file():
        return f"--ckpt {in_shell(folder)}"
    files = (folder / name for name in ("last.pt", "previous.pt"))
    if file := next((file for file in files if file.is_file()), None):
        return f"--ckpt {in_shell(file)}"
    newest = newest_run(path, "best.pt") if path.is_dir() else None
    return f"--ckpt {in_shell(newest)}" if newest else ""


def section_names(config: str | None, overrides: Sequence[str]) -> dict[str, str]:
    """The names that the sections of a config have; fewer where it is not a good one."""
    from nanocnn.config.load import find_config, read_values  # which stand on this file

    try:
        values, _ = read_values(find_config(config or "digits.yaml"), overrides)
    except UserError:
        return {} if not overrides else section_names(config, ())
    sections = {key: value for key, value in values.items() if isinstance(value, dict)}
    names = {key: value.get("name") for key, value in sections.items()}
    return {key: name for key, name in names.items() if isinstance(name, str)}
