"""The figures of a report, against scikit-learn and by hand."""

import pytest
import torch
from sklearn import metrics as sklearn_metrics

from nanocnn.evaluation.metrics import confusion_matrix, per_class, wilson_interval


def test_confusion_and_per_class_agree_with_scikit_learn():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 4, (200,), generator=generator)
    predictions = torch.randint(0, 3, (200,), generator=generator)  # class 3 is never predicted
    confusion = confusion_matrix(labels, predictions, 5)  # and class 4 is nowhere
    expected = sklearn_metrics.confusion_matrix(labels, predictions, labels=range(5))
    assert confusion.tolist() == expected.tolist()
    rows = per_class(confusion, list("abcde"))
    columns = sklearn_metrics.precision_recall_fscore_support(
        labels, predictions, labels=range(5), zero_division=0
    )
    for key, column in zip(("precision", "recall", "f1", "support"), columns, strict=True):
        assert [row[key] for row in rows] == pytest.approx(column.tolist())
    assert [row["name"] for row in rows] == list("abcde")


def test_wilson_interval_by_known_values():
    # R. G. Newcombe, Two-sided confidence intervals for the single proportion (1998), table I,
    # method 3
    assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson_interval(15, 148) == pytest.approx((0.0624, 0.1605), abs=5e-5)
    assert wilson_interval(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)
    assert wilson_interval(1, 29) == pytest.approx((0.0061, 0.1718), abs=5e-5)
    assert wilson_interval(20, 20)[1] == 1.0
