"""What a step takes in two processes, a model of it, and how far that is from what it predicts.

    python -m benchmarks.scale                      # some minutes, on two processors
    python -m benchmarks.scale --calculate          # the tables of docs/scaling.md; nothing runs

A step of W processes is taken to last compute(images of each) + alpha * exchanges + beta * bytes.
alpha and beta are fitted to the all-reduce alone, at five sizes; compute, a line, to the steps of
lenet in two processes at three batch sizes. Held out are a fourth batch size, and lenet5, of whose
compute only the step in one process is known. Efficiency is that of two processes of one thread
against one process of two threads. Last comes what docs/scaling.md calculates for large machines.
"""

import argparse
import json
import math
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.measure import median_seconds, report
from model import MODELS
from nanocnn.config.schema import Config, Train
from nanocnn.images.splits import DataInfo
from nanocnn.networks.build import build_model, catalogue
from nanocnn.system.errors import exit_code
from nanocnn.system.startup import prepare_process
from nanocnn.training.device import pick_computing
from nanocnn.training.learner import Learner
from nanocnn.training.processes import Group, together

SIZES = (1_000, 10_000, 100_000, 1_000_000, 4_000_000)  # float32 of an all-reduce
FITTED, HELD_OUT = (64, 128, 512), 256  # images of a step, of all processes
NETWORK, OTHER = "lenet", "lenet5"
PROJECT = Path(__file__).parent.parent

# docs/scaling.md: A100 in machines of eight, and what it says of each figure
WITHIN, BETWEEN = 300e9, 25e9  # bytes a second of one GPU in each direction
HOP_WITHIN, HOP_BETWEEN = 5e-6, 15e-6  # seconds, assumed
REACHED = 0.75  # of these bandwidths, assumed
# gradients in float32 of these bytes; images a second of one GPU; normalisations to be exchanged
NETWORKS = {
    "LeNet": (4 * 1_425_139, 400_000.0, 2),
    "VGG16": (4 * 138_357_544, 1_200.0, 0),
    "ResNet-50": (4 * 25_557_032, 2_470.0, 53),
}
IMAGES = 256  # of one GPU in a step
LARGE = (8, 64, 512)


def step_seconds(name: str, images: int, repeats: int) -> float:
    """The median time of a step of so many images in all processes, in this one."""
    computing = pick_computing(Config(device="cpu", precision="fp32"))
    info = DataInfo("made up", [*"0123456789"], [0.5], [0.5], (1, 28, 28), (images,) * 10)
    config = Config().model_copy(update={"train": Train(batch_size=images)})
    model = build_model(catalogue(MODELS), name, (1, 28, 28), 10)
    learner = Learner(model, config, info, computing)
    (own,) = computing.processes.share.slices(images, 1)
    pixels = torch.randn(len(own), 1, 28, 28)
    labels = torch.arange(images) % 10
    return median_seconds(partial(learner.step, pixels, labels, 1e-6), repeats)


def measure(repeats: int) -> dict[str, Any]:
    """What this process finds, alone or as one of two."""
    prepare_process()
    with together() as processes:
        found: dict[str, Any] = {"steps": {}, "sums": {}}
        for name, batches in ((NETWORK, (*FITTED, HELD_OUT)), (OTHER, (HELD_OUT,))):
            for images in batches:
                found["steps"][f"{name} {images}"] = step_seconds(name, images, repeats)
                half = images // 2
                if processes.share.size == 1 and half not in batches:
                    found["steps"][f"{name} {half}"] = step_seconds(name, half, repeats)
        if isinstance(processes, Group):
            for size in SIZES:
                work = partial(processes.sum, torch.zeros(size))
                found["sums"][size] = median_seconds(work, 4 * repeats)
    return found


def in_processes(count: int, threads: int, repeats: int) -> dict[str, Any]:
    command = [sys.executable]
    if count > 1:
        command += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
    command += ["-m", "benchmarks.scale", "--measure", "--repeats", str(repeats)]
    done = subprocess.run(
        command,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        cwd=PROJECT,
        env=os.environ | {"OMP_NUM_THREADS": str(threads)},
    )
    return json.loads(done.stdout.splitlines()[-1])


