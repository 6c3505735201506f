"""What befalls pictures, and the processes that read them, while they are read batch by batch."""

import os
import signal
import subprocess
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import PROJECT, after
from PIL import Image

from nanocnn.config.schema import Data
from nanocnn.images import stream
from nanocnn.images.batches import Batches
from nanocnn.images.splits import data_info, load_splits
from nanocnn.images.stream import Stream, StreamError
from nanocnn.run.checkpoint import load_checkpoint

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
STREAMED = [
    "data.memory_limit=1",
    "data.cache=false",
    "train.batch_size=4",
    "model={name: mlp, hidden: [4]}",
]


def own_images(root, *options):
    return ["data.dataset=folder", f"data.root={root}", *STREAMED, *options]


def overwrite(path):
    """Other pixels of the same size, in a file of the same length and times."""
    before, length = path.stat(), len(path.read_bytes())
    pixels = 255 - np.asarray(Image.open(path))
    Image.fromarray(pixels).save(path)
    path.write_bytes(path.read_bytes().ljust(length, b"\0")[: max(length, path.stat().st_size)])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


CHANGES = {
    "overwritten": (overwrite, "its pixels are others"),
    "deleted": (Path.unlink, "No such file"),
    "emptied": (lambda path: path.write_bytes(b""), "empty"),
    "text": (lambda path: path.write_text("a cat"), "none of BMP"),
    "another size": (lambda path: Image.new("L", (9, 9)).save(path), "9x9 pixels instead of 28x28"),
    "a folder": (lambda path: (path.unlink(), path.mkdir()), "not a file"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_picture_that_changes_while_it_is_streamed_ends_the_run(
    digit_pictures, script, monkeypatch, change
):
    root = digit_pictures({"train": 30})
    victims = sorted(root.glob("train/digit 1/*"))  # all of a class
    kept = {path: path.read_bytes() for path in victims}
    act, reason = CHANGES[change]
    after(monkeypatch, Stream, "batches", 4, lambda: [act(path) for path in victims])
    ended = script("train.py", *own_images(root, "train.epochs=3", "--run-dir", "run"))
    assert ended.code == 2 and ended.error.count("\n") == 1, ended.error
    assert reason in ended.error and any(str(path) in ended.error for path in victims)
    assert "nothing is lost: python train.py --resume run goes on" in ended.error

    refused = script("train.py", "--resume", "run")
    assert refused.code == 2, "with other images"
    for path, content in kept.items():
        path.rmdir() if path.is_dir() else None
        path.write_bytes(content)
    assert script("train.py", "--resume", "run").code == 0
    assert len(Path("run/metrics.jsonl").read_text().splitlines()) == 3


def test_touched_and_copied_pictures_are_the_same(digit_pictures, script, monkeypatch):
    root = digit_pictures({"train": 30})

    def renew():
        for path in root.glob("train/*/*"):
            content = path.read_bytes()
            path.unlink()
            path.write_bytes(content)

    after(monkeypatch, Stream, "batches", 2, renew)
    assert script("train.py", *own_images(root, "train.epochs=2")).code == 0


def test_judging_notices_it_too(digit_pictures, script, monkeypatch):
    root = digit_pictures({"train": 30, "test": 10})
    assert script("train.py", *own_images(root, "train.epochs=1", "--run-dir", "run")).code == 0
    victim = next(root.glob("test/*/*.png"))
    after(monkeypatch, Stream, "batches", 1, lambda: overwrite(victim))
    judged = script("test.py", "--ckpt", "run")
    assert judged.code == 2 and f"{victim}: is no longer what it was" in judged.error
    assert not Path("run/test.json").exists()


def descendants(process):
    children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    return [each for child in map(int, children) for each in (child, *descendants(child))]


def readers_of(process):
    """Those that the server of clean processes has made."""
    return [pid for pid in descendants(process) if is_reader(pid, process)]


def is_reader(pid, main):
    stat = Path(f"/proc/{pid}/stat").read_text()
    return int(stat.rpartition(")")[2].split()[1]) != main


def wait_for(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)
    return found


def is_alive(pid):
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False


@pytest.fixture
def long_run(digit_pictures, tmp_path):
    """A real process in the midst of streaming."""
    root = digit_pictures({"train": 60})
    command = [sys.executable, str(PROJECT / "train.py"), *own_images(root, "train.epochs=100000")]
    process = subprocess.Popen(
        [*command, "schedule={name: constant}", "--run-dir", "run"],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for(lambda: (tmp_path / "run/last.pt").exists() or process.poll() is not None)
    yield process
    process.kill()
    process.communicate()


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="processes are found in /proc")
@pytest.mark.parametrize("how_many", ["one", "all"])
def test_a_killed_reader_ends_the_run_at_once(long_run, tmp_path, how_many):
    everyone = descendants(long_run.pid)
    victims = readers_of(long_run.pid)
    for victim in victims[: 1 if how_many == "one" else None]:
        os.kill(victim, signal.SIGKILL)
    _, error = long_run.communicate(timeout=10)
    assert long_run.returncode == 2 and error.count("\n") == 1, error
    assert "was killed (SIGKILL), as happens where memory runs out" in error
    assert "smaller train.batch_size" in error and "--resume run goes on" in error
    wait_for(lambda: not any(map(is_alive, everyone)), 10)
    rows = (tmp_path / "run/metrics.jsonl").read_text().splitlines()
    assert load_checkpoint(tmp_path / "run/last.pt")["epoch"] == len(rows) >= 1


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="processes are found in /proc")
def test_a_killed_run_leaves_no_readers(long_run):
    everyone = descendants(long_run.pid)
    long_run.kill()
    wait_for(lambda: not any(map(is_alive, everyone)), 10)


def stop_readers(split, number=signal.SIGSTOP):
    for reader in split.images.readers:
        os.kill(reader.process.pid, number)


@pytest.mark.parametrize("size", [28, 300], ids=["before a batch", "in the midst of one"])
def test_a_reader_that_was_stopped_is_told_and_waited_for(digit_pictures, monkeypatch, size):
    """Of a batch larger than a pipe holds, part of which has come; nothing was said, for ever."""
    warned = []

    def go_on(*arguments):
        warned.append(warn(*arguments))
        stop_readers(split, signal.SIGCONT)

    warn = Stream.warn_of_silence
    monkeypatch.setattr(Stream, "warn_of_silence", go_on)
    monkeypatch.setattr(stream, "LONG", 0.5)
    data = Data(
        dataset="folder",
        root=str(digit_pictures({"train": 40}, size=size)),
        memory_limit=1,
        cache=False,
    )
    split = load_splits(data, 0)["train"]
    whole = torch.cat(list(split.images.batches([torch.arange(n, n + 4) for n in range(0, 36, 4)])))
    batches = split.images.batches([torch.arange(n, n + 4) for n in range(0, 36, 4)])
    found = [next(batches)]
    time.sleep(0.5)  # each fills its pipe
    stop_readers(split)
    found += batches
    assert warned and torch.equal(torch.cat(found), whole)


def test_what_is_said_of_a_reader_that_was_stopped(digit_pictures, capsys):
    data = Data(
        dataset="folder", root=str(digit_pictures({"train": 40})), memory_limit=1, cache=False
    )
    split = load_splits(data, 0)["train"]
    next(split.images.batches([torch.arange(4)]))
    reader = split.images.readers[0]
    split.images.warn_of_silence(reader, torch.arange(7, 9))
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"warning: process {reader.process.pid} has been reading 2 pictures")
    assert split.images.pictures.paths[7] in line and "kill -CONT" in line


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="processes are found in /proc")
def test_a_run_whose_readers_were_stopped_stops_when_asked(long_run, tmp_path):
    everyone = descendants(long_run.pid)
    for victim in readers_of(long_run.pid):
        os.kill(victim, signal.SIGSTOP)
    time.sleep(0.5)
    long_run.send_signal(signal.SIGTERM)
    _, error = long_run.communicate(timeout=10)
    assert long_run.returncode == 143 and "--resume run goes on" in error, error
    wait_for(lambda: not any(map(is_alive, everyone)), 10)
    load_checkpoint(tmp_path / "run/last.pt")


