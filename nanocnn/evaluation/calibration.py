"""Whether a classifier is right as often as it is sure, and the one number that helps.

A network that is 90% sure should be right nine times out of ten. Trained ones are often surer than
that (C. Guo et al., On Calibration of Modern Neural Networks, 2017). Divided by a temperature T,
fitted on validation images, their logits say the same classes with other probabilities.
"""

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

FEWEST = 100  # validation images that a temperature is fitted on
BINS = 15
LOWEST, HIGHEST = 0.01, 100.0  # temperatures; beyond them there is nothing to calibrate
CLOSE = 1e-6  # as close as the logarithm of the temperature is found
MOST_LOGITS = 2_000_000  # of more, images evenly spaced are taken: it is one number


class Bin(NamedTuple):
    """Images that the network was about equally sure of."""

    images: int
    confidence: float  # the mean
    accuracy: float


def fit_temperature(logits: Tensor, labels: Tensor) -> float | None:
    """T at which softmax(logits / T) has the lowest log loss, for logits (N, classes).

    None where there are fewer than FEWEST images, or where the loss has no lowest point, as when
    all of them are right. It is convex in 1 / T, so its slope is bisected.
    """
    if len(labels) < FEWEST:
        return None
    every = math.ceil(logits.numel() / MOST_LOGITS)
    values, labels = logits[::every].double(), labels[::every]
    true = values.gather(1, labels[:, None]).squeeze(1)

    def rises(log_t: float) -> bool:
        """Whether the loss grows with 1 / T there."""
        chances = (values * math.exp(-log_t)).softmax(1)
        return bool(((chances * values).sum(1) - true).sum() > 0)

    low, high = math.log(LOWEST), math.log(HIGHEST)
    if not rises(low) or rises(high):
        return None
    while high - low > CLOSE:
        middle = (low + high) / 2
        low, high = (middle, high) if rises(middle) else (low, middle)
    return math.exp((low + high) / 2)


def equal_mass_bins(confidence: np.ndarray, correct: np.ndarray, bins: int = BINS) -> list[Bin]:
    """The images (N,), sorted by confidence, in so many parts of equal size to within one image.

    Fewer images than bins have a bin each.
    """
    order = np.argsort(confidence, kind="stable")
    parts = np.array_split(order, min(bins, len(order)))
    return [
        Bin(len(part), float(confidence[part].mean()), float(correct[part].mean()))
        for part in parts
        if len(part)
    ]


def expected_calibration_error(bins: list[Bin]) -> float:
    """How far confidence and accuracy are apart, the mean over images, bin by bin.

    M. P. Naeini et al., Obtaining Well Calibrated Probabilities Using Bayesian Binning (2015), with
    bins of equal mass.
    """
    total = sum(each.images for each in bins)
    return sum(each.images * abs(each.confidence - each.accuracy) for each in bins) / total


def calibration(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """ECE and the bins of a reliability diagram, of the class that was predicted."""
    confidence = probabilities.max(axis=1)
    bins = equal_mass_bins(confidence, probabilities.argmax(axis=1) == labels)
    return {"ece": expected_calibration_error(bins), "bins": [each._asdict() for each in bins]}


def overconfidence(confidence: np.ndarray, correct: np.ndarray) -> float | None:
    """By how much the mean confidence is above the accuracy, None where that may be chance.

    Were the confidences right, the number of right images would have this mean, and the sum of
    c (1 - c) as its variance; three standard deviations are beyond chance.
    """
    excess = float(confidence.sum() - correct.sum())
    spread = float(np.sqrt((confidence * (1 - confidence)).sum()))
    return excess / len(correct) if excess > max(3 * spread, 1.0) else None


def chances(logits: Tensor, temperature: float) -> np.ndarray:
    """Probabilities (N, classes) float64 of logits at this temperature."""
    return torch.softmax(logits.double() / temperature, 1).numpy()