def fit_line(xs: list[float], ys: list[float]) -> tuple[float, float]:
    """Start and slope, none below 0, with the least relative squares."""
    weights = 1 / np.array(ys)
    matrix = np.stack([np.ones(len(xs)), np.array(xs)], 1) * weights[:, None]
    start, slope = np.linalg.lstsq(matrix, np.array(ys) * weights, rcond=None)[0]
    return max(0.0, float(start)), float(slope)


def exchanges(name: str) -> tuple[int, int]:
    """How many there are in a step, and the bytes of the gradients."""
    model = build_model(catalogue(MODELS), name, (1, 28, 28), 10)
    norms = sum(isinstance(layer, torch.nn.BatchNorm2d) for layer in model.modules())
    return 1 + 2 * norms, 4 * sum(parameter.numel() for parameter in model.parameters())


def compare(repeats: int) -> None:
    two = in_processes(2, 1, repeats)
    one = in_processes(1, 1, repeats)
    threads = in_processes(1, 2, repeats)
    alpha, beta = fit_line([4 * size for size in SIZES], [*two["sums"].values()])
    count, size = exchanges(NETWORK)
    talk = alpha * count + beta * size
    known = [two["steps"][f"{NETWORK} {images}"] - talk for images in FITTED]
    start, slope = fit_line([images / 2 for images in FITTED], known)
    # two processes share caches and memory, which slows the other network as much as the first
    alone = [one["steps"][f"{NETWORK} {images // 2}"] for images in FITTED]
    slower = math.exp(np.log(np.array(known) / np.array(alone)).mean())
    rows = []
    for name, images in [(NETWORK, each) for each in (*FITTED, HELD_OUT)] + [(OTHER, HELD_OUT)]:
        count, size = exchanges(name)
        compute = start + slope * images / 2
        if name == OTHER:
            compute = slower * one["steps"][f"{name} {images // 2}"]
        predicted, key = compute + alpha * count + beta * size, f"{name} {images}"
        rows.append(
            {
                "network": name,
                "images": images,
                "held out": "" if name == NETWORK and images in FITTED else "yes",
                "ms": 1e3 * two["steps"][key],
                "predicted ms": 1e3 * predicted,
                "off by %": 100 * (predicted / two["steps"][key] - 1),
                "one, 2 threads ms": 1e3 * threads["steps"][key],
                "efficiency": threads["steps"][key] / two["steps"][key],
                "predicted efficiency": threads["steps"][key] / predicted,
            }
        )
    sums = {key: 1e3 * value for key, value in two["sums"].items()}
    report("scale", rows, alpha_ms=1e3 * alpha, beta_GB_s=1e-9 / beta, slower=slower)
    print("all-reduce, ms by float32 values:", json.dumps(sums))


def calculated(gpus: int, size: int, norms: int) -> float:
    """Seconds that `gpus` GPUs exchange for a step: a ring in each machine, a tree between them.

    Each normalisation exchanges twice, in which only the delay counts.
    """
    machines = math.ceil(gpus / 8)
    within = 2 * 7 / 8 * size / (REACHED * WITHIN)
    # each of the eight GPUs has a part of the sum and a network card of its own
    between = 2 * (machines - 1) / machines * size / 8 / (REACHED * BETWEEN)
    delay = 2 * 7 * HOP_WITHIN + 2 * math.ceil(math.log2(machines)) * HOP_BETWEEN
    return within + between + (1 + 2 * norms) * delay


def calculate() -> None:
    """The tables of docs/scaling.md."""
    for name, (size, rate, norms) in NETWORKS.items():
        for gpus in LARGE:
            talk, compute = calculated(gpus, size, norms), IMAGES / rate
            efficiency = compute / (compute + talk)
            # so many images of a GPU that exchanging takes a tenth of the step
            least = math.ceil(9 * talk * rate)
            images = gpus * rate * efficiency
            print(
                f"| {name} | {gpus} | {1e3 * compute:.2f} | {1e3 * talk:.2f} | {efficiency:.0%} | "
                f"{images:,.0f} | {least:,} |"
            )


def main() -> None:
    parser = argparse.ArgumentParser("scale.py", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=15, help="steps a point; default: 15")
    parser.add_argument("--calculate", action="store_true", help="the tables of docs/scaling.md")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.calculate:
        calculate()
    elif args.measure:
        print(json.dumps(measure(args.repeats)))
    else:
        compare(args.repeats)


if __name__ == "__main__":
    sys.exit(exit_code(main))
