"""Faults in the config and on the command line (1 to 7): exit code 2, one line, and nothing
written.
"""

import errno
import json
import shutil
import tracemalloc
from pathlib import Path

import pytest
import torch
from conftest import load_config
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nanocnn.system.errors import UserError


def refused(result, *parts):
    assert result.code == 2, result
    assert result.error.count("\n") == 1 and result.error.startswith("error: ")
    for part in parts:
        assert part in result.error


@pytest.mark.parametrize(
    "text, parts",
    [
        (
            "seed: 1\noptimzer: {lr: 1}\n",
            ["c.yaml, line 2", "'optimzer'", "did you mean 'optimizer.lr'"],
        ),
        ("optimizer:\n  batch_size: 3\n", ["line 2", "'optimizer.batch_size'", "train.batch_size"]),
        ("train: 5\n", ["line 1", "train = 5", "section"]),
    ],
)
def test_fault_01_an_unknown_key_is_named_with_its_line_and_the_nearest(script, text, parts):
    Path("c.yaml").write_text(text)
    refused(script("train.py", "--config", "c.yaml"), *parts)
    assert [path.name for path in Path().iterdir()] == ["c.yaml"]


@pytest.mark.parametrize(
    "override, allowed",
    [
        ("optimizer.lr=abc", "number"),
        ("optimizer.lr=-1", "greater than 0"),
        ("optimizer.lr=0", "greater"),
        ("optimizer.lr=.nan", "finite"),
        ("optimizer.lr=.inf", "finite"),
        ("optimizer.lr=true", "number"),
        ("train.batch_size=0", "greater than or equal to 1"),
        ("train.epochs=-1", "greater than or equal"),
        ("train.epochs=true", "integer"),
        ("train.epochs=1.5", "integer"),
        ("train.epochs='3'", "integer"),
        ("seed=null", "integer"),
        ("train.checkpoint_every=0s", "such as 60s"),
        ("train.checkpoint_every=0", "1"),
    ],
)
def test_fault_02_a_value_out_of_range_is_refused_with_what_is_allowed(script, override, allowed):
    refused(script("train.py", override), override.partition("=")[0], allowed)
    assert not list(Path().iterdir())


def test_fault_02_numbers_in_scientific_notation_are_numbers(tmp_path):
    path = tmp_path / "c.yaml"
    for text in ("1e-3", "1E-3", "1.e-3", "0.001", "+1e-3"):
        path.write_text(f"optimizer: {{lr: {text}}}\n")
        assert load_config(path).optimizer.lr == 0.001


@pytest.mark.parametrize(
    "content, part",
    [
        (b"seed: 1\nseed: 2\n", "line 2"),
        (b"", "key: value"),
        (b"- seed: 1\n", "key: value"),
        (b"train:\n\tepochs: 1\n", "line 2"),
        (b"seed: \xff\xfe\n", "UTF-8"),
        (b"# " + b"x" * 100_000_000, "bytes"),
        (b"\x00\x01", "c.yaml"),
        (b"a: " + b"[" * 100_000, "c.yaml"),
    ],
    ids=["repeated", "empty", "list", "tab", "encoding", "huge", "binary", "nested"],
)
def test_fault_03_a_file_that_is_no_config_is_refused(script, content, part):
    Path("c.yaml").write_bytes(content)
    refused(script("train.py", "--config", "c.yaml"), "c.yaml", part)
    refused(script("train.py", "--config", "nowhere.yaml"), "nowhere.yaml", "known: ")
    assert [path.name for path in Path().iterdir()] == ["c.yaml"]


BOMB = "a: &a {x: 1}\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} {{<<: [{', '.join(['*' + chr(97 + i)] * 9)}]}}\n"
    for i in range(9)
)


@pytest.mark.parametrize(
    "text", ["name: !!python/object/apply:os.mkdir [canary]\n", BOMB, "a: &a [1]\nb: [*a, *a]\n"]
)
def test_fault_04_a_config_runs_no_code_and_fills_no_memory(script, text):
    Path("c.yaml").write_text(text)
    script("train.py", "--config", "nowhere")  # so that imports are not counted
    tracemalloc.start()
    result = script("train.py", "--config", "c.yaml")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    refused(result, "c.yaml, line", "not allowed")
    assert peak < 20_000_000 and not Path("canary").exists()


