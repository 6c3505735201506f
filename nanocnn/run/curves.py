"""TensorBoard's curves of a run."""

import sys
from pathlib import Path
from typing import Any


class Curves:
    """TensorBoard's event files. What cannot be drawn is said once: curves are not worth a run."""

    def __init__(self, run_dir: Path, step: int):
        """`step` is the last one done: points beyond it, of a run that broke off, are hidden."""
        self.writer: Any = None
        try:
            from torch.utils.tensorboard import SummaryWriter

            self.writer = SummaryWriter(str(run_dir), purge_step=step + 1)
        except (ImportError, OSError) as error:
            self.give_up(error)

    def add(self, step: int, values: dict[str, float]) -> None:
        """Add a point to each curve of `values`."""
        if self.writer:
            try:
                for tag, value in values.items():
                    self.writer.add_scalar(tag, value, step)
            except OSError as error:
                self.give_up(error)

    def flush(self) -> None:
        if self.writer:
            try:
                self.writer.flush()
            except OSError as error:
                self.give_up(error)

    def close(self) -> None:
        self.flush()  # which raises where closing would wait for a thread that is no more
        if self.writer:
            self.writer.close()

    def give_up(self, error: Exception) -> None:
        self.writer = None
        print(f"warning: no TensorBoard curves from here on: {error}", file=sys.stderr)
