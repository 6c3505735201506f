"""Resident memory over time while ten times data.memory_limit is streamed (Linux).

python -m benchmarks.streaming     # 200 MB of pixels through a limit of 20 MB, five epochs
python -m benchmarks.streaming --megabytes 1000 --epochs 3

The pictures are JPEG files of noise, made in a temporary folder. Of each process its proportional
share (PSS) is counted, since the workers share most of their memory.
"""

import os
import time
from argparse import ArgumentParser
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from PIL import Image

from nanocnn.config.schema import Augment, Data
from nanocnn.images.batches import Batches
from nanocnn.images.splits import data_info, load_splits
from nanocnn.images.stream import Stream

SIDE = 64


def make_pictures(root: Path, count: int) -> None:
    folder = root / "train" / "noise"
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    for number in range(count):
        pixels = generator.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.jpg")


def memory(process: int) -> float:
    """MB of a process and of all its descendants."""
    own = Path(f"/proc/{process}/smaps_rollup").read_text()
    pss = next(int(line.split()[1]) for line in own.splitlines() if line.startswith("Pss:"))
    children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    return pss / 1000 + sum(memory(int(child)) for child in children)


def main() -> None:
    parser = ArgumentParser("streaming.py", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--megabytes", type=int, default=200, help="of pixels; default: 200")
    parser.add_argument("--epochs", type=int, default=5, help="default: 5")
    args = parser.parse_args()
    count = args.megabytes * 10**6 // (3 * SIDE * SIDE)

    with TemporaryDirectory() as root:
        make_pictures(Path(root), count)
        limit = f"{args.megabytes // 10}MB"
        data = Data(dataset="folder", root=root, validation=0, memory_limit=limit, cache=False)
        print(f"before: {memory(os.getpid()):.0f} MB resident")
        start = time.perf_counter()
        split = load_splits(data, seed=0)["train"]
        seconds = time.perf_counter() - start
        rate = count / seconds
        print(
            f"{count:,} files measured, {rate:,.0f} images/s: {memory(os.getpid()):.0f} MB resident"
        )
        assert isinstance(split.images, Stream)
        batches = Batches(split, data_info(data, split), 64, torch.device("cpu"))

        print(" epoch   step  images/s  resident MB, workers included")
        for epoch in range(args.epochs):
            start, seen = time.perf_counter(), 0
            for step, images, _ in batches.shuffled(0, epoch, Augment(shift=2)):
                seen += len(images)
                if step % len(batches) in (len(batches) // 2, len(batches) - 1):
                    rate = seen / (time.perf_counter() - start)
                    print(f"{epoch + 1:6} {step + 1:6} {rate:9,.0f} {memory(os.getpid()):12.0f}")


if __name__ == "__main__":
    main()
