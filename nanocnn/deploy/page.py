"""A static page that runs a network in the browser: on what is drawn there, and on pictures.

It is a folder of files that any web server delivers: the network as ONNX with resize, normalisation
and softmax inside, ONNX Runtime Web, and HTML, CSS and JavaScript of this package. No request
leaves the folder.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nanocnn.evaluation.page import HERE as STYLES
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


def told(restored: Restored, facts: Mapping[str, Any]) -> dict[str, Any]:
    """What the page is told of a network whose file says `facts` of itself."""
    info, classes = restored.info, facts["classes"]
    about = [f"{len(classes):,} classes", "x".join(map(str, info.image_shape[1:])) + " pixels"]
    for key, images in (("accuracy", "test"), ("validation_accuracy", "validation")):
        if facts[key] is not None:
            about.append(f"{facts[key]:.2%} of its {images} images right")
            break
    return {
        "title": one_line(f"{facts['name']}: {facts['model']} on {facts['dataset']}"),
        "about": " · ".join(about),
        "classes": [one_line(name) for name in classes],
        **{key: facts[key] for key in ("image_shape", "resize", "crop_fraction", "background")},
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
