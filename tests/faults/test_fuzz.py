"""Absurd values in checkpoints, and damage to each file of a run folder: never a wrong result.

A case changes one thing in the folder of a run that was interrupted, and then judges the run or
goes on with it. It may end well only where its figures or weights are those of the undamaged run:
unless what was changed is a finite weight or mean of the right shape, of which nobody could know.
"""

import copy
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache, reduce
from operator import getitem
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from conftest import PROJECT, SCRIPTS, after, load_config, train
from sklearn.datasets import load_digits
from torch import Tensor

from nanocnn.config import strict_yaml
from nanocnn.run.checkpoint import load_checkpoint
from nanocnn.system.files import Sealed
from nanocnn.system.signals import Stopped
from nanocnn.training.learner import Learner

SEED = 0
PARTS = 5  # of each kind of cases, for several processes
PROCESSES = 40
LONGEST = 60  # seconds, after which a case hangs
NET = "model={name: convnet, channels: [[4]], hidden: [8]}"
SMALL = [
    *(NET, "data.limit=60", "data.validation=20", "schedule.name=constant"),
    *("train.batch_size=10", "train.epochs=2"),
    "precision=fp32",  # also in processes, where auto may take bf16
]
RUNS = {
    "sgd": ["optimizer.name=sgd", "train.ema=0.9"],
    "adam": ["optimizer={name: adam, lr: 0.001}", "train.checkpoint_every=1"],
}
JUDGE = ["test.py", "--ckpt", "run", "--json", "result.json"]
RESUME = ["train.py", "--resume", "run"]
AGAIN = ["train.py", "--run-dir", "run", "--resume", "auto", "--config", "run/config.yaml"]
COMMANDS = [JUDGE, RESUME, [*RESUME, "train.epochs=3"], AGAIN]

nested: Any = []
for _ in range(150):  # as deep as can be pickled
    nested = [nested]
ABSURD: list[Any] = [
    *(math.nan, math.inf, -math.inf, 1e300, -1e300, -1, -0.5, 10**18, 10**400, -(10**400)),
    *("", "x", "nan", "\x1b[31mred\x1b[0m", "two\nlines", "\ud800", "x" * 100_000),
    *(None, True, b"bytes", 1j, [], {}, (), [1], {"a": 1}, [[[]]], {1: 2}, nested),
    *(torch.tensor(math.nan), torch.zeros(3), torch.zeros(0), torch.zeros(1).expand(10**9)),
]


class Case(NamedTuple):
    """A change to the folder of the run `of`, and the command line that meets it."""

    name: str
    of: str
    file: str
    content: Any  # bytes, a change of its kind (a str), or the place and value of a leaf
    command: list[str]
    old: Any = None  # what the file holds, where `content` is a leaf of it


def title(value: Any) -> str:
    """A short name of a value that may be huge."""
    is_plain = isinstance(value, float | int | str | None) and len(repr(value)[:50]) < 50
    return ascii(value) if is_plain else type(value).__name__


