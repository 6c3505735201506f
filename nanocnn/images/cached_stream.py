"""Pictures that the memory cannot hold, read batch by batch from the file that keeps them
decoded.
"""

import sys
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from nanocnn.images.pictures import Pictures
from nanocnn.images.pixels import PixelFile
from nanocnn.images.stream import refuse_changed

AHEAD = 4  # batches that the system is asked to read before they are due


class CachedStream:
    """The images of a split (N, C, H, W) uint8 as batches that are read when they are due.

    No process needs to help: the system reads ahead what it is told of.
    """

    def __init__(self, file: PixelFile, rows: np.ndarray, pictures: Pictures):
        """`rows` says where in `file` each of `pictures` is, which know their hashes."""
        self.file, self.rows, self.pictures = file, rows, pictures
        self.shape = torch.Size((len(rows), *file.shape))
        self.is_damaged = False

    def batches(self, chunks: Sequence[Tensor]) -> Iterator[Tensor]:
        """The images of each tensor of indices in `chunks`.

        Raises StreamError where one is damaged, and its file is no longer what it was either.
        """
        for chosen in chunks[:AHEAD]:
            self.file.prefetch(self.rows[chosen.cpu().numpy()])
        for number, chosen in enumerate(chunks):
            if number + AHEAD < len(chunks):
                self.file.prefetch(self.rows[chunks[number + AHEAD].cpu().numpy()])
            yield torch.from_numpy(self.read(chosen.cpu().numpy()))

    def read(self, indices: np.ndarray) -> np.ndarray:
        images = np.empty((len(indices), *self.file.shape), np.uint8)
        damaged = self.file.fill(images, self.rows[indices])
        if damaged:
            self.tell_damaged()
            images[damaged], reasons = self.pictures[indices[damaged]]
            refuse_changed(self.pictures, reasons)
        return images

    def tell_damaged(self) -> None:
        """Once. The file goes, so that the next run writes it anew."""
        if not self.is_damaged:
            self.is_damaged = True
            self.file.path.unlink(missing_ok=True)
            print(
                f"warning: {self.file.path}: damaged; its damaged images are decoded anew",
                file=sys.stderr,
            )
