"""The lines of metrics.jsonl: kept when a run goes on, and shown to people."""

import sys
from pathlib import Path
from typing import Any

from nanocnn.images.own import shortened
from nanocnn.run.contents import Row, parse_json
from nanocnn.system.files import read_file, replacing


def keep_rows(path: Path, epochs: int, has_head: bool = False) -> None:
    """Let the file of metrics have the lines of the first `epochs` epochs alone.

    Epoch 0 is that of a head that was fitted. Lines that are damaged go; which epochs have none is
    said.
    """
    done = range(0 if has_head else 1, epochs + 1)
    rows: dict[int, bytes] = {}
    for line in read_file(path).splitlines() if path.exists() else []:
        row = parse_json(line, Row)
        if row and row["epoch"] in done:
            rows.setdefault(row["epoch"], line)
    if missing := [str(epoch) for epoch in done if epoch not in rows]:
        print(
            f"warning: {path}: the lines of {len(missing):,} of {len(done):,} epochs are lost or "
            f"damaged: {shortened(missing)}",
            file=sys.stderr,
        )
    with replacing(path) as file:
        file.writelines(rows[epoch] + b"\n" for epoch in sorted(rows))


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The lines that are whole; none without a file."""
    if not path.is_file():
        return []
    return [row for line in read_file(path).splitlines() if (row := parse_json(line, Row))]


def epoch_line(row: dict[str, Any], epochs: int) -> str:
    """A row of metrics.jsonl for people."""
    val_loss, val_accuracy = row["val_loss"], row["val_accuracy"]
    parts = [
        f"epoch {row['epoch']:>{len(str(epochs))}}/{epochs}",
        f"train loss {row['train_loss']:.4f} accuracy {row['train_accuracy']:7.2%}",
        f"val loss {val_loss:.4f} accuracy {val_accuracy:7.2%}"
        if val_loss is not None
        else "no val",
        f"{row['images_per_second']:,.0f} images/s",
        f"{row['seconds']:.1f} s",
    ]
    return " | ".join(parts)
