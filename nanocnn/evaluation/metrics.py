"""What a confusion matrix says of a classifier, and how sure one can be of it."""

from statistics import NormalDist, mean, stdev
from typing import Any, NamedTuple

import torch
from torch import Tensor


def confusion_matrix(labels: Tensor, predictions: Tensor, num_classes: int) -> Tensor:
    """Counts (classes, classes) int64: a row for each true class, a column for each predicted
    one.
    """
    cells = torch.bincount(labels * num_classes + predictions, minlength=num_classes**2)
    return cells.view(num_classes, num_classes)


def per_class(confusion: Tensor, names: list[str]) -> list[dict[str, Any]]:
    """Precision, recall, F1 (fractions; 0 where nothing was predicted or is there) and support by
    class.
    """
    hits = confusion.diag().double()
    predicted, support = confusion.sum(0), confusion.sum(1)
    precision = hits / predicted.clamp(min=1)
    recall = hits / support.clamp(min=1)
    f1 = 2 * hits / (predicted + support).clamp(min=1)
    columns = zip(
        names, precision.tolist(), recall.tolist(), f1.tolist(), support.tolist(), strict=True
    )
    return [
        dict(zip(("name", "precision", "recall", "f1", "support"), column, strict=True))
        for column in columns
    ]


def wilson_interval(correct: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Bounds of the true accuracy, given `correct` of `n` images.

    Source: E. B. Wilson, Probable Inference, the Law of Succession, and Statistical Inference,
    Journal of the American Statistical Association 22 (1927).
    """
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    p = correct / n
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * (p * (1 - p) / n + z**2 / (4 * n**2)) ** 0.5
    return max(0.0, centre - half), min(1.0, centre + half)


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
    from scipy.stats import t

    centre, sd = mean(values), stdev(values)
    half = float(t.ppf(0.975, len(values) - 1)) * sd / len(values) ** 0.5
    return Mean(centre, sd, (max(0.0, centre - half), min(1.0, centre + half)))
