"""A model card: what an exported file is, what it takes, and what is known of it, in Markdown.

After M. Mitchell et al., Model Cards for Model Reporting (2019).
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any

from nanocnn.system.output import one_line

MARKS = re.compile(r"([\\`*_\[\]<>#|~&])")
MOST_CLASSES = 100  # that are named
FENCE = "~~~"
PICTURE = """picture = ImageOps.exif_transpose(Image.open("picture.png"))
if picture.has_transparency_data:
    picture = picture.convert("RGBA")
    below = Image.new("RGBA", picture.size, "$background")
    picture = Image.alpha_composite(below, picture).convert("RGB")
pixels = np.asarray(picture.convert("$mode")).reshape(1, picture.height, picture.width, $channels)
"""
PYTHON_ONNX = """import json

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

session = onnxruntime.InferenceSession($file)
classes = json.loads(session.get_modelmeta().custom_metadata_map["nanocnn"])["classes"]

$picture
probabilities = session.run(["probabilities"], {"images": pixels})[0][0]
best = int(probabilities.argmax())
print(classes[best], probabilities[best])
"""
PYTHON_TORCH = """import json

import numpy as np
import torch
from PIL import Image, ImageOps

facts = {"nanocnn.json": ""}
model = torch.export.load($file, extra_files=facts).module()
classes = json.loads(facts["nanocnn.json"])["classes"]

$picture
with torch.inference_mode():
    probabilities = model(torch.from_numpy(pixels.copy()))[0][0].numpy()
best = int(probabilities.argmax())
print(classes[best], probabilities[best])
"""
JAVASCRIPT = """import * as ort from "onnxruntime-web";

const classes = $classes;
const session = await ort.InferenceSession.create($file);

