"""Throughput and memory as the work grows: batch sizes, image sizes, network sizes; a table and a
picture.

python -m benchmarks.scaling   # writes benchmarks/scaling.png and benchmarks/results/scaling.json

Bare training steps in a process for each point, as train.py makes them on this machine. Memory is
the peak of the process; `kB_an_image` is by how much a larger batch raises it, for each image more.
"""

import argparse
import json
import resource
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.measure import median_seconds, report
from benchmarks.step import train_step
from model import MODELS
from nanocnn.config.schema import SGD, Config
from nanocnn.networks.build import build_model, catalogue
from nanocnn.networks.fast_view import fast_view
from nanocnn.networks.table import macs, trace
from nanocnn.system.errors import exit_code
from nanocnn.system.startup import prepare_process
from nanocnn.training.device import pick_computing
from nanocnn.training.optimizer import build_optimizer

PICTURE = Path(__file__).parent / "scaling.png"
CONVNET = {"channels": [[32], [64]], "hidden": []}
SWEEPS: dict[str, list[dict[str, Any]]] = {
    "batch size": [
        {"x": batch, "batch": batch} for batch in (32, 64, 128, 256, 512, 1024, 2048)
    ],
    "image side": [
        {"x": side, "side": side, "batch": 32, "model": "convnet", "arguments": CONVNET}
        for side in (28, 56, 112, 224)
    ],
    "width": [
        {"x": width, "batch": 64, "model": "vgg11",
         "arguments": {"norm": "batch", "width": width, "hidden": [512], "dropout": 0.0}}
        for width in (0.125, 0.25, 0.5, 1.0)
    ],
}  # fmt: skip


def measure(point: dict[str, Any], repeats: int) -> dict[str, float]:
    """One point, in this process: images a second, multiply-adds of an image, peak of memory in
    MB.
    """
    prepare_process()
    computing = pick_computing(Config())
    shape = (1, point.get("side", 28), point.get("side", 28))
    model = build_model(
        catalogue(MODELS), point.get("model", "lenet"), shape, 10, **point.get("arguments", {})
    )
    work = sum(macs(call) for call in trace(model, shape)[0])
    model = computing.place(model)
    optimizer = build_optimizer(SGD(lr=1e-6), model, shape)
    network = fast_view(model, shape).train()
    images = torch.randn(point["batch"], *shape, device=computing.device)
    labels = torch.randint(10, (point["batch"],), device=computing.device)
    step = partial(train_step, network, optimizer, computing.precision, images, labels)
    seconds = median_seconds(step, repeats)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    return {
        "images_per_second": point["batch"] / seconds,
        "MMAC": work / 1e6,
        "peak_MB": peak,
    }


def in_a_process(point: dict[str, Any], repeats: int) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.scaling", "--repeats", str(repeats)]
    done = subprocess.run(
        [*command, "--point", json.dumps(point)],
        check=True, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parent.parent,
    )  # fmt: skip
    return json.loads(done.stdout)


def draw(rows: list[dict[str, Any]]) -> None:
    import matplotlib

    matplotlib.use("Agg")  # no window
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(SWEEPS), figsize=(12, 3.8), layout="constrained")
    titles = {
        "batch size": "batch size (lenet, 1x28x28)",
        "image side": "image side in pixels (convnet 32-64, batch 32)",
        "width": "width (vgg11 with BN, 1x28x28, batch 64)",
    }
    for ax, sweep in zip(axes, SWEEPS, strict=True):
        points = [row for row in rows if row["sweep"] == sweep]
        xs = [row["x"] for row in points]
        ax.plot(xs, [row["images_per_second"] for row in points], "o-", label="images a second")
        ax.plot(
            xs,
            [row["images_per_second"] * row["MMAC"] / 1000 for row in points],
            "s--", label="billions of multiply-adds a second (forward)",
        )  # fmt: skip
        ax.set(xscale="log", yscale="log", xlabel=titles[sweep])
        ax.set_xticks(xs, [f"{x:g}" for x in xs])
        ax.minorticks_off()
        ax.grid(alpha=0.3)
    axes[0].legend(loc="center")
    figure.savefig(PICTURE, dpi=120)
    pyplot.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser("scaling.py", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=9, help="steps a point; default: 9")
    parser.add_argument("--point", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.point:
        print(json.dumps(measure(json.loads(args.point), args.repeats)))
        return
    rows = []
    for sweep, points in SWEEPS.items():
        for point in points:
            found = in_a_process(point, args.repeats)
            double = in_a_process(point | {"batch": 2 * point["batch"]}, 1)
            more = (double["peak_MB"] - found["peak_MB"]) / point["batch"]
            rows.append(
                {
                    "sweep": sweep,
                    "x": point["x"],
                    "batch": point["batch"],
                    **found,
                    "kB_an_image": 1000 * more,
                }
            )
            print(json.dumps(rows[-1]), flush=True)
    draw(rows)
    report("scaling", rows)


if __name__ == "__main__":
    sys.exit(exit_code(main))
