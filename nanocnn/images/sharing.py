"""How the images of a step are shared among several processes.

All of them know the whole step: its order, its labels, its random numbers. Each makes and works off
its slices alone, so that together they do what one process does, whatever their number.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class Share(NamedTuple):
    """One of `size` processes that share each step; by default the only one."""

    rank: int = 0
    size: int = 1

    def of(self, count: int) -> range:
        """Those of `count` things in a row that are this process's, as tensor_split cuts them."""
        each, left = divmod(count, self.size)
        first = self.rank * each + min(self.rank, left)
        return range(first, first + each + (self.rank < left))

    def slices(self, images: int, parts: int) -> list[range]:
        """Where in a step of so many images this process's are, in each of its parts.

        The parts of train.accumulate are cut first, then each among the processes. A slice may be
        empty.
        """
        cuts = [Share(part, parts).of(images) for part in range(parts)]
        return [cut[own.start : own.stop] for cut in cuts for own in [self.of(len(cut))]]


ALONE = Share()


def parts_of(images: int, batch_size: int, accumulate: int) -> int:
    """In how many parts so many images of a step are worked off; no single one is left over."""
    leftover = 1 if batch_size > 1 else 0
    full = -(-(images - leftover) // batch_size)
    return max(1, min(accumulate, full))


class Cut(NamedTuple):
    """The images that a process makes of a step of `total`.

    Besides its own it makes what those are mixed with, and never less than two: a sum over a single
    image is added up in another order, and without any image the random numbers that follow would
    be others.
    """

    total: int
    made: Tensor  # (M,) their places in the step, rising
    own: Tensor  # (N,) where in `made` this process's own are
    before: Tensor  # (N,) and the image of the step before each, with which it may be mixed

    @classmethod
    def of(cls, total: int, slices: list[range], mixes: bool) -> "Cut":
        own = torch.tensor([place for each in slices for place in each], dtype=torch.long)
        before = (own - 1) % total
        made = torch.cat([own, before]).unique() if mixes else own
        if len(made) < 2:
            made = torch.cat([made, torch.arange(min(2, total))]).unique()
        if not mixes:
            before = own
        places = torch.zeros(total, dtype=torch.long)
        places[made] = torch.arange(len(made))
        return cls(total, made, places[own], places[before])

    def to(self, device: torch.device) -> "Cut":
        return self._replace(**{key: getattr(self, key).to(device) for key in self._fields[1:]})


def drawn(
    images: Tensor, cut: Cut | None, draw: Callable[[int], Tensor], dimension: int = 0
) -> Tensor:
    """What `draw` draws for so many images, of those that `images` (B, C, H, W) are.

    Of several processes each draws for the whole step, and takes what is for its `cut` of it.
    """
    if cut is None:
        return draw(len(images))
    values = draw(cut.total)
    return values.index_select(dimension, cut.made.to(values.device))
