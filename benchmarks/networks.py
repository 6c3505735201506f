"""How fast the networks of the line are trained, in float32 and bf16, beside the loop that everyone
writes.

python -m benchmarks.networks                               # all of them, 28 pixels in grey
python -m benchmarks.networks resnet18 vgg11 --size 3 64 64 --batch-size 64
python -m benchmarks.networks torchvision.efficientnet_b0 --size 3 96 96

As everyone writes it ("plain"): float32, maps laid out as (N, C, H, W), the network as it stands,
its images through a DataLoader that transforms them one by one, as torchvision's MNIST and CIFAR-10
do. As this project has it: laid out as (N, H, W, C), layers computed together, its own batches with
the random shift of mnist.yaml, loss and optimizer. Both as whole loops, a step with the batch that
it takes, and as bare steps of one batch that is there already. A round has a step of each kind in
turn, so that a busy machine slows all of them; of the rounds the medians. GFLOP/s are multiply-adds
of convolutions and linear layers, counted twice, three times a training step but for the first
layer; `of_peak` is their share of the best rate that a product of matrices or a convolution reaches
here in that precision.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import count
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from benchmarks.measure import median_seconds, report
from benchmarks.step import train_step
from model import MODELS
from nanocnn.config.load import load_config
from nanocnn.images.batches import Batches
from nanocnn.images.splits import DataInfo, Split
from nanocnn.networks.build import build_network, catalogue
from nanocnn.networks.table import macs, trace
from nanocnn.system.errors import exit_code
from nanocnn.system.startup import prepare_process
from nanocnn.training.device import Computing
from nanocnn.training.learner import Learner

CPU = torch.device("cpu")
CLASSES, BATCHES = 10, 8
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}


def peak(precision: torch.dtype) -> float:
    """GFLOP/s: the best of a linear layer and of convolutions, forward."""
    inputs, weights = (torch.randn(2048, 2048, dtype=precision) for _ in range(2))
    rates = [2 * 2048**3 / median_seconds(lambda: F.linear(inputs, weights), 7)]
    for channels, side in ((64, 32), (128, 16), (256, 16), (512, 8)):
        maps, kernels = (
            torch.randn(shape).to(precision, memory_format=torch.channels_last)
            for shape in ((128, channels, side, side), (channels, channels, 3, 3))
        )
        convolve = partial(F.conv2d, maps, kernels, padding=1)
        rates.append(2 * 128 * (side * channels * 3) ** 2 / median_seconds(convolve, 7))
    return max(rates) / 1e9


def network(name: str, shape: tuple[int, int, int]) -> nn.Module:
    networks = catalogue(MODELS)
    config = load_config("mnist.yaml", [f"model={{name: {name}}}"], networks=networks)
    torch.manual_seed(0)
    return build_network(config, networks, shape, CLASSES)


class Pictures(Dataset[tuple[Tensor, int]]):
    """Images (N, C, H, W) uint8, made of pictures one by one as those of torchvision."""

    def __init__(self, images: Tensor, labels: Tensor):
        channels = images.shape[1]
        maps = images.permute(0, 2, 3, 1).numpy()
        self.images, self.labels = maps[..., 0] if channels == 1 else maps, labels.tolist()
        normalise = transforms.Normalize((0.5,) * channels, (0.25,) * channels)
        self.transform = transforms.Compose([transforms.ToTensor(), normalise])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, place: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.images[place])), self.labels[place]


def endless(epochs: Callable[[int], Iterable[Any]]) -> Iterator[Any]:
    for epoch in count():
        yield from epochs(epoch)


def steps_of(name: str, split: Split, batch_size: int) -> dict[str, Callable[[], object]]:
    """A bare step and one of a loop, of each kind, by its name."""
    images, labels = split.images, split.labels
    assert isinstance(images, Tensor)
    _, channels, height, width = images.shape
    shape = (channels, height, width)
    model = network(name, shape)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.001, momentum=0.9)
    model.train()
    loader = DataLoader(Pictures(images, labels), batch_size, shuffle=True, drop_last=True)
    batches = endless(lambda _: loader)
    plain = partial(train_step, model, optimizer, torch.float32)
    batch = next(batches)
    found: dict[str, Callable[[], object]] = {
        "plain": partial(plain, *batch),
        "plain loop": lambda: plain(*next(batches)),
    }
    config = load_config("mnist.yaml", [f"model={{name: {name}}}"], networks=catalogue(MODELS))
    classes = [str(each) for each in range(CLASSES)]
    info = DataInfo("mnist", classes, [0.5] * channels, [0.25] * channels, shape)
    for kind, precision in PRECISIONS.items():
        learner = Learner(
            network(name, shape), config, info, Computing(CPU, precision, torch.channels_last)
        )
        found[kind] = partial(learner.step, images=batch[0], labels=batch[1], lr=0.001)
        own = Batches(split, info, batch_size, CPU)
        found[f"{kind} loop"] = partial(
            own_step, learner, endless(partial(own.shuffled, 0, config=config.data.augment))
        )
    return found


def own_step(learner: Learner, batches: Iterator[tuple[int, Tensor, Tensor]]) -> None:
    _, images, labels = next(batches)
    learner.step(images, labels, 0.001)


def alternated(steps: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of each, taken in turn."""
    seconds: dict[str, list[float]] = {kind: [] for kind in steps}
    for number in range(rounds + 2):
        for kind, step in steps.items():
            start = time.perf_counter()
            step()
            if number >= 2:  # the first are to warm up
                seconds[kind].append(time.perf_counter() - start)
    return {kind: statistics.median(values) for kind, values in seconds.items()}


