"""How many copies `nanocnn check-data` finds, and how many pairs it takes for copies that are none.

python -m benchmarks.copies FOLDER...     # of own pictures, in folders at any depth
python -m benchmarks.copies --mnist data  # 3,000 handwritten digits, data/MNIST/raw

Of each folder 50 pictures are saved again as JPEG of quality 70, into another split. Whether a pair
that was not made so is a false one, is for the eye to say: each is printed.
"""

import random
import time
from argparse import ArgumentParser
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image

from nanocnn.images.copies import NEAR, near_copies, perceptual_hashes
from nanocnn.images.decode import load
from nanocnn.images.places import looks_like_a_picture
from nanocnn.images.published import read_mnist
from nanocnn.images.thumbnails import thumbnails_of_files, thumbnails_of_tensor

SAVED_AGAIN = 50
DIGITS = 3000


def report(name: str, thumbnails: np.ndarray, names: list[str]) -> None:
    """What is told of different pictures, and what the hashes alone would tell."""
    start = time.perf_counter()
    found = near_copies(thumbnails, np.zeros(len(names)))
    seconds = time.perf_counter() - start
    hashes = perceptual_hashes(thumbnails)
    later, earlier = np.nonzero(np.bitwise_count(hashes[:, None] ^ hashes[None]) <= NEAR)
    alone = len(np.unique(later[earlier < later]))
    print(
        f"{name}: {len(names):,} pictures in {seconds:.2f} s: {len(found):,} are told as copies of "
        f"an earlier one, by the hash alone {alone:,} would be"
    )
    for one, other, correlation in found:
        print(f"  {names[one]} = {names[other]} ({correlation:.4f})")


def saved_again(root: Path, paths: list[str], thumbnails: np.ndarray) -> int:
    """How many of 50 pictures are told, with the very picture that they were saved from."""
    chosen = sorted(random.Random(0).sample(range(len(paths)), SAVED_AGAIN))
    with TemporaryDirectory() as folder:
        copies = [f"{index}.jpg" for index in chosen]
        for index, copy in zip(chosen, copies, strict=True):
            background = Image.new("RGBA", (picture := load(root / paths[index])).size, "black")
            shown = Image.alpha_composite(background, picture.convert("RGBA")).convert("RGB")
            shown.save(Path(folder, copy), quality=70)
        again = thumbnails_of_files(Path(folder), copies, "black")
    split_of = np.repeat([0, 1], [len(paths), SAVED_AGAIN])
    found = near_copies(np.concatenate([thumbnails, again]), split_of, first=len(paths))
    return sum(
        pair.one < len(paths) and pair.one == chosen[pair.other - len(paths)] for pair in found
    )


def main() -> None:
    parser = ArgumentParser("copies.py", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folders", nargs="*", type=Path, metavar="FOLDER")
    parser.add_argument("--mnist", type=Path, metavar="ROOT", help="the data root of MNIST")
    args = parser.parse_args()
    for root in args.folders:
        files = sorted(path for path in root.rglob("*") if looks_like_a_picture(path))
        paths = [str(path.relative_to(root)) for path in files]
        thumbnails = thumbnails_of_files(root, paths, "black")
        report(str(root), thumbnails, paths)
        told = saved_again(root, paths, thumbnails)
        print(f"{root}: {told} of {SAVED_AGAIN} pictures saved again at quality 70 are told")
    if args.mnist:
        images = read_mnist("MNIST", args.mnist, True)[0][:DIGITS]
        report("MNIST", thumbnails_of_tensor(images), [f"number {i}" for i in range(len(images))])


if __name__ == "__main__":
    main()