def test_what_a_thread_fails_with_is_not_waited_for(digit_pictures, monkeypatch):
    def fail(_):
        raise MemoryError

    data = Data(
        dataset="folder", root=str(digit_pictures({"train": 40})), memory_limit=1, cache=False
    )
    split = load_splits(data, 0)["train"]
    monkeypatch.setattr(Connection, "recv", fail)
    with pytest.raises(MemoryError):
        list(split.images.batches([torch.arange(4)]))


def test_a_reader_that_ends_in_the_middle_of_a_batch_is_noticed(digit_pictures):
    """Of a batch larger than a pipe holds, part of which has come."""
    data = Data(
        dataset="folder",
        root=str(digit_pictures({"train": 40}, size=300)),
        memory_limit=1,
        cache=False,
    )
    split = load_splits(data, 0)["train"]
    batches = iter(Batches(split, data_info(data, split), 18, CPU))
    next(batches)
    time.sleep(1)  # each fills its pipe
    for reader in split.images.readers:
        reader.process.kill()
    with pytest.raises(StreamError, match="was killed"):
        list(batches)
    assert len(list(Batches(split, data_info(data, split), 18, CPU))) == 2, "with new ones"


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="looks into /proc")
def test_readers_run_no_script_of_the_user_and_hold_no_torch(digit_pictures, tmp_path):
    """A loop of one's own has no guard against being run again, and imports torch."""
    root = digit_pictures({"train": 20})
    (tmp_path / "loop.py").write_text(
        "import multiprocessing, os\n"
        "import torch\n"
        "from nanocnn.config.schema import Data\n"
        "from nanocnn.images.splits import load_splits\n"
        "print('begun')\n"
        f"data = Data(dataset='folder', root={str(root)!r}, validation=0, "
        "memory_limit=1, cache=False)\n"
        "images = load_splits(data, 0)['train'].images\n"
        "print(len(list(images.batches([torch.arange(10), torch.arange(10, 20)]))), 'batches')\n"
        "for child in multiprocessing.active_children():\n"
        "    print('torch' in open(f'/proc/{child.pid}/maps').read())\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    run = subprocess.run(
        [sys.executable, tmp_path / "loop.py"],
        env=environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert run.returncode == 0 and not run.stderr, run.stderr
    begun, batches, *held = run.stdout.splitlines()
    assert (begun, batches) == ("begun", "2 batches") and held and set(held) == {"False"}
