"""docs/api.md is run: what it shows works as it stands there."""

import inspect
import json
import re

import pytest
import torch
from conftest import PROJECT, load_config, train

import nanocnn

PAGE = (PROJECT / "docs" / "api.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def block(start):
    """The one block that has the line `start`."""
    (found,) = [each for each in BLOCKS if start in each]
    return found


def test_the_table_names_all_of_the_library_and_its_arguments():
    rows = dict(re.findall(r"^\| `(\w+)(\([^`]*\))?`", PAGE, re.MULTILINE))
    assert set(nanocnn.__all__) - {"__version__"} == {*rows}
    assert all(getattr(nanocnn, name) is not None for name in nanocnn.__all__)
    for name, arguments in rows.items():
        if arguments:
            shown = re.findall(r"(\w+)(?=[,=)])", arguments.replace("torch.", ""))
            real = list(inspect.signature(getattr(nanocnn, name)).parameters)
            assert [argument for argument in shown if argument in real] == real, name


def test_a_run_is_judged_as_test_py_judges_it(tmp_path, monkeypatch, script, capsys):
    train(load_config("digits.yaml", ["train.epochs=1", "data.limit=300"]), tmp_path / "runs/mine")
    names = {}
    exec(block("evaluate(model, batches, "), names)
    assert "of 359 images" in capsys.readouterr().out
    evaluation = names["evaluation"]
    assert script("test.py", "--ckpt", "runs/mine", "--no-fold", "--json", "report.json").code == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["accuracy"] == evaluation.accuracy
    assert report["loss"] == pytest.approx(evaluation.loss, rel=1e-4)


def test_a_loop_of_ones_own_is_that_of_train_py_to_the_bit(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = torch.get_rng_state()
    code = block("run = Run(config, data, learner)")
    built, loop = code.split("run = Run(config, data, learner)\n")
    names = {}
    exec(built, names)
    assert torch.equal(torch.get_rng_state(), before)
    exec("run = Run(config, data, learner)\n" + loop, names)
    other = train(names["config"], tmp_path / "other")
    weights = [torch.load(folder / "last.pt")["model"] for folder in (names["run"].folder, other)]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
