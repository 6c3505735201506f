"""Several seeds in one command, and what their mean is."""

import json
import os
import shutil
import signal
from pathlib import Path
from statistics import mean, stdev

import pytest
from conftest import after, differences_of_runs

from nanocnn.evaluation.metrics import mean_of_seeds
from nanocnn.run.run import Run

pytestmark = pytest.mark.slow

QUICK = ["data.limit=100", "train.epochs=2", "model={name: mlp, hidden: [16]}"]


def test_the_interval_is_that_of_students_t():
    """By the table: 2.776 for five values."""
    values = [0.9953, 0.9947, 0.9942, 0.9949, 0.9951]
    centre, sd, (low, high) = mean_of_seeds(values)
    assert (centre, sd) == (mean(values), stdev(values))
    assert high - centre == pytest.approx(2.776 * sd / 5**0.5, rel=1e-3)
    assert low + high == pytest.approx(2 * centre)


def test_seeds_are_runs_of_their_own_and_test_py_judges_them_together(script):
    trained = script("train.py", *QUICK, "--seeds", 3, "seed=4", "--run-dir", "runs/all")
    assert trained.code == 0 and "validation accuracy of 3 seeds" in trained.out
    assert sorted(path.name for path in Path("runs/all").iterdir()) == [
        "seed_4",
        "seed_5",
        "seed_6",
    ]
    assert script("train.py", *QUICK, "seed=5", "--run-dir", "alone").code == 0
    found = differences_of_runs(Path("alone"), Path("runs/all/seed_5"))
    assert found == []
    tested = script("test.py", "--ckpt", "runs/all")
    assert tested.code == 0
    report = json.loads(Path("runs/all/test.json").read_text())
    single = [json.loads(Path(f"runs/all/seed_{n}/test.json").read_text()) for n in (4, 5, 6)]
    assert report["accuracies"] == [one["accuracy"] for one in single]
    assert report["accuracy"] == mean(report["accuracies"]) and report["sd"] == stdev(
        report["accuracies"]
    )
    assert f"{report['accuracy']:.2%} ± {report['sd']:.2%}" in tested.out
    again = script("train.py", *QUICK, "--seeds", 3, "--run-dir", "runs/all")
    assert again.code == 2 and "--resume auto" in again.error


def test_seeds_go_on_where_they_stopped(script, monkeypatch):
    command = ["train.py", *QUICK, "--seeds", 3, "--run-dir", "all"]
    assert script(*command).code == 0
    Path("all").rename("whole")
    with monkeypatch.context() as patch:
        after(patch, Run, "after_step", 3, lambda: os.kill(os.getpid(), signal.SIGTERM))
        stopped = script(*command)
    assert stopped.code == 143 and "--run-dir all --resume auto goes on" in stopped.error
    before = Path("all/seed_0/metrics.jsonl").read_bytes()
    assert script(*command, "--resume", "auto").code == 0
    assert before and Path("all/seed_0/metrics.jsonl").exists()
    for seed in range(3):
        assert differences_of_runs(Path(f"whole/seed_{seed}"), Path(f"all/seed_{seed}")) == []
    finished = {path: path.read_bytes() for path in Path("all").rglob("*") if path.is_file()}
    assert script(*command, "--resume", "auto").code == 0
    assert {
        path: path.read_bytes() for path in Path("all").rglob("*") if path.is_file()
    } == finished
    shutil.rmtree("all/seed_1")
    assert script(*command, "--resume", "auto").code == 0
    assert differences_of_runs(Path("whole/seed_1"), Path("all/seed_1")) == []


@pytest.mark.parametrize(
    "options, part",
    [
        (["--seeds", "1"], "--seeds 1"),
        (["--seeds", "x"], "--seeds"),
        (["--seeds", "2", "--resume", "auto"], "--run-dir"),
        (["--seeds", "2", "--resume", "run"], "--resume"),
    ],
)
def test_seeds_that_cannot_be_are_refused(script, options, part):
    result = script("train.py", *options)
    assert result.code == 2 and result.error.count("\n") == 1 and part in result.error
    assert not list(Path().iterdir())


def test_seeds_that_cannot_begin_leave_nothing_and_take_no_other_folder(script):
    nowhere = ["data.dataset=folder", "data.root=nowhere"]
    for options in (["--run-dir", "new"], ["name=new"]):
        assert script("train.py", "--seeds", 2, *nowhere, *options).code == 2
        assert not list(Path().iterdir())
    assert script("train.py", *QUICK, "--run-dir", "single").code == 0
    result = script("train.py", *QUICK, "--seeds", 2, "--run-dir", "single", "--resume", "auto")
    assert result.code == 2 and "--run-dir single: holds" in result.error
    result = script("train.py", *QUICK, "--seeds", 2, f"seed={2**63 - 1}")
    assert result.code == 2 and "--seeds 2" in result.error
    Path("junk/seed_old").mkdir(parents=True)
    shutil.copy("single/best.pt", "junk/seed_old")
    result = script("test.py", "--ckpt", "junk")
    assert result.code == 2 and "junk: this folder holds no best.pt" in result.error


def test_seeds_that_cannot_begin_leave_folders_that_were_there(script):
    Path("mine/empty").mkdir(parents=True)
    result = script("train.py", "--seeds", 2, "--run-dir", "mine/empty", "data.validation=5000")
    assert result.code == 2 and Path("mine/empty").is_dir()
    result = script("train.py", "--seeds", 2, "--run-dir", "mine/new/er", "data.validation=5000")
    assert result.code == 2 and not Path("mine/new").exists() and Path("mine").is_dir()


def test_a_run_folder_that_cannot_be_made_leaves_folders_that_were_there(script, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    Path("mine").mkdir()
    monkeypatch.setattr("os.fsync", full)
    for folder in ("mine", "mine/new"):
        assert script("train.py", *QUICK, "--run-dir", folder).code == 2
        assert Path("mine").is_dir() and not list(Path("mine").iterdir())


def test_without_a_name_test_py_judges_all_seeds_of_the_newest_run(script):
    assert script("train.py", *QUICK, "--run-dir", "runs/digits/alone").code == 0
    assert script("train.py", *QUICK, "--seeds", 2).code == 0
    tested = script("test.py")
    assert tested.code == 0 and tested.out.count("seed_") == 2 and "±" in tested.out
    (folder,) = Path("runs/digits").glob("seeds_*")
    assert len(json.loads((folder / "test.json").read_text())["checkpoints"]) == 2


def test_a_report_says_which_file_it_judged_and_has_a_name_of_its_own(script):
    assert script("train.py", *QUICK, "--run-dir", "run").code == 0
    for name in ("best", "last"):
        assert script("test.py", "--ckpt", f"run/{name}.pt").code == 0
    reports = [json.loads(Path("run", f"test{end}.json").read_text()) for end in ("", "_last")]
    assert [report["checkpoint"] for report in reports] == ["run/best.pt", "run/last.pt"]
