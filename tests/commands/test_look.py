"""nanocnn look: on every kind of data and network, without changing the run."""

import csv
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import build_model, small
from PIL import Image

from nanocnn.evaluation import looking
from nanocnn.networks.table import trace
from nanocnn.run.checkpoint import load_checkpoint, save_checkpoint

pytestmark = pytest.mark.slow
SMALL = "model={name: convnet, channels: [[4], [6]], norm: none, hidden: [8]}"
QUICK = [SMALL, "train.epochs=1", "data.limit=40", "data.validation=10", "--run-dir", "run"]


def state(folder):
    return {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def run(script):
    """A folder in which run/ is a run."""
    done = script("train.py", *QUICK)
    assert done.code == 0, done.error
    return Path("run")


@pytest.fixture
def coloured(tmp_path):
    """A root with pictures of noise, some of each class of each split: a folder, or a csv."""

    def make(classes, as_csv=False):
        random, rows = np.random.default_rng(0), []
        for number in range(3 * classes):
            place = f"train/kind {number % classes}/{number}.png"
            path = tmp_path / "coloured" / place
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(random.integers(0, 256, (12, 14, 3), dtype=np.uint8)).save(path)
            rows.append({"path": place, "label": f"kind {number % classes}"})
        if as_csv:
            with (tmp_path / "coloured" / "train.csv").open("w", newline="") as file:
                writer = csv.DictWriter(file, ["path", "label"])
                writer.writeheader()
                writer.writerows(rows)
        return tmp_path / "coloured"

    return make


def test_a_run_is_looked_at_and_not_changed(script, digits_run):
    before = state(digits_run)
    done = script("nanocnn", "look", "--ckpt", digits_run, "--images", "60")
    assert done.code == 0, done.error
    after = state(digits_run)
    assert {path: after[path] for path in before} == before
    made = {path.relative_to(digits_run).as_posix() for path in after if path not in before}
    pictures = (
        "maps",
        "filters",
        "patches_features.0",
        "patches_features.4",
        "occlusion",
        "gradcam",
    )
    assert made == {"look/look.html", *(f"look/{name}.png" for name in pictures)}
    page = (digits_run / "look" / "look.html").read_text(encoding="utf-8")
    shapes = re.findall(r"<b>([\dx ]+)</b>", page)
    assert shapes[:6] == [
        "1 x 28 x 28", "25 x 26 x 26", "25 x 13 x 13", "50 x 11 x 11", "50 x 5 x 5", "1250",
    ]  # fmt: skip
    assert "receptive field 3 x 3 pixels" in page and "receptive field 8 x 8 pixels" in page
    assert "60 of 1,294" in page and "run backwards" in page.replace("\n", " ")
    assert page.count('alt="the patches"') == page.count('alt="what of them') == 25 + 50


def test_again_it_takes_the_place_of_the_earlier_one(script, run):
    assert script("nanocnn", "look", "--ckpt", run, "--out", "seen").code == 0
    kept = Path("seen/mine.txt")
    kept.write_text("kept")
    again = script("nanocnn", "look", "--ckpt", run, "--out", "seen", "--layer", "features.3")
    assert again.code == 0 and kept.exists(), again.error
    assert not Path("seen/patches_features.0.png").exists()
    assert Path("seen/patches_features.3.png").exists()
    page = Path("seen/look.html").read_text()
    assert "--layer features.3" in page and "Other convolutions" in page


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--layer", "features.9"], "known: features.0, features.3"),
        (["--images", "0"], "--images 0: should be at least 1"),
        (["--out", "run"], "run: holds other files"),
        (["--data-root", "nowhere"], "nowhere"),
        (["--ckpt", "nothing"], "nothing: no such run"),
    ],
)
def test_mistakes_are_one_line_and_write_nothing(script, digit_pictures, options, said):
    root = digit_pictures({"train": 60})
    own = ["data.dataset=folder", f"data.root={root}"]
    assert script("train.py", *own, *QUICK).code == 0
    before = state(Path("run"))
    done = script("nanocnn", "look", "--ckpt", "run", *options)
    assert done.code == 2 and said in done.error, done.error
    assert [*Path().rglob("look*")] == [] and state(Path("run")) == before


