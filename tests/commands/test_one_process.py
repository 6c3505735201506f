"""What one process does is refused where torchrun has started several."""

import pytest

from nanocnn.commands.main import run
from nanocnn.system.errors import UserError


@pytest.fixture(autouse=True)
def torchrun(monkeypatch):
    for name, value in (("RANK", 0), ("WORLD_SIZE", 2), ("LOCAL_RANK", 0), ("LOCAL_WORLD_SIZE", 2)):
        monkeypatch.setenv(name, str(value))


def test_judging_is(script):
    refused = script("test.py", "--ckpt", "run")
    assert refused.code == 2 and "test.py: one process does this, torchrun has started 2" in (
        refused.error
    )


@pytest.mark.parametrize("verb", ["predict", "find-lr", "export"])
def test_so_are_the_verbs(verb):
    with pytest.raises(UserError, match=f"nanocnn {verb}: one process does this"):
        run([verb])
