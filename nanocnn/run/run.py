"""A run: its folder, and how far it has come."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm

from nanocnn.config.schema import Config
from nanocnn.evaluation.evaluate import Evaluation
from nanocnn.images.stream import StreamError
from nanocnn.images.training_data import TrainingData
from nanocnn.run.checkpoint import save_checkpoint
from nanocnn.run.ending import announce_end, interrupted, lower_rate, remarks_on, until_stopped
from nanocnn.run.pictures import Pictures
from nanocnn.run.progress import Due, Progress
from nanocnn.run.record import Record
from nanocnn.run.resume import Place
from nanocnn.run.rows import epoch_line
from nanocnn.run.start import announce, facts_of, warn_of_changes
from nanocnn.run.state import go_on, state_of
from nanocnn.run.together import Told, written
from nanocnn.system.errors import NonFiniteError
from nanocnn.system.signals import Stopped, handled
from nanocnn.system.startup import Laps
from nanocnn.training.learner import Learner, StepResult


class Run:
    """Training `learner` on `data` as `config` says, in a new folder or on from `place`.

    train.py shows its use. A run that goes on gives `learner` the state of its checkpoint, to the
    bit. Nothing is written before `open`, and `folder` is the run folder from then on. Raises
    UserError where the checkpoint and `data` or `learner` do not fit.
    """

    _record: Record
    _pictures: Pictures
    _bar: tqdm
    _due: Due

    def __init__(
        self,
        config: Config,
        data: TrainingData,
        learner: Learner,
        place: Place | None = None,
        laps: Laps | None = None,
    ):
        self._config, self._data = learner.computing.recorded_in(config), data
        self._learner, self._processes = learner, learner.computing.processes
        self._place, self._laps = place or Place(), laps or Laps()
        self._request = self._processes.stop_request()
        self._progress = Progress()
        self._validation: Evaluation | None = None  # the last
        self._saved: tuple[int, int, bool] | None = None  # the place in the run that last.pt holds
        if checkpoint := self._place.checkpoint:
            self._progress = go_on(checkpoint, data, learner)
            self._saved = self._progress.place
        self.folder = self._place.run_dir

    @property
    def done_in_epoch(self) -> int:
        """Steps done of the epoch that is to be trained next, or is in training."""
        return self._progress.step - self._progress.epoch * self._data.steps_per_epoch

    @property
    def val_losses(self) -> list[float]:
        """The validation loss of each epoch done."""
        return self._progress.val_losses

    @contextmanager
    def open(self) -> Iterator[None]:
        """While the run lasts: its folder, locked against other processes, its record, and signals.

        At the end last.pt is as far as training is. Raises UserError before anything is written,
        NonFiniteError when the loss or a weight is no longer a number, and Stopped after a signal
        that asks to stop, once there is a checkpoint to go on from or the run is finished.
        """
        config, place, progress = self._config, self._place, self._progress
        data, learner = self._data, self._learner
        facts = facts_of(config, data, learner.computing, self._laps, place)
        if self._processes.share.rank == 0:
            announce(config, data, learner.model)
        if place.run_dir and place.checkpoint:
            warn_of_changes(place.run_dir, facts)
        steps = config.train.epochs * data.steps_per_epoch
        self._laps("build")
        with (
            handled(self._request),  # from before the folder is there, so that none is left bare
            written(place, config, data, learner, facts, progress) as (folder, record),
            tqdm(total=steps, initial=progress.step, unit="step", disable=None, leave=False) as bar,
        ):
            self.folder, self._record, self._bar = folder, record, bar
            self._due = Due(config.train.checkpoint_every, self._processes.told)
            self._pictures = Pictures(record.curves, config, data, learner)
            try:
                yield
                self._save_rest()
                record.facts["remarks"] = said = self._processes.led(
                    "remarks", lambda: remarks_on(folder, data, learner, self._validation)
                )
            except NonFiniteError as error:
                raise NonFiniteError(f"{error}; {lower_rate(config, folder)}") from None
            except (Stopped, StreamError) as end:
                self._laps("training")
                if isinstance(end, Stopped) or self._processes.share.size == 1:
                    self._save_rest()  # else the others are elsewhere, and there is no step to save
                raise interrupted(end, folder, self._saved == progress.place) from None
        announce_end(progress, self._data.val is not None, said)
        try:
            self._processes.agree()
            self._request.check()
        except Stopped as late:  # for this run, but more may have been to follow
            raise Stopped(late.number, "the run is finished", code=0) from None

    def epochs(self) -> Iterator[int]:
        """The epochs to train, from 0 with train.fit_head, else from 1, until the end of the run or
        of its patience.
        """
        progress, patience = self._progress, self._config.train.patience
        if self._config.train.fit_head and progress.place == (0, 0, False):
            self._record.start_epoch(0)
            yield 0
        for epoch in range(progress.epoch + 1, self._config.train.epochs + 1):
            if progress.is_out_of(patience):
                self._bar.write(f"no better validation for {patience} epochs: it stops")
                break
            self._record.start_epoch(epoch, progress.partial if self.done_in_epoch else None)
            yield epoch

    def until_stopped(self, items: Iterable[Any], most: int | None = None) -> Iterator[Any]:
        """The items, at `most` so many; raises Stopped instead of the next once a signal came."""
        return until_stopped(self._request, items, most)

    def after_step(self, step: int, lr: float, result: StepResult) -> None:
        """Record a step (from 0) that `learner` made, and save last.pt if that is due."""
        progress = self._progress
        progress.step = step + 1
        self._record.update(progress.step, lr, result)
        self._bar.update()
        if self.done_in_epoch == self._data.steps_per_epoch:
            self._laps("training")
        elif self._due(progress.step):
            self._laps("training")
            self._save()

    def after_epoch(self, validation: Evaluation | None, fitted: StepResult | None = None) -> None:
        """Record an epoch and its validation, and save best.pt and last.pt where that is due.

        In epoch 0 the head was `fitted`.
        """
        self._laps("validation")
        self._validation = validation
        told = self._processes.led("an epoch's end", lambda: self._end_epoch(validation, fitted))
        vars(self._progress).update(told.progress)
        self._saved = told.saved
        if self._progress.epoch < self._config.train.epochs:
            self._processes.agree()
            self._request.check()

    def _end_epoch(self, validation: Evaluation | None, fitted: StepResult | None) -> Told:
        if fitted:
            self._record.end_interval(fitted)
        epochs = self._config.train.epochs
        self._bar.write(epoch_line(self._record.end_epoch(validation), epochs))
        # best.pt before last.pt, which says that it is there
        progress = self._progress
        end = progress.end_head if fitted else progress.end_epoch
        names = ["best.pt"] if end(validation) else []
        if self._due(progress.step, epoch_is_over=True):
            names.append("last.pt")
        if names:
            self._write(*names)
        is_last = progress.epoch >= epochs or progress.is_out_of(self._config.train.patience)
        self._pictures.draw(progress, validation, is_last)
        self._laps("pictures")
        return Told.of(progress, self._saved)

    def _save_rest(self) -> None:
        """Save last.pt if it is not as far as training is."""
        if self._saved != self._progress.place:
            self._save()

    def _save(self) -> None:
        self._processes.led("a checkpoint", lambda: self._write("last.pt"))
        self._saved = self._progress.place

    def _write(self, *names: str) -> None:
        progress = self._progress
        progress.partial = self._record.partial() if self.done_in_epoch > 0 else None
        checkpoint = state_of(self._config, self._data, self._learner, progress)
        self._record.check_state(checkpoint)
        self._record.flush()
        assert self.folder is not None
        save_checkpoint(self.folder, names, checkpoint)
        if "last.pt" in names:
            self._saved = progress.place
        self._laps("saving")
