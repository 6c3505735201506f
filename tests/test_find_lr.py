"""The learning rate finder: what it suggests, and what it leaves."""

import math
import re
import sys
from itertools import pairwise
from pathlib import Path

import pytest

import find_lr
from errors import UserError, exit_code


def test_the_suggestion_is_where_the_loss_falls_steepest():
    lrs = [10 ** (-5 + n / 20) for n in range(100)]
    losses = [2 - 1 / (1 + math.exp(-4 * math.log(lr / 0.01))) for lr in lrs]
    losses += [5.0, 9.0]
    assert find_lr.suggestion([*lrs, 2.0, 3.0], losses) == pytest.approx(0.01, rel=0.15)
    with pytest.raises(UserError, match="does not fall"):
        find_lr.suggestion(lrs, [1.0 + lr for lr in lrs])


def test_it_draws_a_picture_and_trains_with_what_it_says(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        sys,
        "argv",
        ["find_lr.py", "model={name: mlp, hidden: [32]}", "data.limit=400", "--steps", "60"],
    )
    assert exit_code(find_lr.main) == 0
    out = capsys.readouterr().out
    (picture,) = Path("runs/digits").glob("find_lr_*/lr.png")
    assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n" and str(picture) in out
    found = re.search(r"steepest at lr ([\d.e-]+)", out)
    assert found and 1e-4 < float(found[1]) < 10


def test_it_stops_where_the_loss_explodes_and_its_rates_are_even_in_their_logarithm():
    from configure import load_config

    lrs, losses = find_lr.range_test(load_config("digits.yaml", ["data.limit=300"]), 1e-3, 1e6, 80)
    assert len(lrs) == len(losses) < 80 and all(map(math.isfinite, losses))
    ratios = [later / earlier for earlier, later in pairwise(lrs)]
    assert ratios == pytest.approx([1e9 ** (1 / 79)] * len(ratios))


@pytest.mark.parametrize(
    "options, part",
    [
        (["--from", "1", "--to", "0.1"], "--from 1 --to 0.1"),
        (["--from", "0"], "--from 0"),
        (["--steps", "3"], "--steps 3"),
        (["--config", "nowhere"], "nowhere"),
    ],
)
def test_mistakes_end_with_code_2_and_nothing_written(tmp_path, monkeypatch, capsys, options, part):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["find_lr.py", *options])
    assert exit_code(find_lr.main) == 2
    error = capsys.readouterr().err
    assert part in error and error.count("\n") == 1 and not list(tmp_path.iterdir())


def test_a_loss_that_explodes_at_once_is_said(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    options = ["data.limit=100", "model={name: mlp}", "--from", "1e10", "--to", "1e20"]
    monkeypatch.setattr(sys, "argv", ["find_lr.py", *options])
    assert exit_code(find_lr.main) == 2
    assert "explodes at once" in capsys.readouterr().err
