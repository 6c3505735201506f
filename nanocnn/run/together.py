"""A run of several processes: process 0 alone has its folder and decides, the others follow it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Self

from nanocnn.config.schema import Config, to_yaml
from nanocnn.images.training_data import TrainingData
from nanocnn.networks.build import Networks
from nanocnn.run.curves import Curves
from nanocnn.run.folder import is_of_launch, locked, rewrite_config
from nanocnn.run.origin import keep_data
from nanocnn.run.progress import Progress
from nanocnn.run.record import Record
from nanocnn.run.resume import Asked, Place, how_it_ended, is_of, resume_newest, resume_run
from nanocnn.run.start import announce_place, prepare_folder
from nanocnn.run.sums import Sums
from nanocnn.system.launch import Launch
from nanocnn.system.version import __version__
from nanocnn.training.learner import Learner
from nanocnn.training.processes import current


class NoCurves(Curves):
    def __init__(self) -> None:
        self.writer = None


class Shadow(Record):
    """What other processes have for a record: they check what it checks, and write nothing."""

    def __init__(self, run_dir: Path, every: int, steps_per_epoch: int, progress: Progress):
        self.run_dir, self.facts, self.progress = run_dir, {}, progress
        self.every, self.steps_per_epoch = every, steps_per_epoch
        self.curves = NoCurves()
        self.epoch, self.training_seconds = progress.epoch, 0.0
        self.sums, self.interval = Sums(), Sums()
        self.last_lr = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def check_folder(self) -> None:
        pass


@contextmanager
def written(
    place: Place,
    config: Config,
    data: TrainingData,
    learner: Learner,
    facts: dict[str, Any],
    progress: Progress,
) -> Iterator[tuple[Path, Record]]:
    """The folder of a run, locked against other processes, and its record.

    Only process 0 writes to it; it tells the others its name. Raises UserError before anything is
    written, where the processes do not have the same config, images and versions too.
    """
    processes = learner.computing.processes
    processes.check_same(
        {
            "config": to_yaml(config),
            "checksum of the images": data.sha256,
            "precision": facts["precision"],
            "version of nanocnn": __version__,
            "version of torch": facts["versions"]["torch"],
        }
    )
    if processes.share.rank > 0:
        folder = processes.led("the run folder", Path)
        with Shadow(folder, config.log.every, data.steps_per_epoch, progress) as shadow:
            yield folder, shadow
        return
    with (
        locked(prepare_folder(place, config, learner.model)) as folder,
        Record(folder, config.log.every, data.steps_per_epoch, facts, progress) as record,
    ):
        announce_place(folder, facts)
        if place.checkpoint:
            steps = config.train.epochs * data.steps_per_epoch
            print(f"resuming after step {progress.step:,} of {steps:,}")
        if place.is_begun:
            rewrite_config(config, folder)
        keep_data(folder, config, data, is_new=not place.checkpoint)
        processes.led("the run folder", lambda: folder)
        yield folder, record


class Told(NamedTuple):
    """What process 0 tells of an epoch that it has ended."""

    progress: dict[str, Any]
    saved: tuple[int, int, bool] | None

    @classmethod
    def of(cls, progress: Progress, saved: tuple[int, int, bool] | None) -> "Told":
        return cls(vars(progress), saved)


def chosen_place(asked: Asked, config: Config, networks: Networks) -> tuple[Place, str]:
    """Where the run goes, and what has ended it if it is finished; chosen by process 0.

    Where torchrun was given an id, the unfinished run of this config that began under it goes on.
    """

    def choose() -> tuple[Place, str]:
        place = Place(asked.run_dir)
        if asked.resume not in (None, "auto"):
            place = resume_run(Path(asked.resume), config, networks)
        elif asked.resume:
            place = resume_newest(config, asked.run_dir, networks) or place
        else:
            place = of_launch(asked.run_dir, config, networks) or place
        return place, how_it_ended(place, config)

    return current().led("which run it is", choose)


def of_launch(run_dir: Path | None, config: Config, networks: Networks) -> Place | None:
    """The unfinished run of `config` that torchrun began under the same id, None without one."""
    launch = Launch.of_environment()
    if not launch or not launch.run_id:
        return None
    folders = [run_dir] if run_dir else sorted((Path("runs") / config.name).glob("*/"))
    for folder in reversed(folders):
        if is_of_launch(folder, launch.run_id) and is_of(folder, config, networks):
            return resume_newest(config, folder, networks)
    return None
