"""Several runs that differ in their seed alone, and what they come to."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from nanocnn.config.schema import Config
from nanocnn.evaluation.metrics import mean_of_seeds
from nanocnn.networks.build import Networks
from nanocnn.run.checkpoint import load_checkpoint
from nanocnn.run.folder import create_seeds_dir, remove_empty
from nanocnn.run.resume import Asked, Place
from nanocnn.run.together import chosen_place
from nanocnn.system.errors import UserError
from nanocnn.system.output import in_shell
from nanocnn.system.signals import Stopped, cleaned_up, exit_at_once, handled
from nanocnn.training.processes import current


def train_seeds(
    train: Callable[[Config, Place], Path],
    config: Config,
    seeds: int,
    asked: Asked,
    networks: Networks,
) -> Path:
    """`train` for each of `seeds` seeds, in run_dir/seed_0 and so on, and their mean.

    With --resume auto finished runs stay, and unfinished ones go on. Returns the folder of them
    all. Of several processes the first one chooses folders and reads results.
    """
    if config.seed + seeds > 2**63:
        raise UserError(f"--seeds {seeds}: seeds from {config.seed} on would be too large")
    processes, again = current(), asked.resume == "auto"
    run_dir, made = processes.led(
        "the folder of the seeds", lambda: create_seeds_dir(config, asked.run_dir, again)
    )
    name = in_shell(run_dir)
    note = f"the same command with --run-dir {name} --resume auto goes on"
    accuracies: list[Any] = []
    try:
        with handled(partial(exit_at_once, note=note)), cleaned_up(lambda: remove_empty(made)):
            for seed in range(config.seed, config.seed + seeds):
                one, folder = config.model_copy(update={"seed": seed}), run_dir / f"seed_{seed}"
                print(f"seed {seed}: {folder}")
                this = Asked(folder, "auto" if again else None)
                place, ended = chosen_place(this, one, networks)
                if not ended:
                    train(one, place)
                accuracies.append(processes.led("a seed's result", partial(accuracy_of, folder)))
    except Stopped as stop:
        raise Stopped(stop.number, note) from None
    except UserError:
        remove_empty(made)  # unless it was not the first
        raise
    if None not in accuracies:
        print(f"validation accuracy of {seeds} seeds: {mean_of_seeds(accuracies)}")
    return run_dir


def accuracy_of(run_dir: Path) -> float | None:
    """That of the validation of best.pt; None without validation images."""
    accuracy: float | None = load_checkpoint(run_dir / "best.pt")["validation"]["accuracy"]
    return accuracy
