"""The learning rate finder: what it suggests, and what it leaves."""

import math
import re
from itertools import pairwise
from pathlib import Path

import pytest
from conftest import NETWORKS, load_config

from nanocnn.experiments.lr_range import range_test, suggestion
from nanocnn.system.errors import UserError

pytestmark = pytest.mark.slow


def test_the_suggestion_is_where_the_loss_falls_steepest():
    lrs = [10 ** (-5 + n / 20) for n in range(100)]
    losses = [2 - 1 / (1 + math.exp(-4 * math.log(lr / 0.01))) for lr in lrs]
    losses += [5.0, 9.0]
    assert suggestion([*lrs, 2.0, 3.0], losses) == pytest.approx(0.01, rel=0.15)
    with pytest.raises(UserError, match="does not fall"):
        suggestion(lrs, [1.0 + lr for lr in lrs])


@pytest.mark.parametrize(
    "cut, words", [(slice(55, None), "first .* smaller --from"), (slice(50), "last .* larger --to")]
)
def test_an_end_of_the_range_is_no_suggestion(cut, words):
    """The steepest fall, in the middle of the whole, may be beyond it."""
    lrs = [10 ** (-5 + n / 20) for n in range(100)]
    losses = [2 - math.tanh((n - 52) / 10) for n in range(100)]
    assert 0.003 < suggestion(lrs, losses) < 0.005
    with pytest.raises(UserError, match=words):
        suggestion(lrs[cut], losses[cut])


def test_it_draws_a_picture_and_trains_with_what_it_says(script):
    options = ["model={name: mlp, hidden: [32]}", "data.limit=400", "--steps", "60"]
    done = script("nanocnn", "find-lr", *options)
    assert done.code == 0, done.error
    (picture,) = Path("runs/digits").glob("find_lr_*/lr.png")
    assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n" and str(picture) in done.out
    found = re.search(r"steepest at lr ([\d.e-]+)", done.out)
    assert found and 1e-4 < float(found[1]) < 10


def test_it_stops_where_the_loss_explodes_and_its_rates_are_even_in_their_logarithm():
    config = load_config("digits.yaml", ["data.limit=300"])
    lrs, losses = range_test(config, NETWORKS, 1e-3, 1e6, 80)
    assert len(lrs) == len(losses) < 80 and all(map(math.isfinite, losses))
    ratios = [later / earlier for earlier, later in pairwise(lrs)]
    assert ratios == pytest.approx([1e9 ** (1 / 79)] * len(ratios))


def test_it_looks_at_the_beginning_of_a_run():
    typed = ["data.limit=60", "train.epochs=2", "data.augment.shift=2"]
    early, never = (
        range_test(
            load_config("digits.yaml", [*typed, f"data.augment.until={until}"]),
            NETWORKS,
            1e-4,
            0.01,
            8,
        )
        for until in (0.5, 1)
    )
    assert early == never


@pytest.mark.parametrize(
    "options, part",
    [
        (["--from", "1", "--to", "0.1"], "--from 1 --to 0.1"),
        (["--from", "0"], "--from 0"),
        (["--steps", "3"], "--steps 3"),
        (["--config", "nowhere"], "nowhere"),
        (["--model", "nowhere.py"], "nowhere.py: no such file"),
    ],
)
def test_mistakes_end_with_code_2_and_nothing_written(script, options, part):
    done = script("nanocnn", "find-lr", *options)
    assert done.code == 2 and not list(Path().iterdir())
    error = done.error.splitlines()[-1]
    assert error.startswith("error: ") and part in error


def test_a_loss_that_explodes_at_once_is_said(script):
    options = ["data.limit=100", "model={name: mlp}", "--from", "1e10", "--to", "1e20"]
    done = script("nanocnn", "find-lr", *options)
    assert done.code == 2 and "explodes at once" in done.error
