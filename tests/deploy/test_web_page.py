"""nanocnn page: what the browser says is what Python says, and nothing leaves the folder."""

import json
import shutil
import struct
import zlib

import numpy as np
import pytest
import torch
from conftest import load_config, train
from mnist_like import mnist_like, write_mnist_like
from PIL import Image

import nanocnn
from benchmarks.browser import CHROMIUM, browser, served
from nanocnn.commands import main as nanocnn_script
from nanocnn.deploy.runtime import runtime_files
from nanocnn.evaluation.occlusion import occlusion
from nanocnn.system.errors import UserError

pytestmark = [
    pytest.mark.slow,
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium"),
]
EVIL = "<script>alert(1)</script>"
READY = "document.documentElement.dataset.ready === 'true'"
HELPERS = """
function draw(rows) {
  clearBoard();
  const side = board.width / rows.length;
  rows.forEach((row, i) => row.forEach((v, j) => square(side * j, side * i, side, v)));
}
async function answerTo(rows) {
  draw(rows);
  const picture = drawing();
  return {...await run(picture), pixels: Array.from(picture.pixels)};
}
"""


@pytest.fixture(scope="module")
def digits():
    return mnist_like()


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A page, and the run that it is of, trained on digits that are made as MNIST's are."""
    try:
        runtime_files()
    except UserError as error:
        pytest.skip(str(error))
    folder = tmp_path_factory.mktemp("page")
    write_mnist_like(folder, 1400)
    small = "model={name: convnet, channels: [[8], [16]], hidden: [32]}"
    config = load_config(
        "mnist.yaml", [f"data.root={folder}", "data.validation=200", "train.epochs=8", small]
    )
    run = train(config, folder / "run")
    nanocnn_script.run(["page", "--ckpt", str(run), "--out", str(folder / "page")])
    return folder / "page", run


@pytest.fixture(scope="module")
def opened(page, tmp_path_factory):
    """The page in a browser, and its address."""
    with served(page[0]) as url, browser(tmp_path_factory.mktemp("profile")) as one:
        one.open(url)
        one.until(READY)
        one.run(HELPERS + "undefined")
        yield one, url
        assert one.complaints == []
        assert one.requests and all(
            each.startswith((url, "blob:", "data:")) for each in one.requests
        )


def answer_to_file(opened, path):
    """What the page answers to a file: probabilities, or the line that says why not."""
    opened.run("shown = null; tell('')")
    opened.choose("#file", path)
    opened.until("shown || !find('trouble').hidden")
    return opened.run("find('trouble').textContent || shown.probabilities")


def test_what_is_drawn_is_recognised_as_python_does(page, opened, digits):
    classifier = nanocnn.load(page[1])
    images = digits[0][1400:1430]
    expected = classifier.probabilities(list(images), invert="never")
    assert (expected.argmax(1) == digits[1][1400:1430]).mean() > 0.8  # or it says little
    for image, chances in zip(images, expected, strict=True):
        answer = opened[0].run(f"answerTo({image.tolist()})")
        assert answer["pixels"] == image.ravel().tolist()  # centred already, it stays
        np.testing.assert_allclose(answer["probabilities"], chances, atol=1e-4)


def test_what_is_drawn_small_in_a_corner_is_centred(opened, digits):
    image = digits[0][1400]
    rows = np.zeros((140, 140), int)
    rows[100:128, 5:33] = image
    answer = opened[0].run(f"answerTo({rows.tolist()})")
    assert answer["pixels"] == image.ravel().tolist()
    assert opened[0].run("(clearBoard(), drawing())") is None


