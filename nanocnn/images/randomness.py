"""Randomness without state: each stream comes from the seed and a place in the run."""

import math

import numpy as np
import torch
from torch import Tensor

SPLIT, ORDER, STEP, MIRROR, DROPOUT = range(5)  # what a stream is for


def derived_seed(seed: int, *place: int) -> int:
    return int(np.random.SeedSequence([seed, *place]).generate_state(1, np.uint64)[0])


def generator(seed: int, *place: int) -> torch.Generator:
    return torch.Generator().manual_seed(derived_seed(seed, *place))


def seed_torch(seed: int, device: torch.device) -> None:
    """Seed torch's own generators of `device` and of the CPU."""
    if device.type == "cpu":
        # torch.manual_seed would note for GPUs, whether there are any or not, where it was called:
        # 0.25 ms a step
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)


def stratified_split(labels: Tensor, size: int, seed: int) -> tuple[Tensor, Tensor]:
    """Indices of (the rest, `size` held out), of each class in proportion."""
    order = torch.randperm(len(labels), generator=generator(seed, SPLIT))
    order = order[labels[order].argsort(stable=True)]  # class by class, shuffled within each
    held_out = evenly(len(labels), size)
    return order[~held_out].sort().values, order[held_out].sort().values


def evenly(count: int, size: int) -> Tensor:
    """A mask of `count` places with `size` of them evenly spaced."""
    rank = torch.arange(count + 1) * size // count
    return rank[1:] > rank[:-1]


def balanced_order(labels: Tensor, random: torch.Generator) -> Tensor:
    """Indices (N,) of `labels` (N,), shuffled: each class equally often to within one image.

    No image of a class comes once more before all the others of its class have come.
    """
    classes = labels.unique()
    places = torch.arange(len(labels)) % len(classes)
    shares = torch.bincount(places)[torch.randperm(len(classes), generator=random)].tolist()
    chosen = []
    for label, share in zip(classes, shares, strict=True):
        members = (labels == label).nonzero().flatten()
        rounds = math.ceil(share / len(members))
        orders = [torch.randperm(len(members), generator=random) for _ in range(rounds)]
        chosen.append(members[torch.cat(orders)[:share]])
    return torch.cat(chosen)[torch.randperm(len(labels), generator=random)]
