"""What there is to see in the images of all splits, before a network is trained on them.

Nothing is dropped or changed. It comes in sections, which a page shows and a terminal sums up.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch import Tensor

from nanocnn.images.copies import near_copies
from nanocnn.images.names import look_alikes
from nanocnn.images.own import Files
from nanocnn.images.report import unreadable
from nanocnn.images.splits import DataInfo, Split, count_classes, image_hashes
from nanocnn.images.thumbnails import thumbnails_of_files, thumbnails_of_tensor

EXTREMES, PAIRS = 8, 60  # pictures, and pairs of them, that are shown of a kind
EXAMPLES, MOST_EXAMPLES = 8, 800  # pictures of each class, and of all


class Tile(NamedTuple):
    """Pictures side by side, by their places among all, with a line below each."""

    pictures: tuple[int, ...]
    captions: tuple[str, ...]
    note: str = ""
    heading: str = ""  # above the first of those that have it


class Section(NamedTuple):
    title: str
    text: str  # what there is to say, in a line
    tiles: Sequence[Tile] = ()
    lines: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()  # of a table, its head first
    alarming: bool = False  # something that may be wrong


class Overview:
    """The images of all splits in a row: `names`, `labels` and `thumbnails` of each."""

    def __init__(self, root: Path, splits: dict[str, Split], info: DataInfo):
        self.root, self.splits, self.info = root, splits, info
        self.labels = np.concatenate([split.labels.numpy() for split in splits.values()])
        counts = [len(split.labels) for split in splits.values()]
        self.split_of = np.repeat(np.arange(len(splits)), counts)
        self.place_of = np.concatenate([np.arange(count) for count in counts])  # in its split
        self.files: list[Files] = [split.files for split in splits.values() if split.files]
        if self.files:
            self.names = [path for part in self.files for path in part.paths]
            headers = [header for part in self.files for header in part.headers]
            self.sizes = np.array([header[:2] for header in headers])
            background = self.files[0].background
            self.thumbnails = thumbnails_of_files(root, self.names, background)
        else:
            self.names = [
                f"{name} {i}" for name, n in zip(splits, counts, strict=True) for i in range(n)
            ]
            self.sizes = np.array([split.images.shape[2:] for split in splits.values()])[
                self.split_of
            ]
            images = [split.images for split in splits.values() if isinstance(split.images, Tensor)]
            self.thumbnails = np.concatenate([thumbnails_of_tensor(each) for each in images])

    def split(self, index: int) -> str:
        return list(self.splits)[self.split_of[index]]

    def label(self, index: int) -> str:
        return self.info.classes[self.labels[index]]

    def tile(self, *pictures: int, note: str = "") -> Tile:
        captions = (f"{self.names[i]} ({self.split(i)}, {self.label(i)})" for i in pictures)
        return Tile(pictures, tuple(captions), note)

    def tiles(self, pictures: Sequence[int], note: Callable[[int], str] = str) -> list[Tile]:
        return [self.tile(int(index), note=note(int(index))) for index in pictures]

    def sections(self) -> list[Section]:
        found = [self.counts(), self.examples(), *self.copies(), *self.odd(), *self.extremes()]
        return [section for section in found if section is not None]

    def counts(self) -> Section:
        classes = self.info.classes
        of_split = {
            name: count_classes(split.labels, classes) for name, split in self.splits.items()
        }
        rows = zip(classes, *(map("{:,}".format, each) for each in of_split.values()), strict=True)
        sums = " and ".join(f"{sum(counts):,} {name}" for name, counts in of_split.items())
        least, most = (extreme(of_split["train"]) for extreme in (min, max))
        each = f"{least:,}" if least == most else f"{least:,} to {most:,}"
        lacking = [
            f"no {name} image is of {label}"
            for name, counts in of_split.items()
            for label, count in zip(classes, counts, strict=True)
            if count == 0
        ]
        lines = lacking + [
            f"{one!r} and {other!r} look alike" for one, other in look_alikes(classes)
        ]
        return Section(
            "Images",
            f"{sums} images of {len(classes):,} classes, {each} train images a class",
            lines=lines,
            rows=[["class", *of_split], *rows],
            alarming=bool(lines),
        )

    def examples(self) -> Section:
        """Of each class, evenly over the training images."""
        classes = self.info.classes
        each = max(1, min(EXAMPLES, MOST_EXAMPLES // len(classes)))
        chosen: list[int] = []
        for label in range(min(len(classes), MOST_EXAMPLES)):
            own = np.flatnonzero((self.labels == label) & (self.split_of == 0))
            chosen += (
                own[np.unique(np.linspace(0, len(own) - 1, each).astype(int))].tolist()
                if len(own)
                else []
            )
        tiles = [self.tile(index)._replace(heading=self.label(index)) for index in chosen]
        return Section(
            "Each class", f"{each} training images of each, or all that there are", tiles
        )

    def copies(self) -> list[Section]:
        pairs = self.pairs()
        kinds = {
            "One picture under two labels": [
                p for p in pairs if self.labels[p[0]] != self.labels[p[1]]
            ],
            "Copies across splits": [
                p for p in pairs if self.split_of[p[0]] != self.split_of[p[1]]
            ],
            "Copies within a split": [
                p for p in pairs if self.split_of[p[0]] == self.split_of[p[1]]
            ],
        }
        found = []
        for title, of_kind in kinds.items():
            exact = sum(correlation is None for _, _, correlation in of_kind)
            nearly = len(of_kind) - exact
            text = f"{counted(of_kind, 'pair')}: {exact:,} of the same pixels, {nearly:,} nearly so"
            tiles = [
                self.tile(
                    one, other, note="same pixels" if value is None else f"alike to {value:.3f}"
                )
                for one, other, value in of_kind[:PAIRS]
            ]
            found.append(Section(title, text if of_kind else "none", tiles, alarming=bool(of_kind)))
        return found

    def pairs(self) -> list[tuple[int, int, float | None]]:
        """Two pictures that are copies, the earlier first, and how alike they are; None: exactly.

        Of each picture one earlier copy is told of each split and label.
        """
        found: dict[tuple[int, int], tuple[int, int, float | None]] = {}
        firsts: dict[bytes, dict[int, int]] = {}  # the first picture of each kind, by its pixels
        kind_of = self.split_of * len(self.info.classes) + self.labels
        digests = [digest for split in self.splits.values() for digest in image_hashes(split)]
        for index, digest in enumerate(digests):
            earlier = firsts.setdefault(digest, {})
            for kind, first in earlier.items():
                found[index, kind] = (first, index, None)
            earlier.setdefault(int(kind_of[index]), index)
        for one, other, correlation in near_copies(self.thumbnails, kind_of):
            found.setdefault((other, int(kind_of[one])), (one, other, correlation))
        return [found[key] for key in sorted(found)]

    def odd(self) -> list[Section]:
        """Files that cannot be read or show nothing, or of which a part is taken."""
        found = []
        if lines := unreadable(self.splits):
            text = f"{counted(lines, 'file')}, left out here, and refused by train.py"
            found.append(Section("Files that cannot be read", text, lines=lines, alarming=True))
        places = {name: index for index, name in enumerate(self.names)}
        for title, kind in (
            ("Of a single colour", [path for part in self.files for path in part.plain]),
            (
                "Of several frames or pages",
                [path for part in self.files for path in part.with_header("animated")],
            ),
        ):
            if kind:
                tiles = self.tiles([places[path] for path in kind[:PAIRS]], lambda _: "")
                found.append(Section(title, counted(kind, "image"), tiles, alarming=True))
        return found

    def extremes(self) -> list[Section]:
        light = self.thumbnails.mean(axis=(1, 2)) / 255
        contrast = self.thumbnails.std(axis=(1, 2)) / 255
        height, width = self.sizes.T
        kinds: list[tuple[str, np.ndarray, Callable[[int], str]]] = [
            ("Darkest", light, lambda i: f"mean {light[i]:.0%}"),
            ("Brightest", -light, lambda i: f"mean {light[i]:.0%}"),
            ("Least contrast", contrast, lambda i: f"deviation {contrast[i]:.1%}"),
        ]
        shape = width / height
        if shape.min() < shape.max():
            kinds.append(("Widest", -shape, lambda i: f"{width[i]} x {height[i]}"))
            kinds.append(("Tallest", shape, lambda i: f"{width[i]} x {height[i]}"))
        if len(np.unique(self.sizes, axis=0)) > 1:
            kinds.append(("Smallest", height * width, lambda i: f"{width[i]} x {height[i]}"))
            kinds.append(("Largest", -height * width, lambda i: f"{width[i]} x {height[i]}"))
        found = [self.size_section()]
        for title, order, note in kinds:
            chosen = np.argsort(order, kind="stable")[:EXTREMES].tolist()
            text = f"{note(chosen[0])}: {self.names[chosen[0]]}"
            found.append(Section(title, text, self.tiles(chosen, note)))
        return found

    def size_section(self) -> Section:
        sizes = Counter(f"{width} x {height}" for height, width in self.sizes.tolist())
        ((usual, count),) = sizes.most_common(1)
        text = (
            f"{usual}, all of them"
            if len(sizes) == 1
            else f"{len(sizes):,} sizes, most often {usual} ({count:,})"
        )
        rows = [
            ["width x height", "images"],
            *([size, f"{n:,}"] for size, n in sizes.most_common(10)),
        ]
        return Section("Sizes", text, rows=rows if len(sizes) > 1 else ())


def counted(items: Sequence[object], name: str) -> str:
    return f"{len(items):,} {name}{'' if len(items) == 1 else 's'}"
