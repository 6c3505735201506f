"""What an exported file says of itself: the key "nanocnn" of its metadata, a JSON object.

docs/using.md has a table of its keys.
"""

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from nanocnn.config.schema import OWN_IMAGES
from nanocnn.deploy.portable import Portable
from nanocnn.run.contents import Contents, Count, Fraction, parse_json
from nanocnn.run.restore import Restored, validation_of
from nanocnn.system.version import __version__


class Judged(Contents):
    """What is taken of test.json."""

    split: str
    n: Annotated[Count, Field(ge=1)]
    correct: Count
    accuracy: Fraction
    ci95: Annotated[list[Fraction], Field(min_length=2, max_length=2)]
    epoch: Count


def facts_of(restored: Restored, model: Portable) -> dict[str, Any]:
    """Of the run, and of what the file takes and gives."""
    config, info, form = restored.config, restored.info, model.resizing.form
    test = test_of(restored)
    validation = validation_of(restored.checkpoint)
    return {
        "version": __version__,
        "name": config.name,
        "model": config.model.name,
        "dataset": info.dataset,
        "classes": info.classes,
        "image_shape": list(form.shape),
        "resize": form.resize,
        "interpolation": form.interpolation,
        "crop_fraction": form.crop_fraction,
        "background": form.background,
        "value_range": list(form.value_range) if info.dataset in OWN_IMAGES else None,
        "shrink": form.shrink,
        "average_flips": model.flips,
        "temperature": model.temperature,
        "epoch": restored.checkpoint["epoch"],
        "train_images": sum(info.class_counts) or None,
        "accuracy": test and test["accuracy"],
        "test": test,
        "validation_accuracy": validation.get("accuracy"),
        "weights": info.weights or None,
        "map": model.head is not None,
        "quantized": None,
    }


def test_of(restored: Restored) -> dict[str, Any] | None:
    """What test.py found of these very weights, where it has."""
    stem = restored.path.stem
    path = restored.path.with_name("test.json" if stem == "best" else f"test_{stem}.json")
    values = parse_json(path.read_bytes(), Judged) if Path(path).is_file() else None
    if values is None or values["epoch"] != restored.checkpoint["epoch"]:
        return None
    return {key: values[key] for key in ("n", "correct", "accuracy", "ci95")}
