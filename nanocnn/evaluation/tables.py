"""The figures of a judged split, as a report and as text."""

import csv
import io
import sys
from pathlib import Path
from typing import Any

import numpy as np

from nanocnn.evaluation.calibration import calibration, chances, overconfidence
from nanocnn.evaluation.evaluate import Evaluation
from nanocnn.evaluation.metrics import confusion, per_class, wilson_interval
from nanocnn.evaluation.scores import TOP, of_confusion, scores
from nanocnn.system.files import output
from nanocnn.system.output import one_line

MOST_MISTAKES = 100  # that a report keeps, the surest first


def figures(
    evaluation: Evaluation,
    classes: list[str],
    names: list[str] | None = None,
    temperature: float | None = None,
) -> dict[str, Any]:
    """What there is to say of an evaluation, of images with these `names`, by default numbers.

    Confidences are those at the `temperature` that validation images gave; without one, at 1.
    """
    found, labels = evaluation.predictions, evaluation.labels
    correct, n = int((found == labels).sum()), len(labels)
    counts = confusion(labels, found, len(classes))
    likely = chances(evaluation.logits, temperature or 1.0)
    truth = labels.numpy()
    scored = scores(likely, truth)
    one_by_one = scored.pop("one_against_rest")
    rows = zip(per_class(labels, found, classes), one_by_one, strict=True)
    return {
        "n": n,
        "correct": correct,
        "accuracy": correct / n,
        "loss": evaluation.loss,
        "ci95": wilson_interval(correct, n),
        "per_class": [row | more for row, more in rows],
        "confusion": counts,
        **of_confusion(np.array(counts)),
        **scored,
        "calibration": {
            "temperature": temperature,
            **calibration(likely, truth),
            "before": calibration(chances(evaluation.logits, 1.0), truth),
            "overconfidence": overconfidence(likely.max(1), likely.argmax(1) == truth),
        },
        "mistakes": mistakes(likely, truth, classes, names),
    }


def mistakes(
    likely: np.ndarray, truth: np.ndarray, classes: list[str], names: list[str] | None
) -> list[dict[str, Any]]:
    """The wrong ones of probabilities (N, classes), the surest first, at most MOST_MISTAKES."""
    found, confidence = likely.argmax(axis=1), likely.max(axis=1)
    wrong = np.flatnonzero(found != truth)
    wrong = wrong[np.argsort(-confidence[wrong], kind="stable")][:MOST_MISTAKES]
    return [
        {
            "index": i,
            "image": names[i] if names else i,
            "label": classes[truth[i]],
            "prediction": classes[found[i]],
            "confidence": float(confidence[i]),
        }
        for i in wrong.tolist()
    ]


def write_predictions(
    path: Path,
    evaluation: Evaluation,
    classes: list[str],
    names: list[str] | None,
    temperature: float | None,
) -> None:
    """A CSV file with a line for each image: its name or number, label, prediction, confidence, and
    the probability of each class.

    A class called as one of the first columns is still told by its place. Raises OSError.
    """
    likely = chances(evaluation.logits, temperature or 1.0)
    with output(path) as binary:
        file = io.TextIOWrapper(binary, "utf-8", "surrogateescape", newline="")
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["image", "label", "prediction", "confidence", *classes])
        for i, label in enumerate(evaluation.labels.tolist()):
            found = int(likely[i].argmax())
            about = [names[i] if names else i, classes[label], classes[found]]
            rows.writerow([*about, f"{likely[i, found]:.6g}", *(f"{p:.6g}" for p in likely[i])])
        file.detach()


def print_unreadable(report: dict[str, Any]) -> None:
    if report["unreadable"]:
        print(f"files left out, since they cannot be read: {len(report['unreadable']):,}")


def with_interval(figure: dict[str, Any], form: str) -> str:
    low, high = figure["ci95"]
    if low == high:  # resamples of the same values are alike, which is no certainty
        return f"{figure['value']:{form}}"
    return f"{figure['value']:{form}} (95% interval {low:{form}} to {high:{form}})"


def print_probabilities(report: dict[str, Any]) -> None:
    """What the probabilities are worth, beyond the first guess."""
    for key, name in (("log_loss", "log loss"), ("brier", "Brier score")):
        print(f"{name} {with_interval(report[key], '.4f')}")
    if report["auroc"] is not None:
        print(
            f"one class against the rest, the mean: AUROC {report['auroc']:.4f}, average precision "
            f"{report['average_precision']:.4f}"
        )
    found = report["calibration"]
    if found["temperature"] is None:
        how = "the checkpoint keeps no temperature; docs/looking.md says when there is none"
    else:
        which = "by which best.pt was chosen too"
        if report["split"] == "val":
            which = "which are these"
        how = (
            f"at temperature {found['temperature']:.3g} of the validation images, {which}; without "
            f"it {found['before']['ece']:.2%}"
        )
    print(f"calibration error {found['ece']:.2%} ({how})")
    if found["overconfidence"] is not None:
        print(
            f"warning: it is {found['overconfidence']:.2%} surer of its predictions than they are "
            "right, which is more than chance",
            file=sys.stderr,
        )


def print_report(report: dict[str, Any]) -> None:
    low, high = report["ci95"]
    print(f"{one_line(report['checkpoint'])}, epoch {report['epoch']}")
    print(
        f"{one_line(report['dataset'])}, {report['split']} split: "
        f"{report['correct']:,} of {report['n']:,} correct"
    )
    print(f"accuracy {report['accuracy']:.2%} (95% interval {low:.2%} to {high:.2%})")
    for key, name in (("balanced_accuracy", "balanced accuracy"), ("macro_f1", "macro F1")):
        print(f"{name} {with_interval(report[key], '.2%')}")
    if report["top5_accuracy"] is not None:
        print(f"top-{TOP} accuracy {report['top5_accuracy']:.2%}")
    print(f"loss {report['loss']:.4f}")
    print_probabilities(report)
    print("evaluated in {evaluation_seconds:.2f} s".format(**report))
    if report["average_flips"]:
        print("by the mean of the logits of each image and its mirror image (data.average_flips)")
    print_unreadable(report)
    if report["folding"]["layers"]:
        print("batch normalisation folded: {layers} layers".format(**report["folding"]))
    if not report["folding"]["exact"]:
        print("batch normalisation left as it is: folded, the network would compute something else")

    names = [one_line(row["name"]) for row in report["per_class"]]
    width = max(5, *map(len, names))
    print(f"\n{'class':<{width}}  precision   recall       F1   images")
    for name, row in zip(names, report["per_class"], strict=True):
        fractions = "  ".join(f"{row[key]:7.2%}" for key in ("precision", "recall", "f1"))
        print(f"{name:<{width}}    {fractions}  {row['support']:7,}")

    if len(names) <= 20:  # wider than a terminal beyond
        cell = max(map(len, names + [str(count) for row in report["confusion"] for count in row]))
        print("\nconfusion (a row for each true class, a column for each predicted one)")
        print(" " * width, *(f"{name:>{cell}}" for name in names))
        for name, counts in zip(names, report["confusion"], strict=True):
            print(f"{name:<{width}}", *(f"{count or '.':>{cell}}" for count in counts))
