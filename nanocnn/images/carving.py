"""What is held out of the images: the validation images, and of own pictures the test images too.

Validation images are chosen by the seed of the run. Which pictures are held out for test.py does
not depend on it: it is decided by their names, so that runs of several seeds are judged alike, and
so that a picture which is added changes little of it. The run folder keeps their list.
"""

import csv
import hashlib
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from nanocnn.config.schema import Data
from nanocnn.images.groups import hold_out_groups, refuse_shared_groups, warn_of_lone_groups
from nanocnn.images.listing import Listing, layout, list_split, own_groups
from nanocnn.images.names import nfc
from nanocnn.images.own import leave_out_unreadable
from nanocnn.images.randomness import SPLIT, evenly, generator, stratified_split
from nanocnn.images.relabel import read_corrections, relabelled
from nanocnn.system.errors import UserError
from nanocnn.system.files import read_file, replacing

TEST_SHARE = 0.2  # of pictures that are in no split at all
TEST_FILES = "test_files.csv"  # of a run folder


def carve(
    labels: Tensor, data: Data, seed: int, groups: Sequence[str] | None = None
) -> dict[str, Tensor]:
    """Indices of the "train" split and, if `data` asks for one, of the "val" split; with `groups`
    none of them stands in both.
    """
    chosen = torch.arange(len(labels))
    if data.limit is not None:
        if data.limit > len(labels):
            raise UserError(
                f"data.limit = {data.limit}: {data.dataset} has {len(labels)} training images"
            )
        chosen = stratified_split(labels, data.limit, seed)[1]
    total = len(chosen)
    size = round(data.validation * total) if isinstance(data.validation, float) else data.validation
    if size == 0:
        if data.validation > 0:
            raise UserError(f"data.validation = {data.validation}: less than one of {total} images")
        return {"train": chosen}
    if size >= total:
        raise UserError(
            f"data.validation = {data.validation}: leaves nothing of {total} images to train on"
        )
    if groups is None:
        parts = stratified_split(labels[chosen], size, seed)
        rest, held_out = keep_each_class(labels[chosen], *parts)
    else:
        groups = [groups[index] for index in chosen.tolist()]
        names = sorted(set(groups))
        mixed = torch.randperm(len(names), generator=generator(seed, SPLIT)).tolist()
        order = [names[place] for place in mixed]
        rest, held_out = hold_out_groups(labels[chosen], size, groups, order)
        warn_of_share("data.validation", size, len(held_out))
    if len(held_out) == 0:
        raise UserError(
            f"data.validation = {data.validation}: takes the only {of_a_class(groups)} of a class; "
            "data.validation=0 trains without validation, or more images are needed"
        )
    return {"train": chosen[rest], "val": chosen[held_out]}


def keep_each_class(labels: Tensor, rest: Tensor, held_out: Tensor) -> tuple[Tensor, Tensor]:
    """The indices of two splits, with an image of each class of `labels` (N,) in the first one.

    A class whose images were all held out would be trained on none.
    """
    lost = [label for label in labels[held_out].unique() if not (labels[rest] == label).any()]
    back = torch.tensor([int((labels[held_out] == label).nonzero()[0]) for label in lost]).long()
    stays = torch.ones(len(held_out), dtype=torch.bool)
    stays[back] = False
    return torch.cat([rest, held_out[back]]).sort().values, held_out[stays]


def hold_out_test(data: Data, listing: Listing) -> Listing:
    """`listing`, of training pictures, without those that are held out for test.py, which it notes.

    Raises UserError where data.test cannot act, or leaves nothing to train on or to judge by.
    """
    places, divided = layout(data)
    if "test" in places:
        if data.test is not None:
            raise UserError(
                f"data.test = {data.test}: cannot act, for {places['test']} has a test split of "
                "its own"
            )
        return listing
    share: float = 0 if divided else TEST_SHARE
    share, total = share if data.test is None else data.test, len(listing.paths)
    size = round(share * total) if isinstance(share, float) else share
    if size == 0:
        if share > 0:
            raise UserError(
                f"data.test = {share}: less than one of {total} images; data.test=0 holds none out"
            )
        return listing
    if size >= total:
        raise UserError(f"data.test = {share}: leaves nothing of {total} images to train on")
    labels, groups = listing.labels, listing.groups
    if groups is None:
        rest, held_out = keep_each_class(labels, *split_by_name(labels, size, listing.paths))
    else:
        order = sorted(set(groups), key=hash_of)
        rest, held_out = hold_out_groups(labels, size, groups, order)
        warn_of_share("data.test", size, len(held_out))
    if len(held_out) == 0:
        raise UserError(
            f"data.test = {share}: takes the only {of_a_class(groups)} of a class; "
            "data.test=0 trains without a test split, or more images are needed"
        )
    test = listing.take(held_out)
    labelled = zip(test.paths, test.labels.tolist(), strict=True)
    pairs = tuple((path, listing.classes[label]) for path, label in labelled)
    return listing.take(rest)._replace(held_out=pairs)


