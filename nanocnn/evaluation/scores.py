"""What the probabilities of a classifier are worth, beside how often its first guess is right."""

from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.metrics import average_precision_score, roc_auc_score

RESAMPLES = 1000  # of a bootstrap
SEED = 0  # of its draws, so that the same predictions have the same interval
POINTS = 20  # of a curve
TOP = 5
MORE_THAN = 10  # classes: among fewer the first five say little
SMALLEST = float(np.finfo(np.float64).tiny)  # a probability of 0 is taken as this
BLOCK = 4_000_000  # numbers that a bootstrap holds at once


def scores(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Figures of probabilities (N, classes) float64 for images with `labels` (N,)."""
    n, num_classes = probabilities.shape
    true = probabilities[np.arange(n), labels]
    # D. Brier (1950): squares over all classes, from 0 to 2
    brier = (probabilities**2).sum(axis=1) - 2 * true + 1
    log_loss = -np.log(np.maximum(true, SMALLEST))
    top = float((ranks(probabilities, labels) < TOP).mean()) if num_classes > MORE_THAN else None
    return {
        "top5_accuracy": top,
        "log_loss": interval_of_mean(log_loss),
        "brier": interval_of_mean(brier),
        **one_against_rest(probabilities, labels),
        "risk_coverage": risk_coverage(probabilities, labels),
    }


def ranks(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """How many classes (N,) stand before the true one; of equal ones those with lower numbers."""
    true = probabilities[np.arange(len(labels)), labels][:, None]
    classes = np.arange(probabilities.shape[1])
    is_before = (probabilities > true) | ((probabilities == true) & (classes < labels[:, None]))
    return is_before.sum(axis=1)


def one_against_rest(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Average precision and area under the ROC curve of each class against all others, and means.

    None for a class that no image has, or that all have; the means leave those out.
    """
    rows: list[dict[str, float | None]] = []
    for k in range(probabilities.shape[1]):
        is_k = labels == k
        if is_k.all() or not is_k.any():
            rows.append({"average_precision": None, "auroc": None})
            continue
        rows.append(
            {
                "average_precision": float(average_precision_score(is_k, probabilities[:, k])),
                "auroc": float(roc_auc_score(is_k, probabilities[:, k])),
            }
        )
    means: dict[str, Any] = {}
    for key in ("average_precision", "auroc"):
        defined = [value for row in rows if (value := row[key]) is not None]
        means[key] = sum(defined) / len(defined) if defined else None
    return {**means, "one_against_rest": rows}


def interval_of_mean(values: np.ndarray) -> dict[str, Any]:
    """The mean of `values` (N,), one an image, and its 95% interval by the bootstrap."""
    random = np.random.default_rng(SEED)
    n = len(values)
    means = np.empty(RESAMPLES)
    step = max(1, BLOCK // n)
    for first in range(0, RESAMPLES, step):
        part = slice(first, min(first + step, RESAMPLES))
        chosen = random.integers(0, n, (part.stop - part.start, n))
        means[part] = values[chosen].mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return {"value": float(values.mean()), "ci95": (float(low), float(high))}


def of_confusion(confusion: np.ndarray) -> dict[str, Any]:
    """Balanced accuracy and means of F1 of counts (classes, classes), rows = truth, each with its
    95% interval by the bootstrap: images drawn again are cells of the matrix drawn again.
    """
    n, num_classes = int(confusion.sum()), len(confusion)
    cells = np.flatnonzero(confusion)
    truth, found = cells // num_classes, cells % num_classes
    random = np.random.default_rng(SEED)
    drawn = random.multinomial(n, confusion.flat[cells] / n, size=RESAMPLES)
    figures: dict[str, Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]] = {
        "balanced_accuracy": balanced_accuracy,
        "macro_f1": macro_f1,
        "weighted_f1": weighted_f1,
    }
    counts = np.concatenate([confusion.flat[cells][None], drawn])  # as they are, and resampled
    hits = sums_by(np.where(truth == found, counts, 0), truth, num_classes)
    rows, columns = (sums_by(counts, which, num_classes) for which in (truth, found))
    report = {}
    for name, figure in figures.items():
        value, *others = figure(hits, rows, columns).tolist()
        low, high = np.quantile(others, [0.025, 0.975])
        report[name] = {"value": value, "ci95": (float(low), float(high))}
    return report


def sums_by(counts: np.ndarray, which: np.ndarray, num_classes: int) -> np.ndarray:
    """(R, classes) of counts (R, cells), of the cells of `which` class."""
    sums = np.zeros((len(counts), num_classes))
    for k in np.unique(which):
        sums[:, k] = counts[:, which == k].sum(axis=1)
    return sums


def balanced_accuracy(hits: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """The mean recall of the classes that have images, as scikit-learn has it."""
    recall = np.divide(hits, rows, out=np.zeros_like(hits), where=rows > 0)
    return recall.sum(axis=1) / (rows > 0).sum(axis=1)


def f1_of(hits: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    both = rows + columns
    return np.divide(2 * hits, both, out=np.zeros_like(hits), where=both > 0)


def macro_f1(hits: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """The mean F1 of the classes that have images or were predicted, as scikit-learn has it."""
    is_there = rows + columns > 0
    return f1_of(hits, rows, columns).sum(axis=1) / is_there.sum(axis=1)


def weighted_f1(hits: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """The mean F1 over images, each with that of its class."""
    return (f1_of(hits, rows, columns) * rows).sum(axis=1) / rows.sum(axis=1)


def risk_coverage(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """The share of wrong ones among the images that the network is surest of, by their share of
    all; and the area under that curve.

    Y. Geifman, R. El-Yaniv, Selective Classification for Deep Neural Networks (2017).
    """
    confidence = probabilities.max(axis=1)
    is_wrong = probabilities.argmax(axis=1) != labels
    order = np.argsort(-confidence, kind="stable")
    n = len(order)
    risks = np.cumsum(is_wrong[order]) / np.arange(1, n + 1)
    counts = sorted({max(1, round(n * share / POINTS)) for share in range(1, POINTS + 1)})
    points = [{"coverage": count / n, "risk": float(risks[count - 1])} for count in counts]
    return {"area": float(risks.mean()), "points": points}
