"""Which run to go on with, and whether it may go on under a config."""

from pathlib import Path
from typing import Any, NamedTuple

from config import Config
from configure import load_config
from errors import UserError
from run_dir import locked, read_facts

# where a run computes and reads, not what: these may be others when it goes on
FREE = {"device", "data.root", "data.memory_limit"}


class Resume(NamedTuple):
    """A run to go on with; without a checkpoint it begins anew in its folder."""

    run_dir: Path
    checkpoint: dict[str, Any] | None


def config_of(run_dir: Path) -> Path:
    """The config of the run in `run_dir`. Raises UserError where there is no run."""
    if not (run_dir / "config.yaml").is_file():
        what = "holds no run (no config.yaml)" if run_dir.is_dir() else "no such run folder"
        raise UserError(f"--resume {run_dir}: {what}; allowed is a run folder, or auto")
    return run_dir / "config.yaml"


def resume_run(run_dir: Path, config: Config) -> Resume:
    """The run in `run_dir`, to go on with under `config`.

    Raises UserError where there is no good checkpoint, or where `config` differs in more than `device`,
    `data.root`, `data.memory_limit` and more epochs.
    """
    from checkpoint import load_newest, parse_config

    path, checkpoint = load_newest(run_dir)
    before = parse_config(path, checkpoint)
    different = differences(before, config)
    if config.train.epochs > before.train.epochs:
        different.pop("train.epochs", None)
    if different:
        listed = ", ".join(
            f"{key} ({old} there, {new} here)" for key, (old, new) in different.items()
        )
        raise UserError(
            f"--resume {run_dir}: a run goes on with its own config; different are {listed}; "
            "allowed are more train.epochs, another device, data.root or data.memory_limit"
        )
    return Resume(run_dir, checkpoint)


def resume_newest(config: Config, run_dir: Path | None) -> Resume | None:
    """The newest unfinished run of `config` that no process trains, None where there is none.

    With a `run_dir` only that folder counts; a run there that was ended before its first checkpoint begins anew.
    """
    if run_dir is not None:
        if not run_dir.is_dir() or not any(run_dir.iterdir()):
            return None
        if any((run_dir / name).exists() for name in ("last.pt", "previous.pt")):
            return resume_run(run_dir, config)
        if not is_of(run_dir, config):
            raise UserError(f"--run-dir {run_dir}: holds something else than a run of this config")
        return Resume(run_dir, None)
    runs = [path.parent for path in (Path("runs") / config.name).glob("*/last.pt")]
    for candidate in sorted(runs, key=lambda run: (run / "last.pt").stat().st_mtime, reverse=True):
        finished = read_facts(candidate).get("exit_reason") == "finished"
        if finished or not is_of(candidate, config):
            continue
        try:
            with locked(candidate):
                pass
        except UserError:
            continue  # it is being trained
        return resume_run(candidate, config)
    return None


def is_finished(resume: Resume, config: Config) -> bool:
    """Whether the run came to its end and `config` asks for no more epochs."""
    return (
        read_facts(resume.run_dir).get("exit_reason") == "finished"
        and resume.checkpoint is not None
        and resume.checkpoint["epoch"] == config.train.epochs
    )


def is_of(run_dir: Path, config: Config) -> bool:
    try:
        return not differences(load_config(run_dir / "config.yaml"), config)
    except UserError:
        return False  # of another version of this project, or no run


def differences(before: Config, after: Config) -> dict[str, tuple[Any, Any]]:
    """The keys of which two configs have different values, but for those that may."""
    old, new = (flat(config.model_dump(mode="json")) for config in (before, after))
    keys = [key for key in old | new if old.get(key) != new.get(key) and key not in FREE]
    return {key: (old.get(key), new.get(key)) for key in keys}


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted keys and their values."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= (
            flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
        )
    return found
