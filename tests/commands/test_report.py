"""What test.py writes beside its figures: the page, and a file of predictions."""

import csv
import json
import os
from pathlib import Path

import pytest

from nanocnn.run.checkpoint import load_checkpoint

QUICK = ["train.epochs=1", "data.limit=300", "--run-dir", "run"]


def rows_of(name: str) -> list[dict[str, str]]:
    with Path(name).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_predictions_are_those_that_the_figures_count(script, digits_run):
    done = script("test.py", "--ckpt", digits_run, "--predictions", "p.csv", "--json", "t.json")
    assert done.code == 0, done.error
    report, rows = json.loads(Path("t.json").read_text()), rows_of("p.csv")
    assert [row["image"] for row in rows] == [str(i) for i in range(359)]
    assert sum(row["label"] == row["prediction"] for row in rows) == report["correct"]
    for row in rows:
        likely = [float(row[str(digit)]) for digit in range(10)]
        assert sum(likely) == pytest.approx(1, abs=1e-4)
        assert max(likely) == float(row["confidence"]) == float(row[row["prediction"]])
    wrong = sorted(float(r["confidence"]) for r in rows if r["label"] != r["prediction"])[::-1]
    assert [each["confidence"] for each in report["mistakes"]] == pytest.approx(wrong, rel=1e-4)


@pytest.mark.parametrize("option", ["--json", "--predictions"])
def test_a_pipe_or_a_device_is_written_to_and_never_replaced(script, digits_run, option):
    os.mkfifo("pipe")
    reader = os.open("pipe", os.O_RDWR | os.O_NONBLOCK)
    Path("link").symlink_to("p.csv")
    try:
        for name in ("pipe", "link"):
            done = script("test.py", "--ckpt", digits_run, option, name)
            assert done.code == 0, done.error
        assert Path("pipe").is_fifo() and Path("link").is_symlink()
        piped = os.read(reader, 1 << 20)
        assert len(piped) > 5_000 and piped[:5_000] == Path("p.csv").read_bytes()[:5_000]
    finally:
        os.close(reader)


def test_the_temperature_is_that_of_the_checkpoint(script):
    assert script("train.py", *QUICK, "data.limit=null", "train.epochs=2").code == 0
    kept = load_checkpoint(Path("run/best.pt"))["validation"]["temperature"]
    assert script("test.py", "--ckpt", "run").code == 0
    found = json.loads(Path("run/test.json").read_text())["calibration"]
    assert found["temperature"] == kept and kept > 0
    assert found["ece"] != found["before"]["ece"]


def test_without_enough_validation_images_there_is_no_temperature(script):
    assert script("train.py", *QUICK, "data.validation=99").code == 0
    done = script("test.py", "--ckpt", "run")
    found = json.loads(Path("run/test.json").read_text())["calibration"]
    assert found["temperature"] is None and found["ece"] == found["before"]["ece"]
    assert "keeps no temperature" in done.out


def test_the_page_stands_beside_the_report(script, digits_run):
    done = script("test.py", "--ckpt", digits_run, "--report")
    assert done.code == 0, done.error
    page = Path(digits_run, "test.html").read_text(encoding="utf-8")
    report = json.loads(Path(digits_run, "test.json").read_text())
    assert f"{report['accuracy']:.2%}" in page and "data:image/png" in page
    assert script("test.py", "--ckpt", digits_run, "--report", "--no-pictures").code == 0
    assert "data:image" not in Path(digits_run, "test.html").read_text().split("surest mistakes")[1]


@pytest.mark.parametrize("channels", [1, 3])
def test_a_planted_wrong_label_is_among_the_first_mistakes(script, digit_pictures, channels):
    root = digit_pictures({"train": 450, "test": 60})
    first = next((root / "test" / "digit 0").iterdir())
    first.rename(root / "test" / "digit 1" / "planted.png")
    own = ["data.dataset=folder", f"data.root={root}", f"data.channels={channels}"]
    assert script("train.py", *own, "train.epochs=8", "--run-dir", "run").code == 0
    done = script("test.py", "--ckpt", "run", "--report")
    assert done.code == 0, done.error
    wrong = json.loads(Path("run/test.json").read_text())["mistakes"]
    places = [place for place, each in enumerate(wrong) if each["image"].endswith("planted.png")]
    assert places and places[0] < 3
    assert wrong[places[0]]["label"] == "digit 1" and wrong[places[0]]["prediction"] == "digit 0"
    assert "planted.png" in Path("run/test.html").read_text()


@pytest.mark.parametrize(
    "options, said",
    [
        (["--no-pictures"], "--report"),
        (["--predictions", "nowhere/p.csv"], "nowhere/p.csv"),
        (["--predictions", "."], "--predictions ."),
    ],
)
def test_options_that_cannot_act_are_refused(script, digits_run, options, said):
    done = script("test.py", "--ckpt", digits_run, *options)
    assert done.code == 2 and said in done.error


def test_what_is_seen_at_the_end_of_training_is_said_kept_and_on_the_page(script):
    dead = ["optimizer={name: adam, lr: 0.3}", "model={name: mlp, hidden: [64]}"]
    result = script(
        "train.py", "--run-dir", "run", "train.epochs=1", "schedule.name=constant", *dead
    )
    assert result.code == 0 and "\nremark: " in result.out
    (kept, *_) = json.loads(Path("run/run.json").read_text())["remarks"]
    assert f"remark: {kept}\n" in result.out
    assert script("test.py", "--ckpt", "run", "--report").code == 0
    assert kept[1:40] in Path("run/test.html").read_text()


def test_remarks_end_no_run_that_is_finished(script, monkeypatch):
    def fail(*_):
        raise RuntimeError("out of\nmemory")

    monkeypatch.setattr("nanocnn.run.ending.dead_units", fail)
    result = script("train.py", "--run-dir", "run", "train.epochs=1", "data.limit=200")
    assert result.code == 0
    assert "warning: no remarks on dead ReLUs: RuntimeError: out of memory" in result.error
    assert json.loads(Path("run/run.json").read_text())["exit_reason"] == "finished"


def test_nothing_is_written_over_a_checkpoint_and_no_file_twice(script):
    assert script("train.py", *QUICK).code == 0
    before = Path("run/best.pt").read_bytes()
    for option in ("--predictions", "--json"):
        refused = script("test.py", "--ckpt", "run", option, "run/best.pt")
        assert refused.code == 2 and "is a checkpoint" in refused.error
    assert Path("run/best.pt").read_bytes() == before
    refused = script("test.py", "--ckpt", "run", "--predictions", "x", "--json", "x")
    assert refused.code == 2 and not Path("x").exists()


def test_figures_are_printed_where_the_page_cannot_be_written(script):
    assert script("train.py", *QUICK).code == 0
    Path("run/test.html").mkdir()
    Path("run/run.json").write_text("{}")  # of which the page takes nothing then
    done = script("test.py", "--ckpt", "run", "--report")
    assert done.code == 2 and "cannot write a file of the report" in done.error
    assert "accuracy" in done.out and Path("run/test.json").is_file()


def test_predictions_are_of_one_run(script):
    options = ["train.epochs=1", "data.limit=300", "--seeds", "2", "--run-dir", "seeds"]
    assert script("train.py", *options).code == 0
    refused = script("test.py", "--ckpt", "seeds", "--predictions", "p.csv")
    assert refused.code == 2 and "2 runs at once" in refused.error and not Path("p.csv").exists()
