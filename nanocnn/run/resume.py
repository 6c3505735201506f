"""Which run to go on with, and whether it may go on under a config."""

from pathlib import Path
from typing import Any, NamedTuple

from nanocnn.config.load import load_config
from nanocnn.config.schema import Config, leaves
from nanocnn.networks.build import Networks
from nanocnn.run.best import check_best
from nanocnn.run.checkpoint import SEMANTICS, load_newest
from nanocnn.run.folder import locked, read_facts
from nanocnn.run.progress import progress_of
from nanocnn.run.restore import came_to, parse_config
from nanocnn.system.errors import UserError
from nanocnn.system.output import in_shell
from nanocnn.system.version import __version__

# where a run computes and reads, and how often it writes: what may be another when it goes on
FREE = {"device", "data.root", "log.every", "log.pictures", "train.checkpoint_every"}
FREE |= {"data.memory_limit", "data.cache", "data.cache_limit"}


class Place(NamedTuple):
    """Where a run goes: a new folder, or the folder and the checkpoint of one to go on with.

    Without `run_dir` the new folder is runs/<name>/<time>. A run that `is_begun` but has no
    checkpoint begins anew in its folder.
    """

    run_dir: Path | None = None
    checkpoint: dict[str, Any] | None = None
    is_begun: bool = False


class Asked(NamedTuple):
    """Which run the command line asks for: a new folder, a run to go on with, or "auto"."""

    run_dir: Path | None
    resume: str | None


def resume_run(run_dir: Path, config: Config, networks: Networks) -> Place:
    """The run in `run_dir`, to go on with under `config`.

    Raises UserError where there is no good checkpoint, where `config` differs in more than FREE and
    more epochs, or where an earlier version understood something in it otherwise.
    """
    path, checkpoint = load_newest(run_dir)
    before = parse_config(path, checkpoint, networks)
    different = differences(before, config)
    if config.train.epochs > before.train.epochs:
        different.pop("train.epochs", None)
    for key, of_earlier in (("background", "black"), ("shrink", False)):
        is_earlier = key not in checkpoint["config"].get("data", {})
        came_to = checkpoint["data"].get(key, of_earlier)
        asked = getattr(config.data, key)
        if asked == came_to or (is_earlier and asked == "auto"):
            different.pop(f"data.{key}", None)  # what auto comes to, check_images compares
    if is_longer(config.train.patience, before.train.patience):
        different.pop("train.patience", None)
    if different:
        listed = ", ".join(
            f"{key} ({old} there, {new} here)" for key, (old, new) in different.items()
        )
        raise UserError(
            f"--resume {run_dir}: a run goes on with its own config; different are {listed}; "
            "allowed are more train.epochs, a larger train.patience, and another "
            f"{', '.join(sorted(FREE))}"
        )
    folder = config.data.own_folder
    if folder and not Path(folder).is_dir():
        raise UserError(
            f"--resume {run_dir}: {folder}: no such folder; if the images have moved, type "
            "data.root=DIR"
        )
    place = Place(run_dir, checkpoint, is_begun=True)
    if (changed := changes_since(checkpoint, before)) and not how_it_ended(place, config):
        raise UserError(
            f"--resume {run_dir}: begun by version {checkpoint.get('version', '0.1.0')}, whose "
            f"{' and '.join(changed)} differs from this version's ({__version__}); "
            "finish it with that version, or begin anew"
        )
    return place._replace(checkpoint=check_best(path, checkpoint, config.train.epochs))


def resume_newest(config: Config, run_dir: Path | None, networks: Networks) -> Place | None:
    """The newest unfinished run of `config` that no process trains, None where there is none.

    With a `run_dir` only that folder counts; a run there that was ended before its first checkpoint
    begins anew.
    """
    if run_dir is not None:
        if not run_dir.is_dir() or not any(run_dir.iterdir()):
            return None
        if any((run_dir / name).exists() for name in ("last.pt", "previous.pt")):
            return resume_run(run_dir, config, networks)
        if not is_of(run_dir, config, networks):
            raise UserError(f"--run-dir {run_dir}: holds something else than a run of this config")
        return Place(run_dir, is_begun=True)
    runs = [path.parent for path in (Path("runs") / config.name).glob("*/last.pt")]
    for candidate in sorted(runs, key=lambda run: (run / "last.pt").stat().st_mtime, reverse=True):
        finished = read_facts(candidate).get("exit_reason") == "finished"
        if finished or not is_of(candidate, config, networks):
            continue
        try:
            with locked(candidate):
                pass
        except UserError:
            continue  # it is being trained
        return resume_run(candidate, config, networks)
    return None


