"""How many wrong labels are among the first suspects of `nanocnn check-data --labels`.

python -m benchmarks.suspects --root FOLDER --weights FILE    # as docs/own-images.md brings them

Of all pictures a share of the labels is changed at random, to another class, with five seeds.
"""

from argparse import ArgumentParser
from itertools import chain
from statistics import mean, stdev

import torch

from nanocnn.commands.check_data import read_images
from nanocnn.config.load import read_draft
from nanocnn.experiments.suspects import rank
from nanocnn.images.randomness import generator
from nanocnn.training.head import Features

LOOKED_AT = 50


def change(labels: torch.Tensor, share: float, classes: int, seed: int) -> torch.Tensor:
    """`labels` with a share of them changed to another class."""
    random = generator(seed)
    chosen = torch.randperm(len(labels), generator=random)[: round(share * len(labels))]
    offsets = torch.randint(1, classes, (len(chosen),), generator=random)
    changed = labels.clone()
    changed[chosen] = (labels[chosen] + offsets) % classes
    return changed


def main() -> None:
    parser = ArgumentParser("suspects.py", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--root", required=True, help="pictures, as photos.yaml reads them")
    parser.add_argument("--weights", required=True, help="of EfficientNet-Lite0")
    parser.add_argument("--share", type=float, default=0.05, help="of labels; default: 0.05")
    parser.add_argument("--first-seed", type=int, default=0, help="of five; default: 0")
    args = parser.parse_args()
    model = f"model={{name: timm.tf_efficientnet_lite0, weights: {args.weights}}}"
    draft = read_draft("photos.yaml", [f"data.root={args.root}", model])
    _, data, learner = read_images(draft, labels=True)
    assert learner is not None
    found = learner.features(chain(data.train, data.val or ()))
    shares = []
    for seed in range(args.first_seed, args.first_seed + 5):
        labels = change(found.labels, args.share, len(data.info.classes), seed)
        first = [suspect.place for suspect in rank(Features(found.values, labels))[:LOOKED_AT]]
        shares.append(float((labels != found.labels)[first].float().mean()))
        print(f"seed {seed}: {shares[-1]:.2f} of the first {LOOKED_AT} suspects were changed")
    print(
        f"{mean(shares):.3f} ± {stdev(shares):.3f} (mean ± sd of 5 seeds; by chance {args.share}) "
        f"of {len(found.labels):,} images"
    )


if __name__ == "__main__":
    main()
