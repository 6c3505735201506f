"""What precision=auto comes to is chosen once, and is that of the run from then on."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from conftest import NETWORKS

from nanocnn.run.checkpoint import save_checkpoint
from nanocnn.run.restore import restore

OPTIONS = ["data.limit=60", "train.epochs=1", "train.batch_size=20", "--run-dir", "run"]


@pytest.fixture
def machine(monkeypatch):
    """A call that gives this machine instructions for bf16, or takes them."""

    def change(has_bf16):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: has_bf16)

    return change


def precisions():
    """In the config of the run, in that of its checkpoint, and what it computed in."""
    config = yaml.safe_load(Path("run/config.yaml").read_text())
    facts = json.loads(Path("run/run.json").read_text())
    checkpoint = torch.load("run/last.pt", weights_only=True)
    return config["precision"], checkpoint["config"]["precision"], facts["precision"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
@pytest.mark.parametrize(
    "resume",
    [
        ["--resume", "run", "train.epochs=2"],
        ["--resume", "run", "precision=auto", "train.epochs=2"],
        [*OPTIONS, "train.epochs=2", "--resume", "auto"],
    ],
)
@pytest.mark.parametrize("has_bf16", [True, False])
def test_a_run_goes_on_on_another_machine_as_it_began(script, machine, resume, has_bf16):
    machine(has_bf16)
    assert script("train.py", *OPTIONS).code == 0
    began = ("bf16", "bf16", "bfloat16") if has_bf16 else ("fp32", "fp32", "float32")
    assert precisions() == began
    judged = script("test.py", "--ckpt", "run", "--json", "here.json")
    machine(not has_bf16)
    moved = script("test.py", "--ckpt", "run", "--json", "there.json")
    assert judged.code == moved.code == 0
    here, there = (json.loads(Path(f"{each}.json").read_text()) for each in ("here", "there"))
    assert here["loss"] == there["loss"]
    done = script("train.py", *resume)
    assert done.code == 0 and precisions() == began, done.error
    assert ("slow on this CPU" in done.error) == has_bf16
    other = "fp32" if has_bf16 else "bf16"
    refused = script("train.py", "--resume", "run", f"precision={other}", "train.epochs=3")
    assert refused.code == 2 and f"precision ({began[0]} there, {other} here)" in refused.error


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_run_of_a_version_that_kept_auto_is_judged_as_it_was(script, machine):
    assert script("train.py", *OPTIONS).code == 0
    checkpoint = torch.load("run/best.pt", weights_only=True)
    checkpoint["config"]["precision"] = "auto"
    Path("earlier").mkdir()
    save_checkpoint(Path("earlier"), ["best.pt"], checkpoint)
    machine(True)
    assert restore("earlier", networks=NETWORKS).config.precision == "fp32"
