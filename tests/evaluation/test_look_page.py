"""The page of what a network does: escaped, whole, and readable with filters of any size."""

import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_page import CHROMIUM, EVIL

from nanocnn.evaluation.drawing import fitted, mosaic, picture_of, signed
from nanocnn.evaluation.gradcam import Target
from nanocnn.evaluation.look_page import Found, Origin, look_page, look_pictures
from nanocnn.evaluation.looking import Filter, Responses, Sight, evenly, spread
from nanocnn.evaluation.maps import Step

TILES = mosaic([Image.new("LA", (9, 9), (200, 255))] * 9, 3)
ORIGIN = Origin(f"{EVIL}: lenet", f"runs/{EVIL}/best.pt", 3, "nanocnn look", [f"no {EVIL}"])


def found_of(weights, classes=("a", EVIL, "ü\n\x1b[31m")):
    """What could be found of a network with such a first layer."""
    channels = weights.shape[1]
    images = torch.randint(0, 256, (2, channels, 24, 30), dtype=torch.uint8)
    steps = [
        Step("conv", "Conv2d", "(24 + 2*0 - 3)/1 + 1 = 22", torch.randn(70, 22, 28)),
        Step("head", "Linear", "", torch.tensor([2.0, -1.0, 0.0])),
    ]
    filters = [Filter(0, 1.5, TILES, TILES), Filter(7, -0.5, TILES, None)]
    layers = [
        Responses("conv", (70, 22, 28), (3, 3), filters, "", True),
        Responses(EVIL, (70, 22, 28), (24, 30), filters, f"{EVIL} is Tanh", False),
    ]
    likely = np.array([[0.1, 0.7, 0.2], [1.0, 0.0, 0.0]])
    sight = Sight(
        images, [4, 9], [1, 2], likely, torch.rand(2, 7, 7), torch.zeros(2, 5, 5),
        Target("conv", (70, 5, 5)),
    )  # fmt: skip
    first = ("conv", weights)
    return Found(
        list(classes), [EVIL, "b.png"], "val", steps, 3, first, layers, ["other"], 50, 60, sight
    )


@pytest.mark.parametrize("shape", [(70, 3, 3, 3), (4, 1, 1, 1), (40, 3, 31, 31), (768, 3, 16, 16)])
def test_the_page_is_escaped_and_needs_nothing(shape):
    found = found_of(torch.randn(shape))
    page = look_page(found, ORIGIN)
    assert EVIL not in page and "<script" not in page and "\x1b" not in page
    addresses = re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?([^"')\s>]+)""", page)
    assert addresses and all(each.startswith("data:") for each in addresses)
    assert "never above zero" in page and "up to -0.5" in page  # without a ReLU it goes on
    assert "Tanh" in page and "the whole image" in page and "64 of the maps" in page
    assert page.count('class="filter"') <= 50 + 4
    for name, content in look_pictures(found):
        assert name.endswith(".png") and content.startswith(b"\x89PNG"), name


def test_no_name_leads_out_of_the_folder():
    found = found_of(torch.randn(2, 1, 3, 3))
    layers = [found.layers[0]._replace(name="../../x")]
    names = [name for name, _ in look_pictures(found._replace(layers=layers))]
    assert all(Path(name).name == name for name in names)


def test_zero_is_grey_and_each_filter_has_its_own_scale():
    weights = torch.tensor([[[[0.0, 0.5], [-1.0, 1.0]]], [[[0.0, 0.005], [-0.01, 0.01]]]])
    drawn = [signed(each)[0].tolist() for each in weights]
    assert drawn[0] == drawn[1] == [[128, 192], [1, 255]]
    assert signed(torch.zeros(1, 2, 2)).tolist() == [[[128, 128]] * 2]
    colours = torch.zeros(3, 1, 1)
    colours[0] = -2.0
    assert picture_of(signed(colours)).getpixel((0, 0)) == (1, 128, 128)


def test_small_pictures_grow_in_whole_squares_and_large_ones_shrink():
    sizes = [
        fitted(Image.new("L", size), 64).size for size in ((3, 3), (8, 8), (28, 20), (50, 100))
    ]
    assert sizes == [(36, 36), (64, 64), (56, 40), (32, 64)]


def test_images_are_of_many_classes():
    labels = torch.tensor([0] * 50 + [1] * 3 + [2] * 50)
    assert {0, 2} <= set(labels[spread(labels, 4)].tolist())
    assert evenly(5, 9).tolist() == [0, 1, 2, 3, 4] and evenly(100, 3).tolist() == [0, 50, 99]


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium")
def test_the_page_in_a_browser(tmp_path):
    """No error is told, every picture is one, and nothing is wider than a narrow window."""
    page = look_page(found_of(torch.randn(64, 3, 11, 11)), ORIGIN)
    probe = """<script>onload = () => {
      const broken = [...document.images].filter(image => !image.naturalWidth).length;
      const {scrollWidth, clientWidth} = document.documentElement;
      document.title = `${broken} broken, ${scrollWidth - clientWidth} too wide`;
    }</script></body>"""
    page = re.sub(r"<meta http-equiv[^>]*>", "", page).replace(' loading="lazy"', "")
    (tmp_path / "look.html").write_text(page.replace("</body>", probe), encoding="utf-8")
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--window-size=500,900"]
    command += ["--enable-logging=stderr", "--virtual-time-budget=3000", "--dump-dom"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", f"file://{tmp_path / 'look.html'}"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    assert "CONSOLE" not in done.stderr
    title = re.search(r"<title>(.*?)</title>", done.stdout)
    assert title and title[1] == "0 broken, 0 too wide"
