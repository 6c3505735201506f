"""What a run trains on and chooses by: its training and validation images, as batches."""

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from nanocnn.config.preprocessing import Preprocessing
from nanocnn.config.schema import OWN_IMAGES, Augment, Config, Train
from nanocnn.images.batches import Batches
from nanocnn.images.likeness import compare
from nanocnn.images.listing import layout
from nanocnn.images.sharing import ALONE, Share
from nanocnn.images.splits import (
    checksum,
    count_classes,
    data_info,
    few_images,
    image_hashes,
    load_splits,
)
from nanocnn.system.errors import UserError


class TrainingData:
    """The images of `config` on `device`, read once; those of the test split are never opened.

    `train` and `val` (None without validation images) are `Batches`; iterating over one gives each
    image once, as it is. `epoch` gives the training images in a random order and augmented. `info`
    is what a network must know of the data, `splits` the images themselves, `hashes` a hash of
    each, and `sha256` the checksum of all of them. `preprocessing` is what the network's weights
    expect, where it begins with some. Of several processes each has its `share` of the batches.
    Raises UserError where images are missing, cannot be read or are too few for what `config` asks.
    """

    def __init__(
        self,
        config: Config,
        device: torch.device | str = "cpu",
        preprocessing: Preprocessing | None = None,
        share: Share = ALONE,
    ):
        data = config.data.prepared(preprocessing)
        splits = load_splits(data, config.seed)
        self.info = data_info(data, splits["train"], preprocessing)
        if data.dataset in OWN_IMAGES and "val" in layout(data).places:  # not carved from train
            compare("val", splits["val"], data, self.info)
        refuse_idle(config.train, len(splits["train"].labels))
        batch_size = config.train.batch_size
        if config.train.overfit_batches:
            few = config.train.overfit_batches * batch_size
            splits = dict.fromkeys(("train", "val"), few_images(splits["train"], few, config.seed))
            labels = splits["train"].labels  # the loss counts those that are trained on
            self.info = replace(self.info, class_counts=count_classes(labels, self.info.classes))
        self.splits = splits
        self.hashes = {name: image_hashes(split) for name, split in splits.items()}
        self.sha256 = checksum(splits, self.hashes)

        device = torch.device(device)
        accumulate = config.train.accumulate
        step = batch_size * accumulate
        self.train = Batches(splits["train"], self.info, step, device, share, accumulate)
        self.val = None
        if "val" in splits:
            self.val = Batches(splits["val"], self.info, batch_size, device, share)
        self.steps_per_epoch = len(self.train)
        self._config = config

    def epoch(self, number: int, start: int = 0) -> Iterator[tuple[int, Tensor, Tensor]]:
        """The images of epoch `number` (from 1) as (step, images, labels): see Batches.shuffled.

        After data.augment.until they are as they are.

        Steps are counted from 0 over the whole run; the first `start` of the epoch are left out.
        Epoch 0, in which a head is fitted, has none.
        """
        if number == 0:
            return iter(())
        data = self._config.data
        is_augmented = number <= data.augment.last_of(self._config.train.epochs)
        augment = data.augment if is_augmented else Augment()
        return self.train.shuffled(self._config.seed, number - 1, augment, start, data.sampling)


def refuse_idle(options: Train, images: int) -> None:
    """Raises UserError for options of the loop that `images` training images are too few for."""
    overfit = options.overfit_batches
    if overfit and overfit * options.batch_size >= images:
        raise UserError(
            f"train.overfit_batches = {overfit}: cannot act, "
            f"since {images:,} images are no more batches"
        )
    few = min(images, (overfit or images) * options.batch_size)
    if options.accumulate > 1 and few <= options.batch_size:
        raise UserError(
            f"train.accumulate = {options.accumulate}: cannot act, since an epoch has a single "
            "batch"
        )
