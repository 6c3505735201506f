"""The figures of a report, by hand and by known values."""

import pytest
import torch

from nanocnn.evaluation.metrics import confusion, per_class, wilson_interval

LABELS = torch.tensor([0, 0, 0, 1, 1, 2])
PREDICTIONS = torch.tensor([0, 0, 1, 1, 0, 1])  # class 2 is never predicted, and class 3 is nowhere


def test_the_confusion_matrix_has_a_row_for_each_true_class():
    expected = [[2, 1, 0, 0], [1, 1, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0]]
    assert confusion(LABELS, PREDICTIONS, 4) == expected


def test_the_figures_of_each_class():
    rows = per_class(LABELS, PREDICTIONS, list("abcd"))
    assert [row["name"] for row in rows] == list("abcd")
    assert [row["support"] for row in rows] == [3, 2, 1, 0]
    assert all(type(row["support"]) is int for row in rows)  # as JSON has it
    assert [row["precision"] for row in rows] == pytest.approx([2 / 3, 1 / 3, 0, 0])
    assert [row["recall"] for row in rows] == pytest.approx([2 / 3, 1 / 2, 0, 0])
    assert [row["f1"] for row in rows] == pytest.approx([2 / 3, 2 / 5, 0, 0])


def test_wilson_interval_by_known_values():
    """R. G. Newcombe, Two-sided confidence intervals for the single proportion (1998), table I."""
    assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson_interval(15, 148) == pytest.approx((0.0624, 0.1605), abs=5e-5)
    assert wilson_interval(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)
    assert wilson_interval(1, 29) == pytest.approx((0.0061, 0.1718), abs=5e-5)
    assert wilson_interval(20, 20)[1] == 1.0
