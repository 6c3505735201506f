"""Small grey pictures, by which copies are told, and the file that keeps those of check-data.

`train.py` compares its pictures with those of the test by that file alone: it opens none of them.
"""

import io
import json
import os
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nanocnn.config.schema import Data
from nanocnn.config.strict_yaml import inline
from nanocnn.images.cache import NAME, THUMBNAILS, folder_of
from nanocnn.images.decode import Background, Form
from nanocnn.images.pictures import Pictures
from nanocnn.images.sets import resize
from nanocnn.system.errors import UserError
from nanocnn.system.files import read_file, replacing

SIDE = 32  # pixels
GREY = torch.tensor([0.299, 0.587, 0.114])  # of red, green and blue, as Pillow's "L"


def thumbnails_of_files(root: Path, paths: list[str], background: Background) -> np.ndarray:
    """(N, SIDE, SIDE) uint8: the pictures, whole, in grey, each stretched.

    Raises UserError for one that cannot be read.
    """
    contents = Pictures(root, paths, Form((1, SIDE, SIDE), "stretch", background)).read_all(True)
    if contents.reasons:
        index, why = next(iter(contents.reasons.items()))
        raise UserError(f"{root / paths[index]}: is no longer what it was: {why}")
    assert contents.images is not None
    return contents.images[:, 0]


def thumbnails_of_tensor(images: Tensor) -> np.ndarray:
    """The same of images (N, C, H, W) uint8."""
    parts = []
    for part in images.split(100):
        if part.shape[1] == 3:
            part = (part.float() * GREY.view(3, 1, 1)).sum(1, keepdim=True).round().byte()
        parts.append(resize(part, (SIDE, SIDE))[:, 0].numpy())
    return np.concatenate(parts)


def keep_thumbnails(
    data: Data, paths: list[str], thumbnails: np.ndarray, background: Background
) -> None:
    """Write them into the cache; where that cannot be, say so."""
    root, folder = Path(data.root), folder_of(data)
    if folder is None:
        return tell_not_kept(f"data.cache = {inline(data.cache)}")
    states = [state_of(root / path) for path in paths]
    about = json.dumps({"background": background, "files": [*zip(paths, states, strict=True)]})
    content = io.BytesIO()
    np.savez(content, about=np.frombuffer(about.encode(), np.uint8), thumbnails=thumbnails)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(folder / THUMBNAILS) as file:
            file.write(content.getbuffer())
    except OSError as error:
        tell_not_kept(f"{error.strerror}: {folder / THUMBNAILS}")


def tell_not_kept(why: str) -> None:
    print(
        f"warning: {why}; so train.py cannot compare its images with those of the test",
        file=sys.stderr,
    )


class KeptThumbnails:
    """Those that check-data has kept of the pictures of `data`, over this `background`."""

    def __init__(self, data: Data, background: Background):
        self.root, self.places = Path(data.root), dict[str, int]()
        folder = folder_of(data) or self.root / NAME  # a dry run writes none, and may read
        try:
            content = io.BytesIO(read_file(folder / THUMBNAILS))
            with np.load(content, allow_pickle=False) as file:
                about = json.loads(file["about"].tobytes())
                self.thumbnails = file["thumbnails"]
            self.states = [tuple(state) for _, state in about["files"]]
            fits = self.thumbnails.shape == (len(self.states), SIDE, SIDE)
            if fits and about["background"] == background:
                self.places = {path: i for i, (path, _) in enumerate(about["files"])}
        # none, or none that this version wrote: as if there were none
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile):
            self.places = {}

    def of(self, paths: Sequence[str]) -> np.ndarray | None:
        """The thumbnails of these files; None unless each was kept and is as it was then."""
        places = [self.places.get(path) for path in paths]
        found = [place for place in places if place is not None]
        if not paths or len(found) < len(places):
            return None
        pairs = zip(paths, found, strict=True)
        if any(state_of(self.root / path) != self.states[place] for path, place in pairs):
            return None
        return self.thumbnails[found]


def state_of(path: Path) -> tuple[int, int]:
    """Size and time of a file, which is not opened; zeros where it is gone."""
    try:
        found = os.stat(path)
    except OSError:
        return (0, 0)
    return (found.st_size, found.st_mtime_ns)
