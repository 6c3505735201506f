"""What is summed over the steps of an epoch, divided only when all is in."""

import time

from torch import Tensor


class Sums:
    """Loss, correct images, images and their weight, summed since `start`.

    They stay on the device: to read them is to wait for it.
    """

    def __init__(
        self,
        loss: float = 0.0,
        correct: int = 0,
        images: int = 0,
        seconds: float = 0.0,
        weight: float | None = None,
    ) -> None:
        """Without a `weight` each of the images weighs 1, as in the checkpoints of version 0.1."""
        self.loss: Tensor | float = loss
        self.weight: Tensor | float = images if weight is None else weight
        self.correct: Tensor | int = correct
        self.images = images
        self.start = time.perf_counter() - seconds

    def add(
        self,
        loss: Tensor | float,
        correct: Tensor | int,
        images: int,
        weight: Tensor | float,
    ) -> None:
        self.loss = self.loss + loss
        self.correct = self.correct + correct
        self.images += images
        self.weight = self.weight + weight

    def read(self) -> tuple[float, int, int, float, float]:
        """What `Sums(...)` goes on from."""
        seconds = time.perf_counter() - self.start
        return float(self.loss), int(self.correct), self.images, seconds, float(self.weight)