// `blob` is a File, or what fetch gave; the bitmap is upright as its EXIF says
async function classify(blob) {
  const bitmap = await createImageBitmap(blob);
  const { width, height } = bitmap;
  const context = new OffscreenCanvas(width, height).getContext("2d");
  context.fillStyle = "$background";
  context.fillRect(0, 0, width, height);
  context.drawImage(bitmap, 0, 0);
  const rgba = context.getImageData(0, 0, width, height).data;
  const pixels = new Uint8Array(width * height * $channels);
  for (let i = 0; i < width * height; i++) {
    const [r, g, b] = rgba.subarray(4 * i, 4 * i + 3);
    $store
  }
  const images = new ort.Tensor("uint8", pixels, [1, height, width, $channels]);
  const { probabilities } = await session.run({ images });
  const best = probabilities.data.indexOf(Math.max(...probabilities.data));
  return [classes[best], probabilities.data[best]];
}
"""
STORE = {
    1: "pixels[i] = (19595 * r + 38470 * g + 7471 * b + 32768) >> 16;",
    3: "pixels.set([r, g, b], 3 * i);",
}
RESIZES = {
    "stretch": "stretched to it, whatever their ratio",
    "crop": "cut to its ratio around the middle and resized",
    "pad": "put whole into its middle, with the background around them",
}


def card(path: Path, facts: Mapping[str, Any], tried: Sequence[str], remarks: list[str]) -> str:
    """The card of the file at `path`, which says the `facts` of itself.

    `tried` is what the export found of it, line by line, `remarks` what the run was told.
    """
    what = (
        f"A classifier of {len(facts['classes'])} classes: {text(facts['model'])}, trained on "
        f"{text(facts['dataset'])}. This card was written by nanocnn {facts['version']} from what "
        f"the run has recorded, for the file {text(path.name)}."
    )
    sections = {
        "What it is for": purpose(facts),
        "What it takes and gives": input_of(facts),
        "What stays the caller's": [*callers(facts), *code(path, facts)],
        "How good it is": accuracy(facts),
        "Tried at export": [listed(map(text, tried))],
        "Limits": limits(facts),
        "Remarks of the run": [listed(map(text, remarks))] if remarks else [],
        "Licence": licence(facts),
    }
    parts = [f"# {text(facts['name'])}", what]
    for heading, paragraphs in sections.items():
        if found := list(paragraphs):
            parts += [f"## {heading}", *found]
    return "\n\n".join(parts) + "\n"


def text(value: Any) -> str:
    """A name from elsewhere in Markdown: nothing in it is markup."""
    return MARKS.sub(r"\\\1", one_line(str(value)))


def listed(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def purpose(facts: Mapping[str, Any]) -> Iterator[str]:
    yield (
        "To tell these classes apart in pictures like those that it was trained on: "
        f"{classes_of(facts)}."
    )
    yield (
        "It answers one of them for any picture, of something else too. What it is not for, only "
        "those who know its training images can say."
    )


def classes_of(facts: Mapping[str, Any]) -> str:
    names = [text(name) for name in facts["classes"][:MOST_CLASSES]]
    left = len(facts["classes"]) - len(names)
    return ", ".join(names) + (f" and {left:,} more" if left else "")


def input_of(facts: Mapping[str, Any]) -> Iterator[str]:
    channels, height, width = facts["image_shape"]
    kind = "grey" if channels == 1 else "RGB"
    yield (
        f"Input `images`: uint8 (N, H, W, {channels}), {kind}, any number of pictures of any one "
        "size."
    )
    how = f"({facts['interpolation']}, as Pillow does)"
    if facts["resize"] == "crop" and facts["crop_fraction"] < 1:
        yield (
            f"Inside the file {facts['crop_fraction']:.4g} of the sides of the largest part with "
            f"the ratio of {height} x {width} are cut out in the middle, resized to that {how} and "
            "normalised."
        )
    else:
        yield (
            f"Inside the file they are brought to {height} x {width} pixels, "
            f"{RESIZES[facts['resize']]} {how}, and normalised. Pictures of that size are taken as "
            "they are."
        )
    yield (
        "Output `probabilities`: float32 (N, "
        f"{len(facts['classes'])}), in the order of the classes in the file's metadata; "
        + (
            f"calibrated by a temperature of {facts['temperature']:.4g}, fitted on validation "
            "images."
            if facts["temperature"] != 1
            else "not calibrated."
        )
    )
    if facts["map"]:
        yield (
            "Output `map`: float32 (N, classes, h, w), how much each part of a picture speaks for "
            "each class; the softmax of its means over h and w is the probabilities."
        )


def callers(facts: Mapping[str, Any]) -> Iterator[str]:
    channels = facts["image_shape"][0]
    low, high = facts["value_range"] or (0, 65535)
    to = "grey (ITU-R 601: 0.299 R + 0.587 G + 0.114 B)" if channels == 1 else "RGB"
    lines = [
        "decoding the file, turned as its EXIF orientation says",
        f"transparent pictures laid over {facts['background']}",
        f"colours or grey made {to}",
        f"pictures of 16 bits scaled from {low} to {high} to 0 to 255",
    ]
    if channels == 1:
        lines.append("light and dark the way round that they are in the training images")
    yield listed(lines)
    if facts["shrink"]:
        yield (
            "nanocnn decodes JPEG files of four times this size or more at a half, a quarter or an "
            "eighth (`Image.draft` of Pillow), which is faster. Whole ones are answered nearly "
            "alike."
        )


def code(path: Path, facts: Mapping[str, Any]) -> Iterator[str]:
    channels = facts["image_shape"][0]
    values = {
        "file": json.dumps(path.name),
        "background": facts["background"],
        "mode": "L" if channels == 1 else "RGB",
        "channels": channels,
        "classes": json.dumps(facts["classes"]),
        "store": STORE[channels],
    }
    values["picture"] = Template(PICTURE).substitute(values)
    if facts["format"] == "torch":
        yield "In Python, where torch is installed:"
        yield f"{FENCE}python\n{Template(PYTHON_TORCH).substitute(values)}{FENCE}"
        return
    yield "In Python, where onnxruntime is installed:"
    yield f"{FENCE}python\n{Template(PYTHON_ONNX).substitute(values)}{FENCE}"
    yield "In JavaScript, in a browser:"
    yield f"{FENCE}js\n{Template(JAVASCRIPT).substitute(values)}{FENCE}"


def accuracy(facts: Mapping[str, Any]) -> Iterator[str]:
    if facts["train_images"]:
        yield f"Trained on {facts['train_images']:,} images, epoch {facts['epoch']}."
    if test := facts["test"]:
        low, high = test["ci95"]
        yield (
            f"On {test['n']:,} test images, which training never read, {test['accuracy']:.2%} "
            f"right (95% interval {low:.2%} to {high:.2%})."
        )
    else:
        yield "Not judged on test images; `python test.py` does that."
    if facts["validation_accuracy"] is not None:
        yield f"On validation images, by which it was chosen: {facts['validation_accuracy']:.2%}."


def limits(facts: Mapping[str, Any]) -> Iterator[str]:
    other = (
        "A picture of none of the classes is given one of them all the same, at times with a high "
        "probability."
    )
    rare = (
        "Who or what is missing or rare in the training images, it does not know or knows badly; "
        "the report of `test.py` has figures by class."
    )
    lines = ["The figures hold for pictures from where the training images come from.", other, rare]
    if facts["quantized"]:
        lines.append("In int8: its probabilities are coarser than those of the network it is of.")
    yield listed(lines)


def licence(facts: Mapping[str, Any]) -> Iterator[str]:
    yield (
        "Of the weights: not known. Whoever passes this file on decides, within what the licence "
        "of the training images allows."
    )
    if facts["weights"]:
        yield (
            f"Training began from {text(facts['weights'])}, whose licence is to be looked up where "
            "they came from."
        )