@pytest.mark.parametrize(
    "override, parts",
    [
        ("data.image_size=6", ["features.4 = Conv2d", "smallest"]),
        ("model.name=lenett", ["model.name = lenett", "did you mean 'lenet'"]),
        ("model={name: convnet, channels: [[8]], odd: flor}", ["model.odd = flor"]),
        ("model={name: lenet, num_classes: 5}", ["num_classes"]),
        ("model={name: convnet, channels: [[8]], groups: 3}", ["groups"]),
    ],
)
def test_fault_05_a_network_that_cannot_be_is_refused_before_training(script, override, parts):
    refused(script("train.py", override), *parts)
    assert not list(Path().iterdir())


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_fault_06_a_device_that_is_not_there_is_refused(script):
    refused(script("train.py", "device=cuda"), "device = cuda", "available: auto")
    assert not list(Path().iterdir())


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
@pytest.mark.parametrize("has_bf16, expected", [(False, "float32"), (True, "bfloat16")])
def test_fault_06_a_precision_that_the_device_has_not_falls_back_where_auto_asks(
    script, monkeypatch, has_bf16, expected
):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: has_bf16)
    options = ["data.limit=40", "train.epochs=1", "--run-dir", "run"]
    assert script("train.py", *options).code == 0
    assert json.loads(Path("run/run.json").read_text())["precision"] == expected


def test_fault_07_a_run_folder_that_cannot_be_is_refused(script):
    Path("file").write_text("in the way")
    refused(script("train.py", "--run-dir", "file"), "file")
    refused(script("train.py", "--run-dir", "file/run"), "file/run")
    refused(script("train.py", "--run-dir", "/proc/run"), "/proc/run")
    Path("runs").write_text("in the way")
    refused(script("train.py"), "runs")
    assert sorted(path.name for path in Path().iterdir()) == ["file", "runs"]


def test_fault_07_a_disk_that_is_too_full_is_found_before_the_first_epoch(script, monkeypatch):
    little = shutil.disk_usage(".")._replace(free=60_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: little)
    refused(script("train.py"), "68 MB", "60 MB are free")
    assert not list(Path().iterdir())


def test_fault_07_a_disk_that_takes_nothing_is_found_by_the_first_file(script, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    refused(script("train.py", "--run-dir", "run"), "No space left on device")
    assert not list(Path().iterdir())


KEYS = [
    "name",
    "seed",
    "device",
    "precision",
    "data",
    "data.dataset",
    "data.root",
    "data.image_size",
    "data.limit",
    "data.validation",
    "data.augment",
    "data.augment.shift",
    "model",
    "model.name",
    "model.init",
    "model.hidden",
    "loss",
    "loss.label_smoothing",
    "optimizer",
    "optimizer.lr",
    "optimizer.momentum",
    "optimizer.nesterov",
    "optimizer.groups",
    "schedule",
    "schedule.name",
    "schedule.warmup",
    "train.epochs",
    "train.batch_size",
    "train.checkpoint_every",
    "log.every",
    "log",
    "other",
    "train.other",
    "seed.other",
]
# small where a large one would only take long
WORDS = ["digits", "lenet", "mlp", "sgd", "constant", "one_cycle", "cpu", "fp32", "1s", "kaiming"]
SCALARS = st.one_of(
    st.integers(-2, 40),
    st.floats(),
    st.booleans(),
    st.none(),
    st.sampled_from(WORDS),
    st.text(max_size=8),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["name", "lr", "shift", "match", "std", "x"]), inner, max_size=3
        )
    ),
    max_leaves=4,
)


@settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.dictionaries(st.sampled_from(KEYS), VALUES, min_size=1, max_size=3))
@pytest.mark.slow
def test_whatever_the_config_says_the_run_starts_or_ends_with_code_2(script, monkeypatch, values):
    """A traceback would come out of `script`; starting ends here where the first epoch would
    begin.
    """

    class Started(UserError):
        pass

    def start(*arguments):
        raise Started("started")

    monkeypatch.setattr("nanocnn.training.learner.Learner.step", start)
    overrides = [f"{key}={json.dumps(value)}" for key, value in values.items()]
    result = script("train.py", "data.limit=50", *overrides)
    said = [line for line in result.error.splitlines() if not line.startswith("warning: ")]
    assert result.code == 2 and len(said) == 1 and said[0].startswith("error: ")
    shutil.rmtree("runs", ignore_errors=True)


@pytest.mark.parametrize(
    "options, part",
    [
        (["data.image_size=1000000"], "data.image_size = 1000000"),
        (["data.image_size=4096"], "24,125,636,608 bytes, more than data.memory_limit = 4GB"),
        (["model={name: mlp, hidden: [1000000000]}"], "allocate memory"),
        (
            ["train.batch_size=1", "data.image_size=8", "model={name: resnet18, width: 0.125}"],
            "train.batch_size = 1",
        ),
    ],
)
def test_what_no_machine_can_train_is_one_line(script, options, part):
    refused(script("train.py", "data.limit=10", *options), part)
    assert not list(Path().iterdir())