def leaves(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Each value in nested ones, and the nested ones too, with its place."""
    if place:
        yield place, value
    if isinstance(value, dict | list | tuple):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, inner in items:
            yield from leaves(inner, (*place, key))


def put(value: Any, place: tuple[Any, ...], new: Any) -> Any:
    """`value` with `new` at `place`."""
    if not place:
        return new
    changed = list(value) if isinstance(value, tuple) else copy.copy(value)
    changed[place[0]] = put(changed[place[0]], place[1:], new)
    return tuple(changed) if isinstance(value, tuple) else changed


def absurd_tensors(tensor: Tensor) -> list[Any]:
    """Others in the place of `tensor`: one is finite and of its shape."""
    full = [torch.full_like(tensor, -1)]
    if tensor.is_floating_point():
        full += [torch.full_like(tensor, value) for value in (math.nan, math.inf)]
    other_kind = torch.int32 if tensor.is_floating_point() else torch.float32
    return [
        *full,
        *(tensor.to(other_kind), tensor.to(torch.complex64), tensor.bool()),
        *(tensor[None], tensor.flatten()[:-1], tensor.to_sparse() if tensor.ndim else tensor[None]),
    ]


def is_plausible(old: Any, new: Any) -> bool:
    """Whether `new` may stand where `old` did for all that can be known."""
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):  # mean, std
        return all(isinstance(each, int | float) and math.isfinite(each) for each in [*old, *new])
    return (
        isinstance(old, Tensor)
        and isinstance(new, Tensor)
        and (old.shape, old.dtype, old.layout) == (new.shape, new.dtype, new.layout)
        and bool(new.isfinite().all())
    )


def checkpoint_cases(runs: dict[str, Path]) -> list[Case]:
    cases = []
    for of, run in runs.items():
        for file, command in (("best.pt", JUDGE), ("last.pt", RESUME)):
            old = load_checkpoint(run / file)
            for place, value in leaves(old):
                for new in absurd_tensors(value) if isinstance(value, Tensor) else ABSURD:
                    name = f"{of} {file} {'.'.join(map(str, place))} = {title(new)}"
                    cases.append(Case(name, of, file, (place, new), command, old))
    return cases


def facts_cases(runs: dict[str, Path]) -> list[Case]:
    """Absurd values in the files that are JSON."""
    values = [value for value in ABSURD if not isinstance(value, Tensor | bytes | complex)]
    lines = {
        "run.json": lambda text: json.loads(text),
        "metrics.jsonl": lambda text: json.loads(text.splitlines()[0]),
    }
    return [
        Case(f"{of} {file} {place} = {title(new)}", of, file, as_json(old, place, new), RESUME)
        for of, run in runs.items()
        for file, parse in lines.items()
        for old in [parse((run / file).read_bytes())]
        for place, _ in leaves(old)
        for new in values
        if is_json(new)
    ]


def is_json(value: Any) -> bool:
    try:
        return bool(json.dumps(value))
    except (TypeError, ValueError, RecursionError):
        return False


def as_json(old: Any, place: tuple[Any, ...], new: Any) -> bytes:
    return json.dumps(put(old, place, new)).encode()


def folder_cases(runs: dict[str, Path]) -> list[Case]:
    """Each file cut, emptied, deleted, and of other types."""
    kinds = ["deleted", "folder", "pipe", "link to nowhere", "link to itself"]
    contents = [
        b"",
        b"\n",
        b"\0" * 100,
        b"[]",
        b"null",
        b"1",
        b'"x"',
        b"{}",
        b"\xff\xfe",
        b"[" * 9999,
    ]
    cases = []
    for of, run in runs.items():
        for path in run.iterdir():
            old = path.read_bytes()
            cuts = [old[:-1], old[: len(old) // 2], old[:10], old + b"\n", old + old, old[5:]]
            name = path.name
            for command in COMMANDS:
                for i, content in enumerate([*kinds, *contents, *cuts]):
                    cases.append(
                        Case(f"{of} {name} damage {i} {command}", of, name, content, command)
                    )
    return cases


def damage(case: Case, folder: Path) -> None:
    """Let `folder`/run be the run of `case` as it changes it."""
    path = folder / "run" / case.file
    if isinstance(case.content, tuple):
        place, new = case.content
        buffer = Path(folder, "changed")
        torch.save(put(case.old, place, new), buffer)
        Sealed(memoryview(buffer.read_bytes())).write(path)
        return
    path.unlink()
    if isinstance(case.content, bytes):
        path.write_bytes(case.content)
    elif case.content == "folder":
        path.mkdir()
    elif case.content == "pipe":
        os.mkfifo(path)
    elif case.content == "link to nowhere":
        path.symlink_to("nowhere")
    elif case.content == "link to itself":
        path.symlink_to(path)


def outcome(folder: Path, command: list[str]) -> Any:
    """What a command line that ended well came to: figures, or weights."""
    if command[0] == "test.py":
        report = json.loads((folder / "result.json").read_text())
        figures = {key: report[key] for key in ("dataset", "n", "correct", "confusion")}
        return figures | {"loss": round(report["loss"], 6)}  # batches of another size round it
    state = load_checkpoint(folder / "run" / "last.pt")
    assert load_checkpoint(folder / "run" / "best.pt")["epoch"] == state["best_epoch"]
    return {name: tensor.tolist() for name, tensor in state["model"].items()}


def check(case: Case, folder: Path, result: tuple[int, str, str], right: dict[str, Any]) -> None:
    code, out, error = result
    shown = f"{case.name}: {code} {error[-300:]}"
    assert all(char.isprintable() or char == "\n" for char in out + error), shown
    plausible = False
    if isinstance(case.content, tuple):
        plausible = is_plausible(reduce(getitem, case.content[0], case.old), case.content[1])
    if code == 0:
        assert plausible or outcome(folder, case.command) == right[case.of, str(case.command)], (
            shown
        )
    else:
        assert code == 2 or (plausible and code == 3), shown
        lines = [line for line in error.splitlines() if not line.startswith("warning: ")]
        assert len(lines) == 1 and lines[0].startswith("error: "), shown


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs that were stopped in their second epoch."""
    found = {}
    for name, options in RUNS.items():
        folder = tmp_path_factory.mktemp("fuzz") / "run"
        with pytest.MonkeyPatch.context() as patch:
            after(patch, Learner, "step", 6, lambda: os.kill(os.getpid(), signal.SIGTERM))
            with pytest.raises(Stopped):
                train(load_config("digits.yaml", [*SMALL, *options]), folder)
        found[name] = folder
    return found


def copy_of(run: Path, folder: Path) -> None:
    shutil.rmtree(folder / "run", ignore_errors=True)
    shutil.copytree(run, folder / "run")


@pytest.fixture(scope="module")
def right(runs, tmp_path_factory):
    """What each command line comes to on the undamaged runs."""
    found: dict[Any, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("right"))
        for of, run in runs.items():
            for command in COMMANDS:
                copy_of(run, Path())
                SCRIPTS[command[0]](command[1:])
                found[of, str(command)] = outcome(Path(), command)
    return found


def too_long(number, frame):
    raise AssertionError(f"it hangs: more than {LONGEST} s")


COUNTS = {checkpoint_cases: 1500, folder_cases: 350, facts_cases: 150}


def sample(cases: list[Case], count: int) -> list[Case]:
    return random.Random(SEED).sample(cases, min(count, len(cases)))


@pytest.fixture
def alarm(monkeypatch):
    """A signal where a case takes too long. What is the same for all is done once; nothing waits
    for the disk, for no power is cut.
    """
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    monkeypatch.setattr("sklearn.datasets.load_digits", cache(load_digits))
    monkeypatch.setattr("nanocnn.run.start.git_state", lambda: None)  # two processes each time
    parsed = cache(strict_yaml.parse_yaml)
    monkeypatch.setattr(strict_yaml, "parse_yaml", lambda *text: copy.deepcopy(parsed(*text)))
    before = signal.signal(signal.SIGALRM, too_long)
    yield signal.alarm
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("make", COUNTS)
def test_absurd_values_and_damaged_files_never_give_a_wrong_result(
    make, part, runs, right, script, alarm
):
    problems, count = [], COUNTS[make]
    cases = sample(make(runs), count)[part::PARTS]
    for case in cases:
        copy_of(runs[case.of], Path())
        damage(case, Path())
        alarm(LONGEST)
        try:
            check(case, Path(), script(case.command[0], *case.command[1:]), right)
        except Exception as error:  # noqa: BLE001  all are told together
            problems.append(f"{case.name}: {type(error).__name__}: {error}"[:600])
    assert len(cases) == count // PARTS
    assert not problems, f"{len(problems)} of {len(cases)}:\n" + "\n".join(problems[:40])


@pytest.mark.slow
def test_processes_end_as_the_calls_of_their_main_do(runs, right, tmp_path):
    def run(case: Case) -> str:
        folder = tmp_path / str(cases.index(case))
        folder.mkdir()
        copy_of(runs[case.of], folder)
        damage(case, folder)
        command = [sys.executable, PROJECT / case.command[0], *case.command[1:]]
        done = subprocess.run(
            command, cwd=folder, check=False, capture_output=True, text=True, timeout=LONGEST
        )
        try:
            check(case, folder, (done.returncode, done.stdout, done.stderr), right)
        except AssertionError as error:
            return str(error)[:600]
        return ""

    makers = ((checkpoint_cases, 20), (folder_cases, 15), (facts_cases, 5))
    cases = [case for make, count in makers for case in sample(make(runs), count)]
    assert len(cases) == PROCESSES
    with ThreadPoolExecutor(2) as pool:
        assert not list(filter(None, pool.map(run, cases)))
