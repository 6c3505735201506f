"""A static page that runs a network in the browser: on what is drawn there, and on pictures.

It is a folder of files that any web server delivers: the network as ONNX with resize, normalisation
and softmax inside, ONNX Runtime Web, and HTML, CSS and JavaScript of this package. No request
leaves the folder.
"""

import json
from pathlib import Path
from typing import Any

from nanocnn.evaluation.page import HERE as STYLES
from nanocnn.images.decode import Form
from nanocnn.run.restore import Restored
from nanocnn.system.output import one_line

HERE = Path(__file__).parent / "web"
FACTS = "nanocnn.json"  # what the page is told of the network; such a folder is a page
# how what is drawn is brought into the form of the data set: see page.js
DRAWINGS = {
    "mnist": "mass",
    "emnist_letters": "mass",
    "emnist_balanced": "mass",
    "digits": "box",
    "kmnist": "as drawn",
}


def facts_of(restored: Restored, form: Form) -> dict[str, Any]:
    """What the page is told of a network that reads pictures as `form`."""
    config, info = restored.config, restored.info
    accuracy = (restored.checkpoint.get("validation") or {}).get("accuracy")
    about = [f"{len(info.classes):,} classes", "x".join(map(str, info.image_shape[1:])) + " pixels"]
    if accuracy is not None:
        about.append(f"{accuracy:.2%} of its validation images right")
    return {
        "title": one_line(f"{config.name}: {config.model.name} on {info.dataset}"),
        "about": " · ".join(about),
        "classes": [one_line(name) for name in info.classes],
        "image_shape": form.shape,
        "resize": form.resize,
        "crop_fraction": form.crop_fraction,
        "background": form.background,
        "mean": info.mean,
        "drawing": DRAWINGS.get(info.dataset),
    }


def page_files(model: bytes, facts: dict[str, Any], runtime: dict[str, bytes]) -> dict[str, bytes]:
    """The files of the page by name. `model` is the ONNX file and `runtime` that which runs it."""
    own = {file.name: file.read_bytes() for file in HERE.iterdir()}
    style = (STYLES / "page.css").read_bytes()
    return {
        FACTS: json.dumps(facts, indent=1).encode(),
        "model.onnx": model,
        **runtime,
        **own,
        "page.css": style + own["page.css"],
    }
