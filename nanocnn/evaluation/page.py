"""One HTML file by which a person judges a run: figures, charts and the surest mistakes.

It needs nothing but itself: no request leaves it, and every text in it is escaped.
"""

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from nanocnn.evaluation import charts
from nanocnn.system.output import one_line

HERE = Path(__file__).parent
SIDE = 128  # pixels of a thumbnail
PAIRS = 12
QUALITY = 85  # of a JPEG
FEW = 10  # test images of a class, of which a figure says little


class Mistakes(NamedTuple):
    """The pictures of report["mistakes"], in their order."""

    images: Tensor  # (M, C, H, W) uint8
    maps: Tensor | None  # (M, rows, columns), where the network looked


class About(NamedTuple):
    """What a report does not say of its run."""

    title: str
    rows: Sequence[dict[str, Any]]  # of metrics.jsonl
    config: str  # as YAML
    commands: str
    facts: str  # of machine and versions, a line
    remarks: Sequence[str] = ()  # at the end of its training


def report_page(report: dict[str, Any], about: About, mistakes: Mistakes | None) -> str:
    """The page of a report of test.py; without `mistakes` their names alone stand there."""
    classes = [one_line(row["name"]) for row in report["per_class"]]
    calibration = report["calibration"]
    is_fitted = calibration["temperature"] is not None
    before = calibration["before"]["bins"] if is_fitted else None
    return rendered(
        "report.html",
        title=about.title,
        report=readable(report),
        classes=classes,
        percent=percent,
        warnings=warnings_of(report),
        curves=[
            charts.curves(about.rows, key) for key in ("loss", "accuracy") if len(about.rows) > 1
        ],
        matrix=charts.confusion_matrix(report["confusion"], classes),
        matrix_side=max(420, min(1000, 48 * len(classes)), 15 * len(classes)),
        narrow_side=max(330, 15 * len(classes)),
        pairs=hardest_pairs(report["confusion"], classes),
        reliability=charts.reliability(calibration["bins"], before),
        risk=charts.risk_by_coverage(report["risk_coverage"]["points"]),
        pictures=thumbnails(readable(report)["mistakes"], mistakes) if mistakes else [],
        maps=bool(mistakes and mistakes.maps is not None),
        config=about.config,
        commands=about.commands,
        facts=about.facts,
        remarks=about.remarks,
    )


def rendered(template: str, **values: Any) -> str:
    """A page of a template beside this file, in the style that all have."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    page, style = ((HERE / name).read_text(encoding="utf-8") for name in (template, "page.css"))
    return environment.from_string(page).render(style=style, **values)


def readable(report: dict[str, Any]) -> dict[str, Any]:
    """The report with names that stay in their line, whatever characters they have."""
    per_class = [row | {"name": one_line(row["name"])} for row in report["per_class"]]
    keys = ("image", "label", "prediction")
    wrong = [each | {k: one_line(str(each[k])) for k in keys} for each in report["mistakes"]]
    checkpoint = one_line(report["checkpoint"])
    return report | {"per_class": per_class, "mistakes": wrong, "checkpoint": checkpoint}


def percent(fraction: float) -> str:
    return f"{fraction:.2%}"


def warnings_of(report: dict[str, Any]) -> list[str]:
    """What a reader of the figures should know."""
    lines = []
    if report["trained_on"]:
        lines.append(
            f"Trained on {report['trained_on']:,} of these {report['n']:,} images: the figures are "
            "too good."
        )
    excess = report["calibration"]["overconfidence"]
    if excess is not None:
        lines.append(
            f"The network is {excess:.2%} surer of its predictions than they are right, which is "
            "more than chance."
        )
    few = [one_line(row["name"]) for row in report["per_class"] if row["support"] < FEW]
    if few:
        more = f" and {len(few) - 5:,} more" if len(few) > 5 else ""
        lines.append(
            f"Of {len(few):,} classes there are fewer than {FEW} images: {', '.join(few[:5])}"
            f"{more}. Their figures say little."
        )
    if report["unreadable"]:
        lines.append(f"{len(report['unreadable']):,} files could not be read and were left out.")
    return lines


def hardest_pairs(
    confusion: Sequence[Sequence[int]], classes: Sequence[str]
) -> list[dict[str, Any]]:
    """The pairs of true and predicted class with most images, at most PAIRS."""
    counts = np.array(confusion)
    totals = counts.sum(axis=1)
    wrong = counts - np.diag(np.diag(counts))
    order = np.argsort(-wrong, axis=None, kind="stable")[:PAIRS]
    found = []
    for place in order:
        row, column = divmod(int(place), len(classes))
        images = int(wrong[row, column])
        if images:
            share = images / int(totals[row])
            pair = {"label": classes[row], "prediction": classes[column]}
            found.append(pair | {"images": images, "share": share})
    return found


def thumbnails(wrong: Sequence[dict[str, Any]], mistakes: Mistakes) -> list[dict[str, Any]]:
    """The mistakes with a small picture each, made of pixels alone: no EXIF comes with them."""
    maps = mistakes.maps if mistakes.maps is not None else [None] * len(wrong)
    return [
        each | thumbnail(image, map_)
        for each, image, map_ in zip(wrong, mistakes.images, maps, strict=True)
    ]


def thumbnail(image: Tensor, map_: Tensor | None = None) -> dict[str, Any]:
    """An image (C, H, W) uint8 as a page shows it, and what lies over it."""
    height, width = image.shape[1:]
    scale = SIDE / max(height, width)
    return {
        "picture": data_uri(image, scale),
        "map": "" if map_ is None else map_uri(map_.numpy()),
        "width": max(1, round(width * scale)),
        "height": max(1, round(height * scale)),
        "how": "pixelated" if scale > 2 else "auto",
    }


def data_uri(image: Tensor, scale: float) -> str:
    """An image (C, H, W) uint8, made smaller by `scale` if that is less than 1."""
    from PIL import Image

    channels, height, width = image.shape
    pixels = image.numpy()
    picture = Image.fromarray(pixels[0] if channels == 1 else pixels.transpose(1, 2, 0))
    if scale < 1:
        picture = picture.resize((max(1, round(width * scale)), max(1, round(height * scale))))
    file = io.BytesIO()
    kind = "png" if height * width <= 40 * 40 else "jpeg"  # small ones lose too much
    picture.save(file, kind, quality=QUALITY)
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"


def map_uri(drops: np.ndarray) -> str:
    """A map (rows, columns) as a red veil, thickest where it is largest; nothing below zero."""
    from PIL import Image

    drops = np.maximum(drops, 0)
    veil = np.zeros((*drops.shape, 4), np.uint8)
    veil[..., 0] = 230
    if drops.max() > 0:
        veil[..., 3] = np.round(200 * drops / drops.max())
    file = io.BytesIO()
    Image.fromarray(veil).save(file, "png")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
