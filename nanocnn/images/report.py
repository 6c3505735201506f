"""What one should know of the images before training on them."""

import sys
from pathlib import Path

import numpy as np
from torch import Tensor

from nanocnn.config.schema import Data
from nanocnn.images.carving import keep_list
from nanocnn.images.content import TRAINED, write_hashes
from nanocnn.images.listing import layout
from nanocnn.images.names import look_alikes
from nanocnn.images.own import Files, shortened
from nanocnn.images.places import warn_of_unread
from nanocnn.images.splits import DataInfo, Split, count_classes
from nanocnn.system.files import replacing
from nanocnn.system.output import escaped

MOST_CLASSES = 20  # named one by one


def print_data_report(
    splits: dict[str, Split], info: DataInfo, digests: dict[str, list[bytes]]
) -> None:
    """Images of each class, sizes, mean and spread; warnings of images in both splits or in two
    classes, of classes that one split has not, and of those that look alike.
    """
    for name, split in splits.items():
        counts = count_classes(split.labels, info.classes)
        shown = [f"{label} {count:,}" for label, count in zip(info.classes, counts, strict=True)]
        if len(counts) <= MOST_CLASSES:
            print(f"  {name}: {', '.join(shown)}")
        else:
            least, most = (shown[counts.index(extreme(counts))] for extreme in (min, max))
            print(f"  {name}: {len(counts)} classes, from {least} to {most} images")
    files = [split.files for split in splits.values() if split.files]
    if files:
        print_files(splits, files)
        warn_of_odd_pictures(splits)
    if not isinstance(splits["train"].images, Tensor):
        print("  too large for data.memory_limit: read batch by batch")
    mean, std = (" ".join(f"{value:.4f}" for value in values) for values in (info.mean, info.std))
    print(f"  mean {mean}, standard deviation {std}{' of the weights' if info.weights else ''}")

    if files:
        warn_of_look_alikes(info.classes)
    if splits.get("val") is splits["train"]:  # on purpose: train.overfit_batches
        splits = {"train": splits["train"]}
        warn_of_two_labels(splits, digests, info.classes)
        return
    warn_of_absent_classes(splits, info.classes)
    if len(set().union(*digests.values())) == sum(map(len, digests.values())):
        return  # as most often: all images differ
    warn_of_two_labels(splits, digests, info.classes)
    first = {digest: index for index, digest in reversed([*enumerate(digests["train"])])}
    twins = [
        (i, first[digest]) for i, digest in enumerate(digests.get("val", [])) if digest in first
    ]
    if twins:
        names = [
            split.files.paths[index] if split.files else f"number {index}"
            for split, index in zip((splits["val"], splits["train"]), twins[0], strict=True)
        ]
        print(
            f"warning: {len(twins):,} validation images have the pixels of a training image: "
            f"the first is {names[0]}, as {names[1]}",
            file=sys.stderr,
        )


def print_places(data: Data, classes: list[str]) -> None:
    """What lies beside the splits and is not read, and that own images have no test split."""
    warn_of_unread(data, classes)
    places, divided = layout(data)
    if divided and "test" not in places and data.test is None:
        print(
            "there is no test split: test.py can judge --split val only; with data.test=0.2 "
            "images of train are held out for it"
        )


def print_files(splits: dict[str, Split], files: list[Files]) -> None:
    """What is told of own pictures alone: those held out, their groups and sizes."""
    if held_out := files[0].held_out:
        print(f"  test: {len(held_out):,} images held out, which are not opened here")
    if files[0].groups:
        shown = [f"{split.files.groups:,} {name}" for name, split in splits.items() if split.files]
        print(f"  groups: {', '.join(shown)}, none of them in two splits")
    sizes = sorted(
        (header[:2] for part in files for header in part.headers),
        key=lambda size: size[0] * size[1],
    )
    smallest, largest = ("x".join(map(str, size)) for size in (sizes[0], sizes[-1]))
    left_out = len(unreadable(splits))
    print(
        f"  files of {smallest}{f' to {largest}' if largest != smallest else ''} pixels"
        + (f"; left out, since they cannot be read: {left_out:,}" if left_out else "")
        + (f"; over {files[0].background}" if files[0].background != "black" else "")
    )


