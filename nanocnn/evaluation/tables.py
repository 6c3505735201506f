"""The figures of a judged split, as a report and as text."""

from typing import Any

from torch import Tensor

from nanocnn.evaluation.evaluate import Evaluation
from nanocnn.evaluation.metrics import confusion, per_class, wilson_interval
from nanocnn.system.output import one_line


def figures(evaluation: Evaluation, labels: Tensor, classes: list[str]) -> dict[str, Any]:
    """What there is to say of predictions for images with these `labels` (N,) int64."""
    found = evaluation.predictions
    correct, n = int((found == labels).sum()), len(labels)
    return {
        "n": n,
        "correct": correct,
        "accuracy": correct / n,
        "loss": evaluation.loss,
        "ci95": wilson_interval(correct, n),
        "per_class": per_class(labels, found, classes),
        "confusion": confusion(labels, found, len(classes)),
    }


def print_unreadable(report: dict[str, Any]) -> None:
    if report["unreadable"]:
        print(f"files left out, since they cannot be read: {len(report['unreadable']):,}")


def print_report(report: dict[str, Any]) -> None:
    low, high = report["ci95"]
    print(f"{one_line(report['checkpoint'])}, epoch {report['epoch']}")
    print(
        f"{one_line(report['dataset'])}, {report['split']} split: "
        f"{report['correct']:,} of {report['n']:,} correct"
    )
    print(f"accuracy {report['accuracy']:.2%} (95% interval {low:.2%} to {high:.2%})")
    print(f"loss {report['loss']:.4f}")
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
