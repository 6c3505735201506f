"""TensorBoard's pictures: what is there, that they change nothing, and that none ends a run."""

import json
import re
import subprocess
import sys
import time
from pathlib import Path
from urllib.error import URLError
from urllib.request import Request, urlopen

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from nanocnn.run.checkpoint import load_checkpoint

SMALL = [
    *("data.limit=200", "data.validation=60", "train.batch_size=35", "train.epochs=3"),
    *("train.ema=0.9", "data.augment.mixup=0.4", "data.augment.shift=1"),
    "model={name: convnet, channels: [[4]], norm: batch, hidden: [8], dropout: 0.3}",
]
pytestmark = pytest.mark.usefixtures("drawn")
JSON = "application/json"
PAGES = {
    "images": {"confusion", "reliability", "mistakes", "augmented", "feature_maps", "filters/"},
    "histograms": {"weights/", "gradients/"},
}


def events(folder):
    found = EventAccumulator(str(folder), size_guidance={"images": 0, "histograms": 0})
    found.Reload()
    return found


@pytest.fixture
def run(script):
    def train(name, *options):
        result = script("train.py", *SMALL, *options, "--run-dir", name)
        assert result.code == 0, result.error
        return result

    return train


def test_pictures_change_nothing(run):
    run("each", "log.pictures=each")
    run("never", "log.pictures=never")
    for name in ("last.pt", "best.pt"):
        one, other = (load_checkpoint(Path(run_dir, name)) for run_dir in ("each", "never"))
        for part in ("model", "ema", "optimizer"):
            torch.testing.assert_close(one[part], other[part], rtol=0, atol=0)
        assert one["validation"] == other["validation"]
    lines = [
        [
            {key: value for key, value in json.loads(line).items() if "second" not in key}
            for line in Path(run_dir, "metrics.jsonl").read_text().splitlines()
        ]
        for run_dir in ("each", "never")
    ]
    assert lines[0] == lines[1]
    assert not events("never").Tags()["images"] and not Path("never/00000").exists()


def test_each_page_has_content_at_its_epochs(run):
    run("each", "log.pictures=each")
    run("some")
    tags = events("each").Tags()
    for page, names in PAGES.items():
        assert all(any(tag.startswith(name) for tag in tags[page]) for name in names), page
    assert tags["graph"] and any(tag.startswith("dead_relus/") for tag in tags["scalars"])
    assert {"config/text_summary", "precision_recall/3"} <= {*tags["tensors"]}
    steps = [[each.step for each in events(name).Images("augmented")] for name in ("each", "some")]
    assert steps == [[4, 8, 12], [4, 12]]
    assert {"best/val_accuracy", "best/val_loss"} <= {*tags["scalars"]}
    assert len((Path("each") / "00000/last_layer/metadata.tsv").read_text().splitlines()) == 60


def test_a_run_that_stops_early_has_the_last_pictures(run):
    stop = ("train.patience=1", "train.epochs=9", "schedule={name: constant}", "optimizer.lr=3")
    result = run("early", *stop)
    assert "it stops" in result.out or "it stops" in result.error
    assert events("early").Tags()["graph"]


def test_a_head_that_is_fitted_has_pictures(run):
    run("head", "train.fit_head=true", "train.epochs=0", "data.augment={}")
    tags = events("head").Tags()
    assert "confusion" in tags["images"] and "augmented" not in tags["images"] and tags["graph"]


def test_without_validation_there_is_what_needs_none(run):
    run("bare", "data.validation=0", "train.fit_head=true")
    tags = events("bare").Tags()
    assert "confusion" not in tags["images"] and "augmented" in tags["images"] and tags["graph"]
    assert not [tag for tag in tags["scalars"] if tag.startswith("best/")]


def test_pictures_that_fail_end_no_run(run, monkeypatch):
    def fail(*_):
        raise MemoryError("no\nroom")

    monkeypatch.setattr("nanocnn.evaluation.charts.draw_confusion", fail)
    result = run("failed", "log.pictures=each")
    warning = "TensorBoard shows no validation from here on: MemoryError: no room\n"
    assert result.error.count(warning) == 1
    tags = events("failed").Tags()
    assert "accuracy/val" in tags["scalars"] and "augmented" in tags["images"] and tags["graph"]


@pytest.mark.slow
def test_tensorboard_serves_each_page_and_one_row_of_hparams(run):
    run("runs/one", "log.pictures=each", "seed=4")
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", "runs", "--port", "0"]
    with Path("server.log").open("w") as log:
        server = subprocess.Popen([*command, "--load_fast=false"], stderr=log, stdout=log)
    try:
        deadline = time.monotonic() + 60
        while not (found := re.search(r"http://\S+:\d+", Path("server.log").read_text())):
            if server.poll() is not None or time.monotonic() > deadline:
                pytest.skip("TensorBoard cannot start here")
            time.sleep(0.2)
        ask = Asked(found[0])
        for plugin in ("scalars", "images", "histograms", "distributions", "pr_curves", "text"):
            assert ask(f"plugin/{plugin}/tags")["one"], plugin
        assert ask("plugin/graphs/info")["one"]["run_graph"]
        config = ask(f"plugin/projector/info?run={Path('runs/one').absolute().name}")
        assert config["embeddings"][0]["sprite"]["imagePath"]
        query = {"experimentName": "", "allowedStatuses": ["STATUS_UNKNOWN", "STATUS_SUCCESS"]}
        query |= {"colParams": [], "startIndex": 0, "sliceSize": 10}
        rows = ask("plugin/hparams/session_groups", query)["sessionGroups"]
        assert len(rows) == 1 and rows[0]["hparams"]["seed"] == 4
        assert {each["name"]["tag"] for each in rows[0]["metricValues"]} == {
            "best/val_accuracy",
            "best/val_loss",
        }
    finally:
        server.kill()
        server.wait()


class Asked:
    """A server's answers, once it has read the events."""

    def __init__(self, address):
        self.address = address

    def __call__(self, route, query=None):
        body = None if query is None else json.dumps(query).encode()
        deadline = time.monotonic() + 60
        while True:
            try:
                request = Request(f"{self.address}/data/{route}", body, {"Content-Type": JSON})
                with urlopen(request, timeout=10) as answer:
                    found = json.load(answer)
                if found and found != {"one": {}}:
                    return found
            except (URLError, TimeoutError):
                pass
            assert time.monotonic() < deadline, route
            time.sleep(0.2)
