"""Temperature and calibration error, against formulas of their own."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar

from nanocnn.evaluation.calibration import (
    calibration,
    chances,
    equal_mass_bins,
    expected_calibration_error,
    fit_temperature,
    overconfidence,
)


def drawn(n: int, classes: int, factor: float, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (n, classes) that are `factor` times too large for their labels."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(n, classes, generator=generator)
    labels = torch.multinomial(logits.softmax(1), 1, generator=generator).squeeze(1)
    return factor * logits, labels


@pytest.mark.parametrize("classes", [2, 10])
@pytest.mark.parametrize("factor", [0.3, 1.0, 4.0])
def test_the_temperature_has_the_lowest_log_loss(classes, factor):
    logits, labels = drawn(4000, classes, factor)

    def loss(log_t: float) -> float:
        return float(torch.nn.functional.cross_entropy(logits.double() / np.exp(log_t), labels))

    best = minimize_scalar(loss, bounds=(-4, 4), method="bounded", options={"xatol": 1e-8})
    found = fit_temperature(logits, labels)
    assert found == pytest.approx(np.exp(best.x), rel=1e-4)
    assert found == pytest.approx(factor, rel=0.1)  # as they were made


def test_no_temperature_where_it_would_be_a_guess():
    logits, labels = drawn(99, 10, 1.0)
    assert fit_temperature(logits, labels) is None
    logits, labels = drawn(200, 10, 1.0)
    assert fit_temperature(logits, logits.argmax(1)) is None  # all right: ever surer is better
    assert fit_temperature(logits, logits.argmin(1)) is None
    assert fit_temperature(torch.zeros(200, 10), labels) is None  # says nothing of any image


def test_many_logits_are_fitted_on_some(monkeypatch):
    logits, labels = drawn(4000, 10, 3.0)
    whole = fit_temperature(logits, labels)
    monkeypatch.setattr("nanocnn.evaluation.calibration.MOST_LOGITS", 10_000)
    assert fit_temperature(logits, labels) == fit_temperature(logits[::4], labels[::4])
    assert fit_temperature(logits, labels) == pytest.approx(whole, rel=0.1)


def test_the_calibration_error_by_hand():
    confidence = np.array([0.6, 0.9, 0.7, 0.8])
    correct = np.array([True, True, False, True])
    bins = equal_mass_bins(confidence, correct, 2)  # (0.6, 0.7) half right, (0.8, 0.9) all right
    assert [tuple(each) for each in bins] == [
        (2, pytest.approx(0.65), 0.5),
        (2, pytest.approx(0.85), 1.0),
    ]
    assert expected_calibration_error(bins) == pytest.approx((0.15 + 0.15) / 2)


def test_the_calibration_error_of_many_images():
    logits, labels = drawn(3001, 10, 2.5)
    likely = chances(logits, 1.0)
    confidence, right = likely.max(axis=1), likely.argmax(axis=1) == labels.numpy()
    order = np.argsort(confidence)
    edges = [round(x) for x in np.linspace(0, 3001, 16)]
    expected = sum(
        abs(confidence[order[a:b]].sum() - right[order[a:b]].sum()) for a, b in pairwise(edges)
    )
    found = calibration(likely, labels.numpy())
    assert found["ece"] == pytest.approx(expected / 3001, abs=2e-3)  # a bin may differ by an image
    assert sum(each["images"] for each in found["bins"]) == 3001
    calibrated = calibration(chances(logits, fit_temperature(logits, labels)), labels.numpy())
    assert calibrated["ece"] < found["ece"] / 3


def test_only_confidence_beyond_chance_is_told():
    logits, labels = drawn(2000, 10, 1.0)

    def told(factor: float, n: int) -> float | None:
        likely = chances(logits[:n] * factor, 1.0)
        return overconfidence(likely.max(1), likely.argmax(1) == labels[:n].numpy())

    assert told(1.0, 2000) is None and told(0.5, 2000) is None
    assert told(4.0, 2000) > 0.1
    assert told(4.0, 3) is None  # three images tell nothing
    assert overconfidence(np.array([1.0]), np.array([False])) is None