def split_by_name(labels: Tensor, size: int, names: list[str]) -> tuple[Tensor, Tensor]:
    """Indices of (the rest, `size` held out), of each class in proportion: those whose names come
    first by their hashes.
    """
    hashed = [hash_of(name) for name in names]
    order = torch.tensor(sorted(range(len(names)), key=lambda index: hashed[index]))
    order = order[labels[order].argsort(stable=True)]  # class by class
    counts, sizes = labels[order].bincount(), labels[order][evenly(len(labels), size)].bincount()
    starts = counts.cumsum(0) - counts
    rank = torch.arange(len(labels)) - starts[labels[order]]
    sizes = torch.cat([sizes, sizes.new_zeros(len(counts) - len(sizes))])
    is_held_out = rank < sizes[labels[order]]
    return order[~is_held_out].sort().values, order[is_held_out].sort().values


def hash_of(name: str) -> bytes:
    """What a name is sorted by, in an order that says nothing of it."""
    return hashlib.blake2b(nfc(name).encode(errors="surrogateescape")).digest()


def of_a_class(groups: Sequence[str] | None) -> str:
    return "image" if groups is None else "group"


def warn_of_share(key: str, size: int, found: int) -> None:
    """Say so where groups are too large for the share that was asked for."""
    if found and not size / 2 <= found <= 2 * size:
        print(
            f"warning: {key}: {found:,} images are held out instead of {size:,}, since groups "
            "stay together",
            file=sys.stderr,
        )


def list_of(pairs: tuple[tuple[str, str], ...]) -> bytes:
    """The content of test_files.csv: path and class of each picture that was held out."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([("path", "label"), *pairs])
    return text.getvalue().encode(errors="surrogateescape")


def checksum_of(pairs: tuple[tuple[str, str], ...]) -> str:
    """SHA-256 of their list; empty where none were held out."""
    return hashlib.sha256(list_of(pairs)).hexdigest() if pairs else ""


def keep_list(run_dir: Path, pairs: tuple[tuple[str, str], ...]) -> None:
    if pairs:
        with replacing(run_dir / TEST_FILES) as file:
            file.write(list_of(pairs))


def read_list(run_dir: Path | None, sha256: str, classes: list[str]) -> Listing:
    """The pictures that the run in `run_dir` held out; its checkpoint knows the `sha256` of their
    list.

    Raises UserError where the list is gone or another one.
    """
    if run_dir is None:
        raise UserError("which images were held out for the test, the run folder has to say")
    path = run_dir / TEST_FILES
    if not path.is_file():
        raise UserError(
            f"{path}: no such file; it says which images were held out of the training of this "
            "network: bring it back beside the checkpoint"
        )
    content = read_file(path)
    if hashlib.sha256(content).hexdigest() != sha256:
        raise UserError(
            f"{path}: damaged, or of another run: not the list of the images that were held out of "
            "the training of this network"
        )
    text = io.StringIO(content.decode(errors="surrogateescape"), newline="")
    pairs = list(csv.reader(text))[1:]
    labels = torch.tensor([classes.index(label) for _, label in pairs])
    return Listing("test", [path for path, _ in pairs], labels, classes, kept=True)


def list_training(data: Data, seed: int, classes: list[str] | None) -> dict[str, Listing]:
    """The own images of the "train" split and, if there is to be one, of the "val" split, with
    corrected labels.
    """
    corrections = read_corrections(data)
    found = list_training_as_found(data, seed, classes)
    return {name: relabelled(part, corrections) for name, part in found.items()}


def list_training_as_found(data: Data, seed: int, classes: list[str] | None) -> dict[str, Listing]:
    if data.has_groups:
        refuse_shared_groups(own_groups(data))
    train = list_training_and_val(data, classes)
    places = layout(data).places
    if "val" not in places:
        parts = carve(train.labels, data, seed, train.groups)
        return {name: train.take(chosen) for name, chosen in parts.items()}
    if data.validation != Data().validation:
        raise UserError(
            f"data.validation = {data.validation}: cannot act, for {places['val']} has a val split "
            "of its own"
        )
    chosen = carve(train.labels, data.model_copy(update={"validation": 0}), seed)["train"]
    val = list_split(data, "val", train.classes)
    refuse_in_both(places["train"], places["val"], train.paths, val.paths)
    return {"train": train.take(chosen), "val": readable(data, val)}


def refuse_in_both(train: Path, val: Path, one: Sequence[str], other: Sequence[str]) -> None:
    """Raises UserError for a picture that the lists `train` and `val` both name."""
    shared = {*map(os.path.normpath, one)} & {*map(os.path.normpath, other)}
    if shared and train != val:
        raise UserError(
            f"{train} and {val}: both list {min(shared)!r}"
            f"{f' and {len(shared) - 1:,} more' * (len(shared) > 1)}; an image belongs into one"
        )


def list_training_and_val(data: Data, classes: list[str] | None = None) -> Listing:
    """The own images that are trained on or, without a val split, carved from those.

    What is held out for test.py goes first, by name: no file of it is opened.
    """
    listing = list_split(data, "train", classes)
    if listing.groups is not None:
        warn_of_lone_groups(listing.groups)
    return readable(data, hold_out_test(data, listing))


def readable(data: Data, listing: Listing) -> Listing:
    """`listing`; with data.skip_unreadable what of it can be read."""
    return leave_out_unreadable(data, listing) if data.skip_unreadable else listing
