"""Own pictures: how fast they are decoded, what a second start costs, and reading what does not
fit the memory.

python -m benchmarks.decoding --photos DIR # all of it: minutes, and 300 MB in a temporary folder
python -m benchmarks.decoding first        # against torchvision's ImageFolder, by size
python -m benchmarks.decoding second       # a second start against the first
python -m benchmarks.decoding batches      # ten times data.memory_limit, page cache warm and cold
python -m benchmarks.decoding kills        # 50 of them while the cache is written

The pictures are real photographs (of --photos, a folder with some of 100 pixels at least) put
together side by side and resized to 4000x3000 and 500x375, and saved as JPEG of quality 90. Other
work on the machine disturbs times: ratios are of one run, of medians.
"""

import os
import random
import signal
import statistics
import subprocess
import sys
import time
from argparse import ArgumentParser
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.datasets import ImageFolder
from torchvision.transforms.v2 import CenterCrop, Compose, PILToTensor, Resize

from benchmarks.measure import report
from nanocnn.config.schema import Augment, Data
from nanocnn.images.batches import Batches
from nanocnn.images.cache import caches_in, clear
from nanocnn.images.decode import Form
from nanocnn.images.pictures import Pictures, cores
from nanocnn.images.splits import Split, checksum, data_info, image_hashes, load_splits

REPEATS = 3


def photographs(folder: Path) -> list[Image.Image]:
    """Those of at least 100 pixels in `folder`."""
    found = [path for path in sorted(folder.rglob("*")) if path.suffix.lower() in (".jpg", ".jpeg")]
    random.Random(0).shuffle(found)
    pictures = []
    for path in found[:400]:
        with Image.open(path) as picture:
            if min(picture.size) >= 100:
                pictures.append(picture.convert("RGB").resize((100, 100)))
    return pictures


def make_pictures(
    root: Path, sources: list[Image.Image], count: int, size: tuple[int, int], across: int
) -> Path:
    """`count` JPEG files in two classes, each of `across` x `across` photographs."""
    random.seed(0)
    for number in range(count):
        whole = Image.new("RGB", (100 * across, 100 * across))
        for place in range(across * across):
            where = 100 * (place % across), 100 * (place // across)
            whole.paste(random.choice(sources), where)
        folder = root / "train" / f"class {number % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        picture = whole.resize(size, Image.Resampling.BICUBIC)
        picture.save(folder / f"{number}.jpg", quality=90)
    return root


def seconds(work: Callable[..., object], *arguments: Any) -> float:
    start = time.perf_counter()
    work(*arguments)
    return time.perf_counter() - start


def with_torchvision(root: Path, size: int) -> None:
    """All pictures once, decoded by as many workers as there are cores."""
    steps = Compose([Resize(size), CenterCrop(size), PILToTensor()])
    dataset = ImageFolder(root / "train", steps)
    for _ in torch.utils.data.DataLoader(dataset, 64, num_workers=cores()):
        pass


def first(sources: list[Image.Image], folder: Path) -> list[dict[str, Any]]:
    rows = []
    for size, across, count, repeats in (((4000, 3000), 12, 64, 3), ((500, 375), 3, 1000, 9)):
        root = make_pictures(folder / f"{size[0]}", sources, count, size, across)
        paths = sorted(str(path.relative_to(root)) for path in root.rglob("*.jpg"))
        for side in (64, 128):
            form = Form((3, side, side), "crop", shrink=True)
            times: dict[str, list[float]] = {"torchvision": [], "nanocnn": [], "whole": []}
            for _ in range(repeats):
                times["torchvision"].append(seconds(with_torchvision, root, side))
                for name, each in (("nanocnn", form), ("whole", form._replace(shrink=False))):
                    times[name].append(seconds(Pictures(root, paths, each).read_all, True))
            rates = {name: count / statistics.median(each) for name, each in times.items()}
            ratios = [
                theirs / ours
                for theirs, ours in zip(times["torchvision"], times["nanocnn"], strict=True)
            ]
            rows.append(
                {
                    "files": f"{size[0]}x{size[1]}",
                    "to": side,
                    "ImageFolder, images/s": rates["torchvision"],
                    "here": rates["nanocnn"],
                    "here, shrink: false": rates["whole"],
                    "ratio": statistics.median(ratios),
                }
            )
    return rows


def second(sources: list[Image.Image], folder: Path) -> list[dict[str, Any]]:
    root = make_pictures(folder / "second", sources, 2000, (500, 375), 3)
    rows = []
    for side in (64, 128):
        data = Data(dataset="folder", root=str(root), image_size=side, resize="crop")
        pairs = []
        for _ in range(REPEATS):
            for cache in caches_in(root):
                clear(cache)
            pairs.append([seconds(load_splits, data, 0) for _ in range(2)])
        begun, again = (statistics.median(each) for each in zip(*pairs, strict=True))
        share = statistics.median(after / before for before, after in pairs)
        rows.append({"to": side, "first, s": begun, "second, s": again, "share": share})
    return rows


def network() -> nn.Module:
    layers: list[nn.Module] = [nn.Conv2d(3, 16, 3, 2), nn.ReLU(), nn.Conv2d(16, 32, 3, 2)]
    return nn.Sequential(
        *layers, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 2)
    )


def anonymous() -> float:
    """MB of memory of this process and its children that no file stands behind."""

    def of(process: int) -> float:
        text = Path(f"/proc/{process}/smaps_rollup").read_text()
        kilobytes = next(line.split()[1] for line in text.splitlines() if "Pss_Anon" in line)
        children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
        return int(kilobytes) / 1000 + sum(of(int(child)) for child in children)

    return of(os.getpid())


