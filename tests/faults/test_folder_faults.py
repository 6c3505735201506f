"""A run folder of which something was lost, damaged, moved or replaced, before and during a run."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import SHORT, after

from nanocnn.run.checkpoint import load_checkpoint, save_checkpoint
from nanocnn.training.learner import Learner

MORE = ["--resume", "run", "train.epochs=4"]


def rows():
    return [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]


@pytest.fixture
def run(undisturbed, script):
    """A copy of a run of three epochs, in the folder that `script` works in."""
    shutil.copytree(undisturbed, "run")
    return Path("run")


@pytest.mark.parametrize(
    "damage, epochs, words",
    [
        (lambda text: text[:-40], [1, 2, 4], "1 of 3 epochs are lost or damaged: 3"),
        (lambda text: text.split(b"\n", 1)[1], [2, 3, 4], "1 of 3 epochs are lost or damaged: 1"),
        (lambda text: b"", [4], "3 of 3 epochs are lost or damaged: 1, 2, 3"),
        (lambda text: text.replace(b'"epoch": 2', b'"epoch": "2"'), [1, 3, 4], "damaged: 2"),
        (lambda text: text + b'{"epoch": 4', [1, 2, 3, 4], ""),
        (lambda text: text + text, [1, 2, 3, 4], ""),
    ],
)
def test_lost_lines_of_metrics_are_named_and_the_rest_goes_on(run, script, damage, epochs, words):
    path = run / "metrics.jsonl"
    path.write_bytes(damage(path.read_bytes()))
    result = script("train.py", *MORE)
    assert result.code == 0 and words in result.error
    assert bool(words) == ("metrics.jsonl" in result.error)
    assert [row["epoch"] for row in rows()] == epochs


@pytest.mark.parametrize(
    "text", ["", "[]", "null", '{"exit_reason": 1}', '{"seconds": {"a": "b"}}']
)
def test_a_damaged_run_json_is_told_and_written_anew(run, script, text):
    (run / "run.json").write_text(text)
    result = script("train.py", *MORE)
    assert result.code == 0 and "warning: run/run.json: lost or damaged" in result.error
    assert json.loads((run / "run.json").read_text())["epoch"] == 4


@pytest.mark.parametrize("name", ["last.pt", "metrics.jsonl", "run.json", "train_hashes.txt"])
def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(run, script, name):
    (run / name).unlink()
    (run / "previous.pt").unlink()
    os.mkfifo(run / name)
    if name == "train_hashes.txt":
        result = script("test.py", "--ckpt", "run")
    else:
        result = script("train.py", *MORE)
    assert result.code == 2 or "run.json: lost or damaged" in result.error
    assert result.error.count("\n") == 1 and name in result.error


@pytest.mark.parametrize("name", [".x.tmp", ".last.pt.tmp", "previous.pt", "train_hashes.txt"])
def test_a_folder_in_the_place_of_a_file_is_told_before_anything_is_trained(run, script, name):
    (run / name).unlink(missing_ok=True)
    (run / name).mkdir()
    (run / name / "x").touch()
    result = script("train.py", *MORE)
    assert result.code == 2 and f"run/{name}: a folder, where a run writes" in result.error
    assert result.error.count("\n") == 1 and len(rows()) == 3
    assert (run / name / "x").exists()


def test_what_is_in_the_way_of_a_report_is_not_waited_for(run, script):
    temporary = run / ".test.json.tmp"
    for make in (os.mkfifo, lambda path: path.symlink_to("/nowhere/x")):
        make(temporary)
        assert script("test.py", "--ckpt", "run").code == 0
        assert (run / "test.json").is_file() and not temporary.is_symlink()
    temporary.mkdir()
    result = script("test.py", "--ckpt", "run")
    assert result.code == 2 and ".test.json.tmp: a folder, where test.json is" in result.error


def test_training_hashes_that_were_cut_are_refused(run, script):
    path = run / "train_hashes.txt"
    lines = path.read_text().splitlines(keepends=True)
    for text in ("".join(lines[:-1]), "".join(lines)[:-5], ""):
        path.write_text(text)
        result = script("test.py", "--ckpt", "run")
        assert result.code == 2 and "train_hashes.txt: damaged" in result.error
    path.unlink()
    assert script("test.py", "--ckpt", "run", "--json", "report.json").code == 0
    assert json.loads(Path("report.json").read_text())["trained_on"] is None


def lose_best(run):
    (run / "best.pt").unlink()


def cut_best(run):
    (run / "best.pt").write_bytes((run / "best.pt").read_bytes()[:-1])


def older_best(run):
    save_checkpoint(
        run,
        ["best.pt"],
        load_checkpoint(run / "best.pt")
        | {
            "epoch": 0,
            "best_epoch": 0,
            "best_score": (-1.0, 0.0),
            "val_losses": [],
            "validation": None,
        },
    )


@pytest.mark.parametrize("lose", [lose_best, cut_best, older_best])
def test_a_lost_best_checkpoint_is_never_promised(run, script, lose):
    """The best epoch is an earlier one here, so that last.pt does not have it."""
    state = load_checkpoint(run / "last.pt")
    assert state["epoch"] == 3
    lower = [state["val_losses"][0] / 2, *state["val_losses"][1:]]
    earlier = {"best_epoch": 1, "best_score": (1.0, -lower[0]), "val_losses": lower}
    save_checkpoint(run, ["last.pt"], state | earlier)
    lose(run)
    over = script("train.py", "--resume", "run")
    assert over.code == 2 and "best.pt" in over.error and "last.pt holds epoch 3" in over.error
    more = script("train.py", *MORE)
    assert more.code == 0 and "the best of the epochs to come is kept" in more.error
    assert "best.pt: epoch 4" in more.out
    assert load_checkpoint(run / "best.pt")["epoch"] == 4


def in_its_place(make):
    def lose(run):
        lose_best(run)
        make(run / "best.pt")

    return lose


@pytest.mark.parametrize(
    "lose, reason",
    [
        (lose_best, "missing"),
        (cut_best, "damaged"),
        (in_its_place(Path.mkdir), "a folder"),
        (in_its_place(os.mkfifo), "no file"),
        (in_its_place(lambda best: best.symlink_to(best.name)), "a link to nothing"),
    ],
)
def test_a_lost_best_checkpoint_that_is_also_the_last_one_is_to_be_copied(
    run, script, lose, reason
):
    run = run.rename("my run's")
    state = load_checkpoint(run / "last.pt")
    best = {
        "best_epoch": 3,
        "best_score": (state["validation"]["accuracy"], -state["val_losses"][2]),
    }
    save_checkpoint(run, ["last.pt"], state | best)
    lose(run)
    for command in (["--resume", run], ["--resume", run, "train.epochs=4"]):
        result = script("train.py", *command)
        assert result.code == 2 and f"my run's/best.pt: {reason}" in result.error
    told = result.error.strip().partition("; type ")[2]
    subprocess.run(["sh", "-c", told], check=True, timeout=60)
    assert script("train.py", "--resume", run, "train.epochs=4").code == 0


def test_the_checkpoint_that_was_read_is_the_one_to_be_copied(run, script):
    """last.pt is damaged here, so that the run would go on from previous.pt."""
    state = load_checkpoint(run / "previous.pt")
    assert state["partial"] is None
    best = {
        "best_epoch": state["epoch"],
        "best_score": (state["validation"]["accuracy"], -state["val_losses"][-1]),
    }
    save_checkpoint(run, ["previous.pt"], state | best)
    lose_best(run)
    (run / "last.pt").write_bytes(b"")
    result = script("train.py", *MORE)
    assert result.code == 2 and "type cp run/previous.pt run/best.pt" in result.error


def test_a_run_without_its_best_checkpoint_is_judged_by_its_last(run, script):
    lose_best(run)
    told = script("test.py", "--ckpt", "run").error.strip().partition("; type ")[2]
    assert told == "--ckpt run/last.pt"
    assert script("test.py", *told.split()).code == 0


def test_a_run_without_any_checkpoint_begins_anew_as_told(run, script):
    for path in run.glob("*.pt"):
        path.unlink()
    told = script("train.py", "--resume", "run").error.strip().partition("; to begin anew")[2]
    done = script("train.py", *told.partition("type ")[2].split())
    assert done.code == 0, done.error


def replace():
    Path("run").rename("moved")
    shutil.copytree("moved", "run")


def delete():
    shutil.rmtree("run")


def move():
    Path("run").rename("moved")


@pytest.mark.parametrize(
    "act, words",
    [(replace, "was replaced"), (delete, "was deleted or moved"), (move, "was deleted or moved")],
)
def test_a_run_folder_that_is_no_more_ends_the_run(script, monkeypatch, act, words):
    def act_and_note():
        act()
        found.update({path: path.read_bytes() for path in Path("run").glob("*")})

    found = {}
    after(monkeypatch, Learner, "step", 3, act_and_note)
    result = script("train.py", *SHORT, "train.epochs=2", "log.every=1", "--run-dir", "run")
    assert result.code == 2 and f"the run folder {words}" in result.error
    assert result.error.count("error:") == 1 and "Traceback" not in result.error
    assert {path: path.read_bytes() for path in Path("run").glob("*")} == found


def test_a_single_training_image_is_refused_where_batch_normalisation_cannot_learn(script):
    few = ["data.limit=1", "data.validation=0", "--run-dir", "run", "train.epochs=1"]
    result = script("train.py", *few, "model={name: resnet18, width: 0.125}", "data.image_size=8")
    assert result.code == 2 and "a single training image" in result.error
    assert not Path("run").exists()
    assert script("train.py", *few, "model={name: mlp, hidden: [8]}").code == 0


def test_a_lost_last_checkpoint_is_told(run, script):
    (run / "last.pt").unlink()
    result = script("train.py", *MORE)
    assert result.code == 0 and "last.pt: missing; using run/previous.pt" in result.error
