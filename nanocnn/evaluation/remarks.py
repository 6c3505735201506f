"""What a practised eye sees in a finished training, in words, each with its reason.

A rule speaks only where chance and a good run hardly ever look like that, so that what is said is
worth reading: `python -m benchmarks.remarks` tries each on runs that are made to show it.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from torch import Tensor

GAP = 0.1  # of accuracy, between training and validation
RISEN = 1.15  # times its lowest value has the validation loss, after that
FELL = 0.9  # of what it was, is what a loss has that still falls
ROSE = 0.05  # of the first epoch's, is a rise of the training loss
STILL_HIGH = 0.5  # of the highest learning rate: lower ones let the loss fall at the end anyway
MOST_DEAD = 0.5
FEWEST_STEPS = 20  # of training, before which there is nothing to see
ENOUGH = 10  # images of a class, that a missing prediction says something
NAMED = 5

Row = Mapping[str, Any]  # a line of metrics.jsonl


def remarks(
    rows: Sequence[Row],
    judged: tuple[Tensor, Tensor] | None,
    classes: Sequence[str],
    dead: Mapping[str, Tensor],
) -> list[str]:
    """What is seen in these epochs, in the last validation's labels and predictions (N,), and in
    which units of each ReLU are `dead`.
    """
    trained = [row for row in rows if row["epoch"] > 0]  # 0 is that of a fitted head
    if not trained or trained[-1]["step"] < FEWEST_STEPS:
        return []
    validated = [row for row in trained if row["val_loss"] is not None]
    found = [by_heart(validated), still_falling(validated), rose_in_warm_up(trained)]
    found += [never_predicted(*judged, classes) if judged else None, half_dead(dead)]
    return [remark for remark in found if remark]


def by_heart(rows: Sequence[Row]) -> str | None:
    """Training far above validation, whose loss has risen meanwhile.

    A gap alone is usual where augmentation ends or classes are many; a network that learns its
    images by heart grows surer of its mistakes too, which the loss shows.
    """
    if not rows:
        return None
    last, best = rows[-1], min(rows, key=lambda row: row["val_loss"])
    gap = last["train_accuracy"] - last["val_accuracy"]
    is_worse = last["val_loss"] >= RISEN * best["val_loss"]
    if gap < GAP or not is_worse or last["train_loss"] >= best["train_loss"]:
        return None
    return (
        f"training accuracy {last['train_accuracy']:.1%} is far above validation's "
        f"{last['val_accuracy']:.1%}, whose loss has risen from {best['val_loss']:.3g} in epoch "
        f"{best['epoch']} to {last['val_loss']:.3g}: it learns its images by heart. More images, "
        "augmentation, weight decay or dropout help, or fewer epochs"
    )


def still_falling(rows: Sequence[Row]) -> str | None:
    """The validation loss falls up to the last epoch, at a learning rate that is still high.

    With a schedule that ends near 0 it always falls at the end, which says nothing.
    """
    if len(rows) < 2:
        return None
    last, losses = rows[-1], [row["val_loss"] for row in rows]
    before = losses[-1 - max(1, len(rows) // 3)]
    rates = [row["lr"] or 0.0 for row in rows]
    if (
        losses[-1] > min(losses)
        or losses[-1] > FELL * before
        or rates[-1] < STILL_HIGH * max(rates)
    ):
        return None
    return (
        f"the validation loss still falls, from {before:.3g} to {last['val_loss']:.3g} in the last "
        f"{max(1, len(rows) // 3)} of {len(rows)} epochs, at a learning rate that is still high: "
        "more epochs, or a schedule that lowers the rate, will do better"
    )


def rose_in_warm_up(rows: Sequence[Row]) -> str | None:
    """The training loss rises from one epoch to the next while the learning rate does.

    It should fall in every epoch of a warm-up; where it rises the rate is too high already.
    """
    for before, row in pairwise(rows):
        if (row["lr"] or 0.0) <= (before["lr"] or 0.0):
            break
        if row["train_loss"] - before["train_loss"] > ROSE * rows[0]["train_loss"]:
            return (
                f"the training loss rose in warm-up, from {before['train_loss']:.3g} to "
                f"{row['train_loss']:.3g} in epoch {row['epoch']}, at a learning rate of "
                f"{row['lr']:.3g}: a lower optimizer.lr will do better, as nanocnn find-lr suggests"
            )
    return None


def never_predicted(labels: Tensor, predictions: Tensor, classes: Sequence[str]) -> str | None:
    """Classes that have images enough, and that no image is taken for."""
    images, times = (each.bincount(minlength=len(classes)) for each in (labels, predictions))
    found = ((images >= ENOUGH) & (times == 0)).nonzero()[:, 0].tolist()
    if not found:
        return None
    named = ", ".join(classes[k] for k in found[:NAMED])
    more = f" and {len(found) - NAMED:,} more" if len(found) > NAMED else ""
    return (
        f"{len(found):,} of {len(classes):,} classes are never predicted: {named}{more}. Where "
        "they have few images data.sampling=balanced helps, else more epochs or another learning "
        "rate"
    )


def half_dead(dead: Mapping[str, Tensor]) -> str | None:
    """At least half of all units behind ReLUs are zero for every image of a batch.

    Nothing that such a unit does can be learned: no gradient comes through it.
    """
    units = sum(len(each) for each in dead.values())
    count = sum(int(each.sum()) for each in dead.values())
    if not units or count < MOST_DEAD * units:
        return None
    worst = max(dead, key=lambda name: float(dead[name].float().mean()))
    return (
        f"{count:,} of {units:,} units behind ReLUs are dead, zero for every image (most of them "
        f"in {worst}, {float(dead[worst].float().mean()):.0%}): a lower optimizer.lr, batch "
        "normalisation or model.init=kaiming keeps them alive"
    )