@pytest.mark.parametrize(("classes", "as_csv", "limit"), [(2, True, "4GB"), (100, False, "1KB")])
def test_own_pictures_in_colour(script, coloured, classes, as_csv, limit):
    """Few classes of a csv, with a logistic output; a hundred of a folder that does not fit into
    memory; without any test split, and without validation images.
    """
    root = coloured(classes, as_csv)
    own = [f"data.dataset={'csv' if as_csv else 'folder'}", f"data.root={root}", "data.test=0"]
    loss = ["loss={name: bce}"] if classes == 2 else []
    own += [f"data.memory_limit={limit}", *loss, "data.limit=null", "data.validation=0"]
    trained = script("train.py", *QUICK[:3], *own, "--run-dir", "run")
    assert trained.code == 0, trained.error
    done = script("nanocnn", "look", "--ckpt", "run")
    assert done.code == 0, done.error
    page = Path("run/look/look.html").read_text()
    assert (
        f"patches of {3 * classes} of {3 * classes}" in done.out and "images of train" in done.out
    )
    assert "weights of red, green and blue" in page and "kind 1" in page
    assert "train/kind" in page


def test_a_network_of_a_library_that_branches(script):
    model = "model={name: torchvision.squeezenet1_1}"
    assert script("train.py", model, *QUICK[1:]).code == 0
    layer = "network.features.3.expand3x3"
    done = script("nanocnn", "look", "--ckpt", "run", "--images", "20", "--layer", layer)
    # the other 13 look at maps of one unit
    assert done.code == 0 and "1 of 13 convolutions" in done.out, done.error
    page = Path("run/look/look.html").read_text()
    assert f"No projection back to the pixels for {layer}" in page and "single line" in page
    assert "64 filters, maps of 6 x 6; receptive field 15 x 15 pixels" in page
    assert Path("run/look/gradcam.png").exists()


def test_of_many_convolutions_some_are_chosen_the_first_and_the_last_too():
    calls, _ = trace(build_model("vgg16", (1, 32, 32), 10, **small("vgg16")), (1, 32, 32))
    chosen = [call.name for call in looking.choose(calls, None)]
    assert len(chosen) == 6 and (chosen[0], chosen[-1]) == ("features.0", "features.32")
    assert [call.name for call in looking.choose(calls, ["features.2"])] == ["features.2"]


def test_a_network_without_convolutions_shows_what_it_has(script):
    assert script("train.py", "model={name: mlp, hidden: [20]}", *QUICK[1:]).code == 0
    done = script("nanocnn", "look", "--ckpt", "run")
    assert done.code == 0 and "no convolution" in done.error
    names = {path.name for path in Path("run/look").iterdir()}
    assert names == {"look.html", "maps.png", "filters.png", "occlusion.png"}
    assert "20 filters of 28 x 28 pixels" in Path("run/look/look.html").read_text()


def test_a_checkpoint_of_the_first_version_and_nothing_else(script, run):
    """It knows no temperature, and no run folder lies about it."""
    checkpoint = load_checkpoint(run / "best.pt")
    for key in ("version", "semantics", "head"):
        checkpoint.pop(key, None)
    checkpoint["validation"].pop("temperature", None)
    checkpoint["data"] = {
        key: checkpoint["data"][key] for key in ("dataset", "classes", "mean", "std", "image_shape")
    }
    Path("alone").mkdir()
    save_checkpoint(Path("alone"), ["old.pt"], checkpoint)
    done = script("nanocnn", "look", "--ckpt", "alone/old.pt")
    assert done.code == 0, done.error
    assert Path("alone/look_old/look.html").exists()


def test_without_captum_the_rest_is_there_and_a_line_says_how_to_get_it(script, run, monkeypatch):
    monkeypatch.setitem(sys.modules, "captum", None)
    done = script("nanocnn", "look", "--ckpt", run)
    assert done.code == 0 and done.error.count("warning:") == 1
    assert 'pip install "nanocnn[look]"' in done.error
    assert Path("run/look/occlusion.png").exists() and not Path("run/look/gradcam.png").exists()
    assert "needs the package captum" in Path("run/look/look.html").read_text()


def test_large_networks_are_looked_at_through_fewer_images():
    class Call:
        def __init__(self, macs):
            self.macs = macs

    calls = [Call(10**9)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(looking, "macs", lambda call: call.macs)
        assert looking.images_within(calls, 50_000) == (500, 8)
        assert looking.images_within([Call(10**11)], 50_000) == (100, 2)
        assert looking.images_within([Call(10**6)], 50_000) == (5000, 8)
        assert looking.images_within([Call(10**6)], 30) == (30, 8)