def warn_of_two_labels(
    splits: dict[str, Split], digests: dict[str, list[bytes]], classes: list[str]
) -> None:
    """Name the images with the pixels of one of another class: one of the two is mislabelled."""

    def shown(name: str, index: int) -> str:
        files, label = splits[name].files, classes[int(splits[name].labels[index])]
        return f"{files.paths[index] if files else f'{name} number {index}'} ({label})"

    first: dict[bytes, tuple[int, str, int]] = {}
    pairs = []
    for name, split in splits.items():
        labelled = zip(digests[name], split.labels.tolist(), strict=True)
        for index, (digest, label) in enumerate(labelled):
            earlier = first.setdefault(digest, (label, name, index))
            if earlier[0] != label:
                pairs.append((name, index, *earlier[1:]))
    if pairs:
        name, index, other_name, other = pairs[0]
        total = sum(len(split.labels) for split in splits.values())
        print(
            f"warning: {len(pairs):,} of {total:,} images have the pixels of one of another class: "
            f"the first is {shown(name, index)}, as {shown(other_name, other)}",
            file=sys.stderr,
        )


def warn_of_look_alikes(classes: list[str]) -> None:
    pairs = look_alikes(classes)
    if pairs:
        print(
            f"warning: {len(pairs):,} of {len(classes):,} class names differ from another in case, "
            "blanks, zeros or invisible characters alone: the first is "
            f"{pairs[0][1]!r}, as {pairs[0][0]!r}",
            file=sys.stderr,
        )


def unreadable(splits: dict[str, Split]) -> list[str]:
    """Path and reason of each file that was left out, once."""
    files = [split.files for split in splits.values() if split.files]
    return list(dict.fromkeys(line for part in files for line in part.unreadable))


def warn_of_odd_pictures(splits: dict[str, Split]) -> None:
    """Name what is in files but does not take part, and pictures that show nothing."""
    for name, split in splits.items():
        if not split.files:
            continue
        for paths, what in (
            (
                split.files.with_header("animated"),
                "have several frames or pages, of which the first is taken",
            ),
            (split.files.plain, "have a single colour and show nothing"),
        ):
            if paths:
                print(
                    f"warning: {len(paths):,} of {len(split.labels):,} {name} images {what}: "
                    f"{shortened(paths)}",
                    file=sys.stderr,
                )
    train = splits["train"].files if "train" in splits else None
    if train:
        channels = np.flatnonzero(np.count_nonzero(train.histogram, axis=1) == 1)
        constant = [("red", "green", "blue")[channel] for channel in channels]
        if constant:
            print(
                f"warning: the {' and '.join(constant)} of all training pixels is the same: it "
                "tells nothing",
                file=sys.stderr,
            )


def warn_of_absent_classes(splits: dict[str, Split], classes: list[str]) -> None:
    """Name the classes that are never learned, and those that validation says nothing of."""
    consequences = {"train": "are never learned", "val": "are not validated"}
    for name, split in splits.items():
        counts = count_classes(split.labels, classes)
        absent = [each for each, count in zip(classes, counts, strict=True) if count == 0]
        if absent:
            print(
                f"warning: {len(absent):,} of {len(classes):,} classes have no image in {name} and "
                f"{consequences[name]}: {shortened(absent)}",
                file=sys.stderr,
            )


def keep_data_report(
    run_dir: Path, splits: dict[str, Split], digests: dict[str, list[bytes]]
) -> None:
    """Write train_hashes.txt and test_files.csv, for test.py, and if files were left out their
    list, unreadable.txt: a line each, `escaped`.
    """
    write_hashes(run_dir / TRAINED, digests["train"])
    if splits["train"].files:
        keep_list(run_dir, splits["train"].files.held_out)
    left_out = unreadable(splits)
    if left_out:
        with replacing(run_dir / "unreadable.txt") as file:
            file.writelines(f"{escaped(line)}\n".encode() for line in left_out)
