"""What predictions say of a classifier, and how sure one can be of it."""

from statistics import mean, stdev
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import binomtest, t
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support
from torch import Tensor


def confusion(labels: Tensor, predictions: Tensor, num_classes: int) -> list[list[int]]:
    """Counts: a row for each true class, a column for each predicted one."""
    classes = np.arange(num_classes)
    return confusion_matrix(labels.numpy(), predictions.numpy(), labels=classes).tolist()


def per_class(labels: Tensor, predictions: Tensor, names: list[str]) -> list[dict[str, Any]]:
    """Precision, recall, F1 and support by class, fractions.

    They are 0 where nothing was predicted or nothing is there.
    """
    columns = precision_recall_fscore_support(
        labels.numpy(), predictions.numpy(), labels=np.arange(len(names)), zero_division=0
    )
    rows = zip(names, *(column.tolist() for column in columns), strict=True)
    keys = ("name", "precision", "recall", "f1", "support")
    return [dict(zip(keys, row, strict=True)) for row in rows]


def wilson_interval(correct: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Bounds of the true accuracy, given `correct` of `n` images.

    Source: E. B. Wilson, Probable Inference, the Law of Succession, and Statistical Inference,
    Journal of the American Statistical Association 22 (1927).
    """
    interval = binomtest(correct, n).proportion_ci(confidence, method="wilson")
    return float(interval.low), float(interval.high)


class Mean(NamedTuple):
    """Of figures of several seeds: their mean, their standard deviation, and where the true mean
    lies.
    """

    mean: float
    sd: float
    ci95: tuple[float, float]

    def __str__(self) -> str:
        low, high = self.ci95
        interval = f"95% interval of the mean {low:.2%} to {high:.2%}"
        return f"{self.mean:.2%} ± {self.sd:.2%} (mean ± sd; {interval})"


def mean_of_seeds(values: list[float]) -> Mean:
    """Mean and sd of at least two `values`, fractions, and the 95% interval of the mean by
    Student's t.
    """
    centre, sd = mean(values), stdev(values)
    half = float(t.ppf(0.975, len(values) - 1)) * sd / len(values) ** 0.5
    return Mean(centre, sd, (max(0.0, centre - half), min(1.0, centre + half)))
