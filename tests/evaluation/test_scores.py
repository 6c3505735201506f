"""What probabilities are worth, against scikit-learn and by hand."""

import numpy as np
import pytest
from sklearn import metrics

from nanocnn.evaluation.metrics import confusion
from nanocnn.evaluation.scores import of_confusion, one_against_rest, risk_coverage, scores


def random_case(classes: int, n: int, seed: int = 0, absent: int | None = None):
    """Probabilities (n, classes) that know something, and labels (n,), none of the `absent`."""
    random = np.random.default_rng(seed)
    labels = random.choice([k for k in range(classes) if k != absent], n)
    logits = random.normal(size=(n, classes))
    logits[np.arange(n), labels] += 1.5
    likely = np.exp(logits)
    return likely / likely.sum(axis=1, keepdims=True), labels


CASES = {
    "ten classes": random_case(10, 200),
    "a class with no images": random_case(4, 50, absent=2),
    "two classes": random_case(2, 40),
    "one image": random_case(3, 1),
    "perfect": (np.eye(5), np.arange(5)),
    "constant": (np.tile([0.7, 0.2, 0.1], (30, 1)), np.arange(30) % 3),
    "twelve classes": random_case(12, 300, seed=3),
}


@pytest.mark.filterwarnings("ignore:y_pred contains classes", "ignore:A single label was found")
@pytest.mark.parametrize("likely, labels", CASES.values(), ids=CASES)
def test_figures_are_scikit_learns(likely, labels):
    classes = np.arange(likely.shape[1])
    found = likely.argmax(axis=1)
    counts = metrics.confusion_matrix(labels, found, labels=classes)
    values = {key: figure["value"] for key, figure in of_confusion(counts).items()}
    assert values == pytest.approx(
        {
            "balanced_accuracy": metrics.balanced_accuracy_score(labels, found),
            "macro_f1": metrics.f1_score(labels, found, average="macro", zero_division=0),
            "weighted_f1": metrics.f1_score(labels, found, average="weighted", zero_division=0),
        }
    )
    report = scores(likely, labels)
    assert report["log_loss"]["value"] == pytest.approx(
        metrics.log_loss(labels, likely, labels=classes), abs=1e-12
    )
    hot = np.eye(len(classes))[labels]
    assert report["brier"]["value"] == pytest.approx(((likely - hot) ** 2).sum(axis=1).mean())
    if len(classes) > 10:
        expected = metrics.top_k_accuracy_score(labels, likely, k=5, labels=classes)
        assert report["top5_accuracy"] == pytest.approx(expected)
    else:
        assert report["top5_accuracy"] is None


@pytest.mark.parametrize("likely, labels", CASES.values(), ids=CASES)
def test_an_interval_holds_its_value(likely, labels):
    report = scores(likely, labels)
    counts = metrics.confusion_matrix(
        labels, likely.argmax(axis=1), labels=np.arange(likely.shape[1])
    )
    for figure in (report["log_loss"], report["brier"], *of_confusion(counts).values()):
        low, high = figure["ci95"]
        assert low <= figure["value"] + 1e-12 and figure["value"] <= high + 1e-12


def test_intervals_cover_the_truth_as_often_as_they_say():
    """Of 200 samples with known accuracy in each class; 95% of them, give or take four sd."""
    random = np.random.default_rng(0)
    truth = np.array([[0.9, 0.1], [0.3, 0.7]])
    covered = 0
    for _ in range(200):
        counts = np.array([random.multinomial(200, row) for row in truth])
        low, high = of_confusion(counts)["balanced_accuracy"]["ci95"]
        covered += low <= 0.8 <= high
    assert abs(covered / 200 - 0.95) < 4 * (0.95 * 0.05 / 200) ** 0.5


def test_one_class_against_the_rest():
    likely, labels = CASES["a class with no images"]
    found = one_against_rest(likely, labels)
    rows = found["one_against_rest"]
    assert rows[2] == {"average_precision": None, "auroc": None}
    there = [0, 1, 3]
    expected = [metrics.roc_auc_score(labels == k, likely[:, k]) for k in there]
    assert [rows[k]["auroc"] for k in there] == pytest.approx(expected)
    assert found["auroc"] == pytest.approx(np.mean(expected))
    alone = one_against_rest(likely[labels == 0], labels[labels == 0])
    assert alone["auroc"] is None and alone["average_precision"] is None


def test_risk_by_coverage_by_hand():
    likely = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.6, 0.4]])
    found = risk_coverage(likely, np.array([0, 1, 1, 0]))  # the second surest alone is wrong
    points = [(point["coverage"], point["risk"]) for point in found["points"]]
    assert points == [(0.25, 0), (0.5, 0.5), (0.75, pytest.approx(1 / 3)), (1, 0.25)]
    assert found["area"] == pytest.approx((0 + 1 / 2 + 1 / 3 + 1 / 4) / 4)


def test_a_sure_mistake_has_a_finite_loss():
    found = scores(np.array([[1.0, 0.0], [1.0, 0.0]]), np.array([1, 0]))
    assert np.isfinite(found["log_loss"]["value"]) and found["log_loss"]["value"] > 100


def test_equal_probabilities_go_to_the_first_class():
    likely = np.full((12, 12), 1 / 12)
    assert scores(likely, np.arange(12))["top5_accuracy"] == pytest.approx(5 / 12)


def test_the_confusion_is_that_of_metrics():
    import torch

    likely, labels = CASES["ten classes"]
    mine = confusion(torch.tensor(labels), torch.tensor(likely.argmax(axis=1)), 10)
    assert of_confusion(np.array(mine)) == of_confusion(
        metrics.confusion_matrix(labels, likely.argmax(axis=1), labels=np.arange(10))
    )
