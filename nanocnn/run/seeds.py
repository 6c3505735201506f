"""Several runs that differ in their seed alone, and what they come to."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from nanocnn.config.schema import Config
from nanocnn.evaluation.metrics import mean_of_seeds
from nanocnn.networks.build import Networks
from nanocnn.run.checkpoint import load_checkpoint
from nanocnn.run.folder import create_seeds_dir, remove_empty
from nanocnn.run.resume import Place, how_it_ended, resume_newest
from nanocnn.system.errors import UserError
from nanocnn.system.output import quoted
from nanocnn.system.signals import Stopped, cleaned_up, exit_at_once, handled


def train_seeds(
    train: Callable[[Config, Place], Path],
    config: Config,
    seeds: int,
    run_dir: Path | None,
    again: bool,
    networks: Networks,
) -> Path:
    """`train` for each of `seeds` seeds, in run_dir/seed_0 and so on, and their mean.

    With `again` finished runs stay, and unfinished ones go on. Returns the folder of them all.
    """
    if config.seed + seeds > 2**63:
        raise UserError(f"--seeds {seeds}: seeds from {config.seed} on would be too large")
    run_dir, made = create_seeds_dir(config, run_dir, again)
    name = quoted(run_dir)
    note = f"the same command with --run-dir {name} --resume auto goes on"
    accuracies = []
    try:
        with handled(partial(exit_at_once, note=note)), cleaned_up(lambda: remove_empty(made)):
            for seed in range(config.seed, config.seed + seeds):
                one, folder = config.model_copy(update={"seed": seed}), run_dir / f"seed_{seed}"
                place = resume_newest(one, folder, networks) if again else None
                print(f"seed {seed}: {folder}")
                if not (place and how_it_ended(place, one)):
                    train(one, place or Place(folder))
                best = load_checkpoint(folder / "best.pt")
                accuracies.append(best["validation"]["accuracy"])
    except Stopped as stop:
        raise Stopped(stop.number, note) from None
    except UserError:
        remove_empty(made)  # unless it was not the first
        raise
    if None not in accuracies:
        print(f"validation accuracy of {seeds} seeds: {mean_of_seeds(accuracies)}")
    return run_dir
