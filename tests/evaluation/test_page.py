"""The page of a report: whole, escaped, small, and alive in a browser."""

import json
import re
import shutil
import subprocess

import numpy as np
import pytest
import torch

from nanocnn.evaluation import charts
from nanocnn.evaluation.evaluate import Evaluation
from nanocnn.evaluation.occlusion import occlusion
from nanocnn.evaluation.page import About, Mistakes, hardest_pairs, report_page
from nanocnn.evaluation.tables import figures

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
EVIL = "<script>alert(1)</script>"
ROWS = [
    {"epoch": e, "train_loss": 2 / e, "val_loss": 2.2 / e, "train_accuracy": e / 4}
    | {"val_accuracy": e / 5}
    for e in (1, 2, 3)
]


def report_of(classes: list[str], n: int) -> dict:
    random = np.random.default_rng(0)
    labels = random.integers(0, len(classes), n)
    logits = random.normal(size=(n, len(classes))).astype(np.float32)
    logits[np.arange(n), labels] += 2
    evaluation = Evaluation(
        1.0, 0.5, torch.tensor(logits.argmax(1)), torch.tensor(logits), torch.tensor(labels)
    )
    about = {"checkpoint": f"runs/{EVIL}/best.pt", "epoch": 3, "split": "test", "trained_on": 0}
    about |= {"dataset": "folder", "unreadable": []}
    return figures(evaluation, classes, temperature=1.3) | about


def page_of(classes: list[str], n: int, side: int = 32) -> str:
    report = report_of(classes, n)
    images = torch.randint(0, 256, (len(report["mistakes"]), 3, side, side), dtype=torch.uint8)
    mistakes = Mistakes(images, torch.rand(len(images), 7, 7))
    about = About(f"{EVIL}: lenet", ROWS, f"name: '{EVIL}'\n", "python test.py", "cpu")
    return report_page(report, about, mistakes)


def test_every_text_is_escaped():
    page = page_of([EVIL, "b & c", '"quoted"', "$x^2$", "ü\n\x1b[31m"], 200)
    assert EVIL not in page
    assert page.count("<script>") == 1  # its own
    assert "b &amp; c" in page and "\x1b" not in page


def test_nothing_is_fetched():
    page = page_of(list("abc"), 100)
    addresses = re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?([^"')\s>]+)""", page)
    assert addresses and all(each.startswith(("data:", "#")) for each in addresses)
    assert "default-src 'none'" in page


def test_the_page_of_a_hundred_classes_is_small():
    page = page_of([f"class {k}" for k in range(100)], 10_000, side=160)
    assert len(page) < 5_000_000
    assert page.count('class="picture"') == 100  # of the mistakes, not more
    assert "class 99" in page


def test_without_pictures_mistakes_are_a_list():
    report = report_of(list("ab"), 50)
    about = About("title", [], "name: a\n", "python test.py", "")
    page = report_page(report, about, None)
    assert "data:image" not in page.split("The surest mistakes")[1]
    assert all(f"{each['confidence']:.2%}" in page for each in report["mistakes"])


def test_a_network_without_mistakes_has_a_page():
    evaluation = Evaluation(
        0.0, 1.0, torch.arange(3), 9 * torch.eye(3), torch.arange(3)
    )  # a class with one image each
    about = {"checkpoint": "a.pt", "epoch": 1, "split": "test", "trained_on": 0, "unreadable": []}
    report = figures(evaluation, list("abc")) | about | {"dataset": "digits"}
    page = report_page(report, About("t", ROWS[:1], "", "", ""), None)
    assert "It makes no mistake." in page and "fewer than 10 images" in page


def test_the_hardest_pairs_come_first():
    pairs = hardest_pairs([[8, 2, 0], [5, 5, 0], [0, 1, 0]], list("abc"))
    assert [(p["label"], p["prediction"], p["images"]) for p in pairs] == [
        ("b", "a", 5),
        ("a", "b", 2),
        ("c", "b", 1),
    ]
    assert pairs[0]["share"] == 0.5


class Corner(torch.nn.Module):
    """Sees the mean of the upper left quarter alone."""

    def forward(self, images):
        seen = images[:, :, : images.shape[2] // 2, : images.shape[3] // 2].mean((1, 2, 3))
        return torch.stack([seen, -seen], 1)


def test_occlusion_shows_what_a_network_looks_at():
    images = torch.ones(3, 1, 28, 28)
    maps = occlusion(Corner(), images)
    assert maps.shape == (3, 7, 7)
    assert (maps[:, :3, :3] > 0.01).all()
    assert maps[:, 5:, :].abs().max() < 1e-12 and maps[:, :, 5:].abs().max() < 1e-12
    other = occlusion(Corner(), images, torch.ones(3, dtype=torch.long))
    assert torch.allclose(other, -maps)
    assert occlusion(Corner(), torch.ones(1, 1, 3, 2)).shape == (1, 7, 7)  # smaller than the grid


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium")
def test_the_page_in_a_browser(tmp_path):
    """A click sorts, no name acts, nothing is asked for, and no error is told."""
    probe = """<script>
      const body = document.querySelector("table.sorted").tBodies[0];
      const column = k => [...body.rows].map(row => row.cells[k].textContent);
      const heads = document.querySelectorAll("table.sorted button");
      const before = column(0); heads[1].click(); const down = column(1);
      heads[1].click(); const up = column(1); heads[0].click();
      document.title = JSON.stringify({before, down, up, after: column(0),
        asked: performance.getEntriesByType("resource").map(e => e.name)
          .filter(name => !name.startsWith("data:")),
        wide: document.documentElement.scrollWidth - innerWidth});
    </script></body>"""
    names = [EVIL, "cat", "dog", "10", "9"]
    page = page_of(names, 300).replace("</body>", probe)
    (tmp_path / "test.html").write_text(page, encoding="utf-8")
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--window-size=500,900"]
    command += ["--enable-logging=stderr", "--virtual-time-budget=3000", "--dump-dom"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", f"file://{tmp_path / 'test.html'}"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    assert "CONSOLE" not in done.stderr
    title = re.search(r"<title>(.*?)</title>", done.stdout)
    assert title
    found = json.loads(title[1].replace("&lt;", "<").replace("&gt;", ">"))
    assert found["before"] == names == found["after"]
    values = [float(text.rstrip("%")) for text in found["down"]]
    assert values == sorted(values, reverse=True)
    assert found["up"] == found["down"][::-1]
    assert found["asked"] == [] and found["wide"] <= 0


@pytest.mark.filterwarnings("error")
def test_names_in_any_script_are_drawn_without_a_word():
    drawn = charts.confusion_matrix([[3, 1], [0, 2]], ["猫", "$x$"])
    assert "猫" in drawn and "$x$" in drawn