def as_begun(config: Config, checkpoint: dict[str, Any] | None) -> Config:
    """`config` with the precision that the run of `checkpoint` began with."""
    if not checkpoint or config.precision != "auto":
        return config
    return config.model_copy(update={"precision": came_to(checkpoint["config"])})


def is_longer(patience: int | None, before: int | None) -> bool:
    """Whether a run with `before` comes to the same place as one with this `patience`."""
    return before is not None and (patience is None or patience > before)


def how_it_ended(place: Place, config: Config) -> str:
    """What ended the run; empty where it has not ended, or `config` asks for more of it."""
    if place.run_dir is None or place.checkpoint is None:
        return ""
    if read_facts(place.run_dir).get("exit_reason") != "finished":
        return ""
    progress, epochs, patience = (
        progress_of(place.checkpoint),
        config.train.epochs,
        config.train.patience,
    )
    if progress.epoch >= epochs:
        return f"finished, {epochs} epochs; nothing to do"
    if patience is None or not progress.is_out_of(patience):
        return ""
    ended = (
        f"finished, no better validation for {patience} epochs after epoch {progress.best_epoch} "
        f"of {epochs}; nothing to do"
    )
    if changes_since(place.checkpoint, config):
        return ended
    more = 2 * patience if 2 * patience < epochs else "null"
    command = f"python train.py --resume {in_shell(place.run_dir)} train.patience={more}"
    return f"{ended} ({command} goes on)"


def is_of(run_dir: Path, config: Config, networks: Networks) -> bool:
    try:
        return not differences(load_config(run_dir / "config.yaml", networks=networks), config)
    except UserError:
        return False  # of another version of this project, or no run


def changes_since(checkpoint: dict[str, Any], config: Config) -> list[str]:
    """The keys of `config` that trained otherwise in the version that wrote `checkpoint`."""
    semantics = checkpoint.get("semantics", 1)
    if semantics > SEMANTICS:
        return ["training"]  # that of a later version, of which nothing is known here
    if semantics == SEMANTICS:
        return []
    since_1 = {
        "loss.class_weights": getattr(config.loss, "class_weights", None) is not None,
        # rounded otherwise
        "loss.label_smoothing": getattr(config.loss, "label_smoothing", 0) > 0,
        "loss.name": config.loss.name != "cross_entropy",
        "data.augment": config.data.augment.mixes,
        "train.accumulate": config.train.accumulate > 1,
        "schedule": config.schedule.name == "plateau",  # the validation loss that it goes by
        "optimizer": config.optimizer.name == "muon",
    }
    since_2 = {
        # normalised, resized and cut out otherwise
        "model.pretrained": bool(getattr(config.model, "pretrained", False)),
        "train.ema": config.train.ema is not None,
        "train.overfit_batches": config.train.overfit_batches is not None
        and getattr(config.loss, "class_weights", None) == "balanced",
        # weights of mixed labels were rounded to the precision
        "loss.class_weights": getattr(config.loss, "class_weights", None) is not None
        and config.data.augment.mixes
        and config.precision not in ("auto", "fp32"),
        # which of them were held out, or left by the limit
        "data.skip_unreadable": config.data.skip_unreadable
        and (config.data.validation > 0 or config.data.limit is not None),
    }
    acts = since_2 | (since_1 if semantics < 2 else {})
    return [key for key, is_changed in acts.items() if is_changed]


def differences(before: Config, after: Config) -> dict[str, tuple[Any, Any]]:
    """The keys of which two configs have different values, but for those that may."""
    old, new = (leaves(config) for config in (before, after))
    may = FREE | ({"precision"} if after.precision == "auto" else set())  # then as it began
    keys = [key for key in old | new if old.get(key) != new.get(key) and key not in may]
    return {key: (old.get(key), new.get(key)) for key in keys}