def row_of(
    name: str, split: Split, batch_size: int, peaks: dict[str, float], rounds: int
) -> dict[str, Any]:
    channels, height, width = split.images.shape[1:]
    shape = (channels, height, width)
    calls, _ = trace(network(name, shape), shape)
    work = [macs(call) for call in calls if macs(call)]
    flops = 2 * (3 * sum(work) - work[0]) * batch_size / 1e9
    median = alternated(steps_of(name, split, batch_size), rounds)
    row: dict[str, Any] = {
        "network": name,
        "plain_loop_per_second": batch_size / median["plain loop"],
        "plain_per_second": batch_size / median["plain"],
    }
    for kind in PRECISIONS:
        row |= {
            f"{kind}_loop_times": median["plain loop"] / median[f"{kind} loop"],
            f"{kind}_times": median["plain"] / median[kind],
            f"{kind}_GFLOP_per_second": flops / median[kind],
            f"{kind}_of_peak": flops / median[kind] / peaks[kind],
        }
    row["bf16_against_fp32"] = median["fp32"] / median["bf16"]
    return row


def main() -> None:
    parser = argparse.ArgumentParser("networks.py", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", default=list(MODELS), help="default: all of the line")
    parser.add_argument("--size", nargs=3, type=int, default=(1, 28, 28), metavar=("C", "H", "W"))
    parser.add_argument("--batch-size", type=int, default=128, help="default: 128")
    parser.add_argument("--rounds", type=int, default=15, help="default: 15")
    args = parser.parse_args()
    prepare_process()
    number = BATCHES * args.batch_size
    images = torch.randint(256, (number, *args.size), dtype=torch.uint8)
    split = Split(images, torch.randint(CLASSES, (number,)))
    peaks = {kind: peak(precision) for kind, precision in PRECISIONS.items()}
    rows = [row_of(name, split, args.batch_size, peaks, args.rounds) for name in args.names]
    size = "x".join(map(str, args.size))
    report(f"networks_{size}", rows, batch_size=args.batch_size, size=size, peak_GFLOP=peaks)


if __name__ == "__main__":
    sys.exit(exit_code(main))
