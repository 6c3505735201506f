"""What an exported file says against the checkpoint: of test images, and of photographs of many
sizes and formats.

python -m benchmarks.export RUN                # test images, and int8
python -m benchmarks.export RUN --photos DIR   # photographs too

Of a photograph, as decoded, the pixels that the network sees are compared with Pillow's, and the
probabilities with those of nanocnn.load.
"""

import io
import json
import random
from argparse import ArgumentParser
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from model import MODELS
from nanocnn.deploy.agreement import Examples, compare, expected, in_parts, judged_by
from nanocnn.deploy.classifier import Classifier, classifier_of
from nanocnn.deploy.export import Judge, by_onnxruntime, onnx_bytes, onnx_of, program_of
from nanocnn.deploy.portable import Portable, portable
from nanocnn.deploy.quantize import figures_of, quantized
from nanocnn.images.decode import fitted, flat
from nanocnn.images.splits import load_split, load_train_and_val
from nanocnn.networks.build import catalogue
from nanocnn.run.restore import Restored, restore

LONGER = [24, 60, 100, 161, 224, 427, 640, 1024, 1920]  # sides, pixels
SHAPES = [(1.0, 1.0), (0.66, 1.0), (1.0, 0.56), (0.3, 1.0), (1.0, 0.1)]  # of the picture's sides
FORMATS = ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"]
MARGIN = 0.02  # of the two best, beyond which no answer should change


def photographs(folder: Path, count: int) -> Iterator[tuple[str, Image.Image]]:
    """Photographs cut and resized to many sizes, saved in many formats and decoded again."""
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
    chooser = random.Random(0)
    for number in range(count):
        with Image.open(chooser.choice(paths)) as opened:
            picture = opened.convert("RGB")
        across, down = chooser.choice(SHAPES)
        sides = max(1, round(picture.width * across)), max(1, round(picture.height * down))
        picture = picture.crop((0, 0, *sides))
        scale = chooser.choice(LONGER) / max(sides)
        size = max(1, round(sides[0] * scale)), max(1, round(sides[1] * scale))
        if number % 25 == 0:
            size = (1, size[1]) if number % 2 else (size[0], 1)
        kind = FORMATS[number % len(FORMATS)]
        buffer = io.BytesIO()
        picture.resize(size).convert("L" if number % 7 == 0 else "RGB").save(buffer, kind)
        yield kind, Image.open(buffer)


def on_photographs(
    model: Portable, judge: Judge, classifier: Classifier, folder: Path, count: int
) -> dict[str, Any]:
    form = model.resizing.form
    pixels = other = greatest = changed = 0
    apart = 0.0
    kinds: Counter[str] = Counter()
    for kind, opened in photographs(folder, count):
        picture = flat(opened, form)
        array = np.array(picture).reshape(1, picture.height, picture.width, form.shape[0])
        seen = model.resizing(torch.from_numpy(array).permute(0, 3, 1, 2))[0].numpy()
        difference = np.abs(seen - fitted(picture, form).astype(np.float32))
        pixels, other = pixels + difference.size, other + int((difference > 0).sum())
        greatest = max(greatest, int(difference.max()))
        found, wanted = judge(array)[0], classifier.probabilities(picture, invert="never")[0]
        best = np.sort(wanted)
        is_clear = best[-1] - best[-2] > MARGIN
        changed += int(is_clear and found.argmax() != wanted.argmax())
        apart = max(apart, float(np.abs(found - wanted).max()))
        kinds[kind] += 1
    return {
        "photographs": dict(kinds),
        "pixels": pixels,
        "pixels unlike Pillow's": other,
        "greatest difference of a pixel": greatest,
        "clear answers changed": changed,
        "greatest difference of a probability": apart,
    }


def all_of(restored: Restored, name: str) -> Examples:
    """Every image of a split as its training would read it, of files too."""
    config, info = restored.config, restored.info
    if name == "test":
        split = load_split(name, config.data, config.seed, info, restored.path.parent)
    else:
        split = load_train_and_val(config.data, config.seed, info)[name]
    assert isinstance(split.images, torch.Tensor)
    return Examples(name, split.images, split.labels, in_parts(split.images))


def main() -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--photos", type=Path)
    parser.add_argument("--count", type=int, default=300)
    args = parser.parse_args()
    restored = restore(args.run, networks=catalogue(MODELS))
    model = portable(restored)
    proto = onnx_of(program_of(model), 1 + (model.head is not None))
    content = onnx_bytes(proto, {})
    judge = by_onnxruntime(content)
    test = all_of(restored, "test")
    wanted = expected(restored, test)
    result: dict[str, Any] = {"run": str(args.run)}
    result["float32"] = compare(judged_by(judge, test), wanted)._asdict()
    if args.photos:
        classifier = classifier_of(restored, "cpu")
        result |= on_photographs(model, judge, classifier, args.photos, args.count)
    small = onnx_bytes(quantized(proto, all_of(restored, "val")), {})
    before, after = figures_of([content, small], test)
    result |= {"float32 file": before._asdict(), "int8 file": after._asdict()}
    for key, value in result.items():
        print(f"{key}: {value}")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
