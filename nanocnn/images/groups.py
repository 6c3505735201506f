"""Pictures that belong together, as those of one patient or burst: a split has all of a group or
none.
"""

import re
import sys
from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from nanocnn.images.names import nfc
from nanocnn.system.errors import UserError

NEARLY_ALL = 0.9  # of the images in one group leave too few to divide
HALF = 0.5  # an image off, in each class, is as near as can be
MOST_EXCHANGED = 1000  # groups that are, and that one is compared with: of many some will do
NAMED = 3


def groups_by_pattern(pattern: str, paths: Sequence[str]) -> list[str]:
    """What the one group in parentheses of `pattern` finds in each path.

    Raises UserError for paths in which it finds nothing.
    """
    found = [re.search(pattern, nfc(path)) for path in paths]
    groups = [match[1] if match else None for match in found]
    lost = [path for path, group in zip(paths, groups, strict=True) if not group]
    if lost:
        more = " and others" if len(lost) > NAMED else ""
        raise UserError(
            f"data.group = {pattern}: finds no group in {len(lost):,} of {len(paths):,} paths: "
            f"{', '.join(lost[:NAMED])}{more}"
        )
    return [group for group in groups if group]


def warn_of_lone_groups(groups: Sequence[str]) -> None:
    if len(set(groups)) == len(groups):
        print(
            f"warning: data.group: each of {len(groups):,} images is a group of its own, so that "
            f"nothing is kept together; the first is {groups[0]!r}",
            file=sys.stderr,
        )


def refuse_shared_groups(groups: dict[str, list[str]]) -> None:
    """Raises UserError for a group that stands in two of the user's own splits."""
    names = list(groups)
    for index, one in enumerate(names):
        for other in names[index + 1 :]:
            shared = sorted(set(groups[one]) & set(groups[other]))
            if shared:
                more = f" and {len(shared) - NAMED:,} more" if len(shared) > NAMED else ""
                raise UserError(
                    f"data.group: {len(shared):,} groups stand in {one} and in {other}: "
                    f"{', '.join(shared[:NAMED])}{more}; move them, or leave data.group out"
                )


def hold_out_groups(
    labels: Tensor, size: int, groups: Sequence[str], order: Sequence[str]
) -> tuple[Tensor, Tensor]:
    """Indices of (the rest, about `size` held out), of whole groups; the latter may be empty.

    Groups are looked at in this `order`, and each is held out that brings the classes nearer to
    their share of `size`, and the whole to `size`; then those are exchanged for others that bring
    them nearer still. Of each class something stays in the rest.
    Raises UserError where one group has nearly all images.
    """
    name, most = Counter(groups).most_common(1)[0]
    if most > NEARLY_ALL * len(groups):
        raise UserError(
            f"data.group: {name!r} is the group of {most:,} of {len(groups):,} images, which "
            "leaves too few to hold out"
        )
    places = {name: place for place, name in enumerate(order)}
    numbers = np.array([places[name] for name in groups])
    classes, of_class = np.unique(labels.numpy(), return_inverse=True)
    counts = np.zeros((len(order), len(classes)))  # images of each group and class
    np.add.at(counts, (numbers, of_class), 1)
    chosen = choose_groups(counts, counts.sum(axis=0) * size / len(groups))
    held_out = torch.from_numpy(chosen[numbers])
    return (~held_out).nonzero().flatten(), held_out.nonzero().flatten()


def choose_groups(counts: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Which groups, of `counts` (groups, classes), come near to the `wanted` images of each class.

    None, where each holds all that there is of a class.
    """
    most = counts.sum(axis=0) - 1
    chosen, found = np.zeros(len(counts), bool), np.zeros(len(wanted))

    def distance(images: np.ndarray) -> np.ndarray:
        """As chi-squared over the classes; as much of it is the sum, for groups of one class."""
        off = np.where((images <= most).all(axis=-1, keepdims=True), images - wanted, np.inf)
        return (off**2 / wanted).sum(-1) + len(wanted) * off.sum(-1) ** 2 / wanted.sum()

    for group, count in enumerate(counts):
        if (abs(found - wanted) <= HALF).all():
            return chosen
        if distance(found + count) < distance(found):
            chosen[group], found = True, found + count
    if not chosen.any():  # all are too large: the one that is nearest
        group = int(distance(counts).argmin())
        return chosen if np.isinf(distance(counts[group])) else np.arange(len(counts)) == group
    for each in np.flatnonzero(chosen)[:MOST_EXCHANGED]:
        others = np.flatnonzero(~chosen)[:MOST_EXCHANGED]
        exchanged = distance(found - counts[each] + counts[others])
        if len(others) and exchanged.min() < distance(found):
            other = others[exchanged.argmin()]
            chosen[[each, other]] = False, True
            found = found - counts[each] + counts[other]
    return chosen
