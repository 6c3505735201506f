"""The page of `nanocnn page` in headless Chromium: digits that are drawn, and the first answer.

python -m benchmarks.page --ckpt RUN            # 100 test images, painted and in strokes; 5 starts

RUN is one on MNIST. A test image is painted pixel by pixel as it is, or drawn with the mouse: a
line of the page's own pen along each run of ink in each row, which the page then moves and scales
as the data set does. What the page says is compared with what Python says of the same pixels. The
first answer is that to a digit drawn at once in a browser with an empty profile: from the address
to the answer on the screen.
"""

import statistics
import time
from argparse import ArgumentParser
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

import nanocnn
from benchmarks.browser import Browser, browser, served
from benchmarks.measure import report
from nanocnn.commands import main as command
from nanocnn.deploy.classifier import Classifier
from nanocnn.images.splits import load_split

READY = "document.documentElement.dataset.ready === 'true'"
INK = 128  # the level from which a pixel is drawn
PAINT = """
async function painted(rows) {
  clearBoard();
  const side = board.width / rows.length;
  rows.forEach((row, i) => row.forEach((v, j) => square(side * j, side * i, side, v)));
  const picture = drawing();
  return {...await run(picture), pixels: Array.from(picture.pixels)};
}
"""
SAID = (
    "({probabilities: Array.from(shown.probabilities), pixels: Array.from(shown.picture.pixels)})"
)


def runs_of_ink(image: np.ndarray) -> list[tuple[int, int, int]]:
    """(row, first column, last column) of each in an image (H, W)."""
    found = []
    for row, levels in enumerate(image >= INK):
        edges = np.flatnonzero(np.diff(levels.astype(int), prepend=0, append=0))
        found += [(row, int(a), int(b) - 1) for a, b in edges.reshape(-1, 2)]
    return found


def draw(one: Browser, image: np.ndarray) -> Any:
    """What the page says of the image drawn with the mouse: probabilities and pixels."""
    one.run("(clearBoard(), empty())")
    left, top, side = one.run("(r => [r.x, r.y, r.width])(board.getBoundingClientRect())")
    scale = side / len(image)
    for row, first, last in runs_of_ink(image):
        y = top + scale * (row + 0.5)
        for kind, column in (("Pressed", first), ("Moved", last), ("Released", last)):
            x = left + scale * (column + 0.5)
            mouse = {"button": "left", "buttons": 1, "clickCount": 1}
            one.send("Input.dispatchMouseEvent", type=f"mouse{kind}", x=x, y=y, **mouse)
    one.run("(shown = null, askAboutDrawing())")  # not what was said of a part of it
    one.until("shown")
    return one.run(SAID)


def compared(
    classifier: Classifier, answers: list[Any], images: np.ndarray, labels: list[int]
) -> dict[str, Any]:
    """How far the page's answers are Python's to the same pixels, and how many are right."""
    seen = np.array([each["pixels"] for each in answers], np.uint8).reshape(images.shape)
    chances = classifier.probabilities(list(seen), invert="never")
    theirs = np.array([each["probabilities"] for each in answers])
    alone = classifier.probabilities(list(images), invert="never").argmax(1)
    return {
        "n": len(images),
        "label as Python's": int((theirs.argmax(1) == chances.argmax(1)).sum()),
        "largest difference": float(abs(theirs - chances).max()),
        "label as of the test image": int((theirs.argmax(1) == alone).sum()),
        "right": int((theirs.argmax(1) == labels).sum()),
    }


def first_answer(url: str, image: np.ndarray) -> float:
    """Seconds, in a new browser."""
    with TemporaryDirectory(ignore_cleanup_errors=True) as profile, browser(profile) as one:
        start = time.perf_counter()
        one.open(url)
        one.until(READY)
        draw(one, image)
        return time.perf_counter() - start


def main() -> None:
    parser = ArgumentParser("python -m benchmarks.page")
    parser.add_argument("--ckpt", required=True)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--starts", type=int, default=5)
    args = parser.parse_args()
    classifier = nanocnn.load(args.ckpt, device="cpu")
    config, info = classifier.config, classifier.info
    test = load_split("test", config.data, config.seed, info)
    assert isinstance(test.images, torch.Tensor)
    images = test.images[: args.count, 0].numpy()
    labels = test.labels[: args.count].tolist()
    with TemporaryDirectory(ignore_cleanup_errors=True) as temporary:  # Chromium may still write
        folder = Path(temporary, "page")
        command.run(["page", "--ckpt", args.ckpt, "--out", str(folder)])
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        with served(folder) as url:
            starts = [first_answer(url, images[0]) for _ in range(args.starts)]
            with browser(Path(temporary, "profile")) as one:
                one.open(url)
                one.until(READY)
                one.run(PAINT + "undefined")
                painted = [one.run(f"painted({image.tolist()})") for image in images]
                drawn = [draw(one, image) for image in images]
    rows = [
        {"digits": name, **compared(classifier, answers, images, labels)}
        for name, answers in (("painted", painted), ("strokes", drawn))
    ]
    facts = {"first answer, s": statistics.median(starts), "slowest, s": max(starts)}
    report("page", rows, **facts, MB=size / 1e6)


if __name__ == "__main__":
    main()
