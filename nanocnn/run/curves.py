"""TensorBoard's curves of a run."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class Curves:
    """TensorBoard's event files. What cannot be drawn is said once: curves are not worth a run.

    That holds for whatever goes wrong. Packages that do not fit together raise anything; and a disk
    that is full refuses the checkpoint too, which does end the run.
    """

    def __init__(self, run_dir: Path, step: int):
        """`step` is the last one done: points beyond it, of a run that broke off, are hidden."""
        self.writer: Any = None
        with self.or_give_up():
            from torch.utils.tensorboard import SummaryWriter

            self.writer = SummaryWriter(str(run_dir), purge_step=step + 1)

    def add(self, step: int, values: dict[str, float]) -> None:
        """Add a point to each curve of `values`."""
        if self.writer:
            with self.or_give_up():
                for tag, value in values.items():
                    self.writer.add_scalar(tag, value, step)
                # its thread opens the file by name, which may be another one's a little later
                self.writer.flush()

    def flush(self) -> None:
        if self.writer:
            with self.or_give_up():
                self.writer.flush()

    def close(self) -> None:
        self.flush()  # which raises where closing would wait for a thread that is no more
        if self.writer:
            with self.or_give_up():
                self.writer.close()

    @contextmanager
    def or_give_up(self) -> Iterator[None]:
        try:
            yield
        except (Exception, SystemExit) as error:  # noqa: BLE001  see above
            self.writer = None
            why = f"{type(error).__name__}: {' '.join(str(error).split())}"
            print(f"warning: no TensorBoard curves from here on: {why}", file=sys.stderr)