def test_a_finger_draws(opened):
    one, _ = opened
    one.run("clearBoard(); askAboutDrawing()")
    x, y, side = one.run("(r => [r.x, r.y, r.width])(board.getBoundingClientRect())")
    for kind, share in (("touchStart", 0.2), ("touchMove", 0.5), ("touchMove", 0.8)):
        points = [{"x": x + side / 2, "y": y + share * side}]
        one.send("Input.dispatchTouchEvent", type=kind, touchPoints=points)
    one.send("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])
    one.until("shown")
    box = one.run("""(({data}) =>
      boxOf(Float64Array.from({length: 280 * 280}, (_, k) => data[4 * k]), 280, 280)
    )(ink.getImageData(0, 0, 280, 280))""")
    assert abs(box["height"] - (0.6 * 280 + 24)) <= 4 and abs(box["width"] - 24) <= 4
    assert one.run("find('hint').hidden && !find('answer').hidden")


def test_a_picture_is_read_as_python_reads_it(page, opened, digits, tmp_path):
    classifier = nanocnn.load(page[1])
    image = Image.fromarray(digits[0][1405])
    colours = np.random.default_rng(0).integers(0, 256, (28, 28, 3), dtype=np.uint8)
    see_through = image.resize((90, 60)).convert("RGB")
    see_through.putalpha(image.resize((90, 60)))
    turned = Image.Exif()
    turned[0x0112] = 6
    image.save(tmp_path / "plain.png")
    Image.fromarray(colours).save(tmp_path / "colours.png")
    image.resize((300, 200), Image.BICUBIC).save(tmp_path / "large.png")
    see_through.save(tmp_path / "alpha.png")
    image.resize((280, 200)).save(tmp_path / "turned.jpg", exif=turned, quality=95)
    for path in sorted(tmp_path.iterdir()):
        answer = answer_to_file(opened[0], path)
        (expected,) = classifier.probabilities(path, invert="never")
        tolerance = 0.05 if path.name in ("alpha.png", "turned.jpg") else 1e-4  # rounded elsewhere
        np.testing.assert_allclose(answer, expected, atol=tolerance, err_msg=path.name)


def chunk(kind, content):
    body = kind + content
    return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))


def test_hostile_pictures_give_a_line_and_the_page_goes_on(opened, digits, tmp_path):
    good = tmp_path / "good.png"
    Image.fromarray(digits[0][1400]).save(good)
    header = struct.pack(">IIBBBBB", 10_000, 10_000, 8, 0, 0, 0, 0)
    bomb = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100_000)))
    files = {
        "empty.png": (b"", "empty"),
        "text.png": (b"no picture at all", "none of PNG"),
        "drawing.svg": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "none of PNG"),
        "cut.jpg": (b"\xff\xd8\xff\xe0 and no more", "a JPEG that this browser cannot read"),
        "bomb.png": (b"\x89PNG\r\n\x1a\n" + bomb, "more than 64,000,000 pixels"),
        f"{EVIL.replace('/', '')}.png": (b"GIF8", "a GIF that this browser cannot read"),
    }
    for name, (content, line) in files.items():
        (tmp_path / name).write_bytes(content)
        assert answer_to_file(opened[0], tmp_path / name).startswith(f"{name}: {line}")
        assert len(answer_to_file(opened[0], good)) == 10


def test_it_shows_where_the_network_looks(page, opened, digits):
    image = digits[0][1407]
    opened[0].run(f"draw({image.tolist()}); askAboutDrawing()")
    opened[0].until("shown && !answering")
    found = opened[0].run("occlusion(shown.picture, firstOf(shown.probabilities))")
    classifier = nanocnn.load(page[1])
    network = torch.nn.Sequential(classifier._model, Cooled(classifier.temperature))
    mean, std = classifier.info.mean[0], classifier.info.std[0]
    images = (torch.tensor(image)[None, None] / 255 - mean) / std
    expected = occlusion(network, images)
    np.testing.assert_allclose(found["values"], expected.ravel(), atol=0.02)
    opened[0].run("find('look').click()")
    opened[0].until("!find('map').hidden")
    assert "needed for" in opened[0].run("find('caption').textContent")
    opened[0].run("find('look').click()")
    opened[0].until("find('map').hidden")


class Cooled(torch.nn.Module):
    """Divides logits by a temperature."""

    def __init__(self, temperature):
        super().__init__()
        self.temperature = temperature

    def forward(self, logits):
        return logits / self.temperature


def test_names_stay_text_and_narrow_screens_are_not_exceeded(page, tmp_path):
    shutil.copytree(page[0], tmp_path / "page")
    facts = json.loads((tmp_path / "page" / "nanocnn.json").read_text())
    facts |= {"title": EVIL, "classes": [EVIL, "a" * 200, *"23456789"]}
    (tmp_path / "page" / "nanocnn.json").write_text(json.dumps(facts))
    with served(tmp_path / "page") as url, browser(tmp_path / "profile") as one:
        one.open(url, width=390, touch=True)
        one.until(READY)
        one.run("stroke(100, 60, 140, 220); askAboutDrawing()")
        one.until("shown")
        assert one.run("find('title').textContent") == EVIL
        assert EVIL in one.run("[...find('bars').children].map(bar => bar.innerText).join()")
        assert one.run("document.documentElement.scrollWidth - innerWidth") <= 0
        assert one.complaints == []


def test_from_the_disk_it_says_what_to_type(page, tmp_path):
    with browser(tmp_path / "profile") as one:
        one.open(f"file://{page[0] / 'index.html'}")
        one.until("document.readyState === 'complete'")
        assert "python -m http.server" in one.run("document.body.innerText")
        assert not one.run("'Loading' in window || document.body.innerText.includes('Loading')")
