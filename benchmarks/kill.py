"""Kill -9 a training process again and again, many times inside a checkpoint write, and lose
nothing.

    python -m benchmarks.kill                # 200 kills
    python -m benchmarks.kill --kills 20

Each run trains in child processes that write a checkpoint after every step. Each child is killed at
a random moment; the folder is looked into; the next child resumes. When the run has come to its
end, both its checkpoints and its metrics are compared bit for bit with those of a run that nobody
disturbed. Runs follow each other until there were enough kills. The last line is the result as
JSON; exit code 1 if anything was lost.
"""

import argparse
import contextlib
import io
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from model import MODELS
from nanocnn.config.load import load_config
from nanocnn.networks.build import catalogue
from nanocnn.run.checkpoint import load_checkpoint
from nanocnn.run.resume import Place, resume_newest
from train import train

LONGEST = 0.5  # seconds that a child may train
OPTIONS = ["data.limit=160", "train.epochs=4", "train.batch_size=16", "train.checkpoint_every=1"]


def start(seed: int, run_dir: Path) -> int:
    """Train in a child process, from the last checkpoint if there is one; returns its id."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        train_quietly(seed, run_dir)
        code = 0
    finally:
        os._exit(code)


def train_quietly(seed: int, run_dir: Path) -> None:
    networks = catalogue(MODELS)
    config = load_config("digits.yaml", [*OPTIONS, f"seed={seed}"], networks=networks)
    place = resume_newest(config, run_dir, networks) or Place(run_dir)
    with contextlib.redirect_stdout(io.StringIO()):
        train(config, place)


def values(nested: Any) -> Iterator[bytes]:
    """Every value of a checkpoint as bytes, tensors too."""
    if isinstance(nested, dict):
        for key, value in nested.items():
            yield str(key).encode()
            yield from values(value)
    elif isinstance(nested, list | tuple):
        for value in nested:
            yield from values(value)
    elif isinstance(nested, Tensor):
        yield np.ascontiguousarray(nested.numpy()).tobytes()
    else:
        yield repr(nested).encode()


def metrics(run_dir: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [row | {"images_per_second": 0, "seconds": 0} for row in rows]


def last_written(run_dir: Path) -> int:
    """When run.json was written, which is done when training begins; 0 for never."""
    path = run_dir / "run.json"
    return path.stat().st_mtime_ns if path.exists() else 0


def last_step(run_dir: Path) -> int:
    """The step of last.pt, 0 where there is none yet. Raises UserError where a file is not
    whole.
    """
    if (run_dir / "best.pt").exists():
        load_checkpoint(run_dir / "best.pt")
    if (run_dir / "run.json").exists():
        json.loads((run_dir / "run.json").read_text())
    path = run_dir / "last.pt"
    return load_checkpoint(path)["step"] if path.exists() else 0


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    args = parser.parse_args()

    moments = random.Random(args.seed)
    kills = resumes = inside = lost = compared = runs = 0
    began = time.perf_counter()
    torch.set_num_threads(1)  # a fork does not take threads along
    with tempfile.TemporaryDirectory() as folder:
        train_quietly(0, Path(folder, "first"))  # imports what a run needs, once for all children
        while kills < args.kills:
            run_dir, undisturbed = Path(folder, f"run{runs}"), Path(folder, f"undisturbed{runs}")
            step, ended = 0, False
            while not ended:
                written = last_written(run_dir)
                child = start(runs, run_dir)
                while moments.random() < 0.998 and last_written(run_dir) == written:
                    time.sleep(0.005)  # until it trains; now and then it is killed before that
                time.sleep(moments.uniform(0, LONGEST))
                os.kill(child, signal.SIGKILL)  # if it has ended already, this does nothing
                status = os.waitpid(child, 0)[1]
                ended = os.WIFEXITED(status)
                if ended and os.waitstatus_to_exitcode(status) != 0:
                    raise SystemExit("a child failed by itself")
                kills += not ended
                resumes += not ended
                inside += any(run_dir.glob(".*.tmp"))
                before, step = step, last_step(run_dir)
                lost += step < before
            if os.waitstatus_to_exitcode(os.waitpid(start(runs, undisturbed), 0)[1]) != 0:
                raise SystemExit("the undisturbed run failed")
            for name in ("last.pt", "best.pt"):
                pairs = [
                    list(values(load_checkpoint(run / name))) for run in (run_dir, undisturbed)
                ]
                lost += pairs[0] != pairs[1]
                compared += sum(map(len, pairs[0]))
            lost += metrics(run_dir) != metrics(undisturbed)
            shutil.rmtree(run_dir)
            shutil.rmtree(undisturbed)
            runs += 1
            print(
                f"run {runs}: {kills} kills so far, {inside} inside a write, {lost} lost",
                flush=True,
            )
    report = {
        "kills": kills,
        "inside_a_write": inside,
        "resumes": resumes,
        "runs": runs,
        "bytes_compared": compared,
        "lost": lost,
        "seconds": round(time.perf_counter() - began, 1),
    }
    print(json.dumps(report))
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
