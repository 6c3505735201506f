"""Charts as SVG for a page, in the colour of its text: readable on light and on dark."""

import io
import re
import warnings
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np

INK = "#010203"  # of text and axes: replaced by the page's own colour
BLUE, ORANGE = "#3b7dd8", "#e08214"
NAMED_CLASSES = 120  # along a matrix; of more there are numbers
WIDEST = 12  # inches of a matrix


def figure(width: float, height: float) -> tuple[Any, Any]:
    matplotlib.use("Agg")  # no window
    from matplotlib import pyplot

    style: Any = {
        "text.color": INK,
        "axes.edgecolor": INK,
        "axes.labelcolor": INK,
        "xtick.color": INK,
        "ytick.color": INK,
        "font.family": "sans-serif",
        "svg.fonttype": "none",  # text stays text
        "svg.hashsalt": "nanocnn",  # the same figures make the same file
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
    with matplotlib.rc_context(style):
        return pyplot.subplots(figsize=(width, height), layout="constrained")


def svg_of(chart: Any, title: str) -> str:
    """The figure as an SVG element that fits its place and tells its `title` to screen readers."""
    from matplotlib import pyplot

    file = io.StringIO()
    rc: Any = {"svg.fonttype": "none", "svg.hashsalt": "nanocnn"}
    with matplotlib.rc_context(rc), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # of a font: text stays text, for the browser's
        chart.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    pyplot.close(chart)
    text = file.getvalue()
    text = text[text.index("<svg") :].replace(INK, "currentColor")
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'font: ([^;"]*)sans-serif', r"font: \1inherit", text)
    opening = re.sub(r' (width|height)="[\d.]+pt"', "", text[: text.index(">")])
    from html import escape

    label = f' role="img" aria-label="{escape(title)}"'
    return opening + label + text[text.index(">") :]


def curves(rows: Sequence[dict[str, Any]], key: str) -> str:
    """The "loss" or "accuracy" by epoch, of lines of metrics.jsonl."""
    chart, axes = figure(4.6, 3)
    epochs = [row["epoch"] for row in rows]
    marker, scale = "o" if len(rows) == 1 else None, 100 if key == "accuracy" else 1
    for split, color in (("train", BLUE), ("val", ORANGE)):
        values = [row[f"{split}_{key}"] for row in rows]
        if any(value is not None for value in values):
            shown = [np.nan if value is None else scale * value for value in values]
            axes.plot(epochs, shown, color=color, label=split, marker=marker)
    axes.set(xlabel="epoch", ylabel=f"{key}, %" if scale == 100 else key)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, labelcolor=INK)
    return svg_of(chart, f"{key} of training and validation by epoch")


def reliability(bins: Sequence[dict[str, Any]], before: Sequence[dict[str, Any]] | None) -> str:
    return svg_of(draw_reliability(bins, before), "Accuracy by confidence")


def draw_reliability(
    bins: Sequence[dict[str, Any]], before: Sequence[dict[str, Any]] | None = None
) -> Any:
    """Accuracy by confidence, of images sorted by it; `before` the temperature too, if there is
    one. A figure of matplotlib.
    """
    chart, axes = figure(4.6, 4)
    lines = [(bins, BLUE, "network" if before is None else "calibrated")]
    if before is not None:
        lines.insert(0, (before, ORANGE, "without temperature"))
    for points, color, label in lines:
        xs = [100 * each["confidence"] for each in points]
        ys = [100 * each["accuracy"] for each in points]
        axes.plot(xs, ys, color=color, marker="o", markersize=3.5, linewidth=1, label=label)
    lowest = min(axes.get_xlim()[0], axes.get_ylim()[0])
    axes.plot([lowest, 100], [lowest, 100], color=INK, linewidth=0.8, linestyle=":", label="ideal")
    axes.set(xlabel="confidence, %", ylabel="of these are right, %")
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, labelcolor=INK)
    return chart


def risk_by_coverage(points: Sequence[dict[str, Any]]) -> str:
    """The error among the images that the network is surest of."""
    chart, axes = figure(4.6, 4)
    xs = [100 * each["coverage"] for each in points]
    axes.plot(xs, [100 * each["risk"] for each in points], color=BLUE, marker="o", markersize=3.5)
    axes.set(xlabel="surest images, % of all", ylabel="of these are wrong, %", xlim=(0, 103))
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.25)
    return svg_of(chart, "Error among the images that the network is surest of")


def confusion_matrix(counts: Sequence[Sequence[int]], classes: Sequence[str]) -> str:
    title = "Confusion matrix: a row for each true class"
    return svg_of(draw_confusion(counts, classes), title)


def draw_confusion(counts: Sequence[Sequence[int]], classes: Sequence[str]) -> Any:
    """A row for each true class; a cell is as dark as its share of the row, small shares too.

    A figure of matplotlib.
    """
    from matplotlib.colors import LinearSegmentedColormap

    values = np.array(counts, dtype=float)
    n = len(values)
    totals = values.sum(axis=1, keepdims=True)
    shares = np.divide(values, totals, out=np.zeros_like(values), where=totals > 0)
    side = min(WIDEST, max(4.0, 1.6 + 0.42 * n))
    chart, axes = figure(side, side)
    clear, dark = (59 / 255, 125 / 255, 216 / 255, 0.0), (59 / 255, 125 / 255, 216 / 255, 1.0)
    colors = LinearSegmentedColormap.from_list("shares", [clear, dark])
    axes.imshow(shares**0.5, cmap=colors, vmin=0, vmax=1, interpolation="nearest")
    size = min(9.0, 500 / n)
    labels = [shortened_name(name) for name in classes] if n <= NAMED_CLASSES else None
    if labels:
        axes.set_xticks(range(n), labels, rotation=90, fontsize=size)
        axes.set_yticks(range(n), labels, fontsize=size)
    if n <= 25:
        for row, column in zip(*np.nonzero(values), strict=True):
            axes.text(
                column, row, f"{int(values[row, column]):,}", ha="center", va="center",
                fontsize=min(9, 160 / n), color=INK,
            )  # fmt: skip
    axes.set_xticks(np.arange(n + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(n + 1) - 0.5, minor=True)
    axes.grid(which="minor", color=INK, alpha=0.12, linewidth=0.4)
    axes.tick_params(which="both", length=0)
    axes.set(xlabel="predicted", ylabel="true")
    return chart


def shortened_name(name: str, most: int = 20) -> str:
    # matplotlib reads $...$ as mathematics
    text = name if len(name) <= most else f"{name[: most - 1]}…"
    return text.replace("$", r"\$")