def drop(path: Path) -> None:
    """Let the system forget the content of a file."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def disk_rate(path: Path) -> float:
    """MB/s of reading a file from one end to the other, not from memory."""
    drop(path)
    start, size = time.perf_counter(), path.stat().st_size
    with path.open("rb", buffering=0) as file:
        while file.read(1 << 22):
            pass
    return size / 1e6 / (time.perf_counter() - start)


def batches(sources: list[Image.Image], folder: Path) -> list[dict[str, Any]]:
    """Epochs of a small network, and of reading alone."""
    root = make_pictures(folder / "batches", sources, 3000, (500, 375), 3)
    limit = 3000 * 3 * 128 * 128 // 10
    data = Data(dataset="folder", root=str(root), image_size=128, resize="crop", validation=0)
    small = data.model_copy(update={"memory_limit": limit})
    kinds = {
        "in memory": load_splits(data, 0)["train"],
        "from the cache": load_splits(small, 0)["train"],
        "decoded by processes": load_splits(small.model_copy(update={"cache": False}), 0)["train"],
    }
    sums = {name: checksum({"train": s}, {"train": image_hashes(s)}) for name, s in kinds.items()}
    assert len(set(sums.values())) == 1
    file = next(caches_in(root)[0].glob("*.pixels"))
    info, model = data_info(data, kinds["in memory"]), network()
    optimizer = torch.optim.SGD(model.parameters(), 0.01)

    def epoch(split: Split, number: int, learns: bool) -> Iterator[Tensor]:
        for _, images, labels in Batches(split, info, 64, torch.device("cpu")).shuffled(
            0, number, Augment()
        ):
            if learns:
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(images), labels).backward()
                optimizer.step()
            yield images

    def rate(split: Split, number: int, learns: bool) -> float:
        return 3000 / seconds(lambda: sum(1 for _ in epoch(split, number, learns)))

    both = (epoch(kinds[name], 0, False) for name in ("in memory", "from the cache"))
    assert all(torch.equal(one, other) for one, other in zip(*both, strict=True))
    for number in range(5):
        rate(kinds["from the cache"], number, True)
        print(f"anonymous memory after epoch {number + 1}: {anonymous():,.0f} MB")
    rows = []
    for learns in (True, False):
        rates: dict[str, list[float]] = {}
        for number in range(5):
            for name, split in kinds.items():
                rates.setdefault(name, []).append(rate(split, number, learns))
            drop(file)
            rates.setdefault("from the cache, cold", []).append(
                rate(kinds["from the cache"], number, learns)
            )
        for name, found in rates.items():
            ratios = [a / b for a, b in zip(found, rates["in memory"], strict=True)]
            rows.append(
                {
                    "images": name,
                    "a small network learns": "yes" if learns else "no",
                    "images/s": statistics.median(found),
                    "MB/s": statistics.median(found) * 3 * 128 * 128 / 1e6,
                    "to in memory": statistics.median(ratios),
                }
            )
    print(f"disk, read in order: {disk_rate(file):,.0f} MB/s")
    return rows


CHILD = """
import sys
from pathlib import Path
import numpy as np
from nanocnn.config.schema import Data
from nanocnn.images.cache import Cache
from nanocnn.images.decode import Form
from nanocnn.images.pictures import Pictures
root, form = Path(sys.argv[1]), Form((3, 128, 128), "stretch", shrink=True)
paths = sorted(str(path.relative_to(root)) for path in root.rglob("*.jpg"))
rows = np.arange(len(paths))
while True:
    cache = Cache(Data(dataset="folder", root=str(root)))
    print("begun", flush=True)
    with cache.writing("train", paths, form) as writer:
        contents = Pictures(root, paths, form).read_all(False, writer.of(rows))
        writer.add(rows, contents)
    print("written", flush=True)
"""


def kills(sources: list[Image.Image], folder: Path) -> list[dict[str, Any]]:
    root = make_pictures(folder / "kills", sources, 200, (500, 375), 3)
    data = Data(dataset="folder", root=str(root), image_size=128, validation=0)
    expected = load_splits(data.model_copy(update={"cache": False}), 0)["train"].files
    assert expected
    whole = wrong = 0
    for number in range(50):
        child = subprocess.Popen([sys.executable, "-c", CHILD, str(root)], stdout=subprocess.PIPE)
        assert child.stdout
        child.stdout.readline()
        time.sleep(random.Random(number).uniform(0, 1.5))
        child.send_signal(signal.SIGKILL)
        child.communicate()
        whole += any(root.glob(".nanocnn-cache/*.pixels"))
        found = load_splits(data, 0)["train"].files
        wrong += found is None or found.hashes != expected.hashes
        for cache in caches_in(root):
            clear(cache)
    return [{"kills": 50, "left a whole file": whole, "wrong pictures": wrong}]


PARTS = {"first": first, "second": second, "batches": batches, "kills": kills}


def main() -> None:
    parser = ArgumentParser("decoding.py", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(PARTS)}; default: all")
    parser.add_argument("--photos", type=Path, metavar="DIR", required=True)
    args = parser.parse_args()
    sources = photographs(args.photos)
    assert sources, f"{args.photos}: holds no photographs of 100 pixels"
    for part in args.parts or PARTS:
        with TemporaryDirectory() as folder:
            report(f"decoding_{part}", PARTS[part](sources, Path(folder)), cores=cores())


if __name__ == "__main__":
    np.random.seed(0)
    main()
