"""Look at the images before training: a page of what is in them and what may be wrong.

nanocnn check-data my/pictures                     # with configs/photos.yaml
nanocnn check-data --config mnist.yaml             # the images of a config
nanocnn check-data my/pictures --labels            # and which labels may be wrong
nanocnn check-data my/pictures --out checked       # index.html and corrections.csv go there

Nothing is dropped or changed.
"""

from __future__ import annotations

import shlex
from argparse import Namespace
from collections.abc import Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from nanocnn.config.command_line import (
    add_config,
    add_folder,
    overrides_with_folder,
    script_parser,
)
from nanocnn.system.errors import UserError
from nanocnn.system.output import one_line
from nanocnn.system.startup import check_memory_limits, prepare_process

if TYPE_CHECKING:
    from torch import Tensor

    from nanocnn.config.load import Draft
    from nanocnn.config.schema import Config, Data
    from nanocnn.images.overview import Overview, Section
    from nanocnn.images.training_data import TrainingData
    from nanocnn.training.learner import Learner

NAMED = 3  # of what may be wrong, in the terminal


def main(arguments: Sequence[str]) -> None:
    args = parse(arguments)
    from nanocnn.config.load import read_draft

    overrides = overrides_with_folder(args)
    is_own = any(each.startswith("data.root=") for each in overrides)
    config = args.config or ("photos.yaml" if is_own else "digits.yaml")
    draft = read_draft(config, overrides)
    check_memory_limits()
    check(draft, args.labels, args.out)


def parse(arguments: Sequence[str]) -> Namespace:
    """The command line. Raises UserError for a folder that is not free."""
    parser = script_parser("nanocnn check-data", __doc__)
    add_folder(parser)
    add_config(parser)
    parser.set_defaults(config=None)  # of own pictures it is photos.yaml
    parser.add_argument(
        "--labels", action="store_true", help="rank the labels that may be wrong, by a network"
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="default: runs/<name>/check_data_<time>"
    )
    args = parser.read(arguments)
    if args.out and args.out.exists() and not (args.out.is_dir() and not any(args.out.iterdir())):
        raise UserError(f"--out {args.out}: should name a new or an empty folder")
    return args


def check(draft: Draft, labels: bool = False, out: Path | None = None) -> Path:
    """Write the page, and with `labels` the list of corrections, and say what is in it."""
    from nanocnn.images.leaks import keep_what_is_compared
    from nanocnn.images.overview import Overview
    from nanocnn.images.overview_page import overview_page
    from nanocnn.images.relabel import write_corrections
    from nanocnn.images.splits import load_test_beside
    from nanocnn.run.folder import remove_empty
    from nanocnn.system.files import replacing
    from nanocnn.system.signals import cleaned_up

    prepare_process()
    config, data, learner = read_images(draft, labels)
    splits = dict(data.splits)
    if test := load_test_beside(config.data, splits["train"], data.info):
        splits["test"] = test
    overview = Overview(Path(config.data.root), splits, data.info)
    sections = overview.sections()
    keep_what_is_compared(config.data, overview)
    rows: list[tuple[str, ...]] = []
    if learner:
        from nanocnn.experiments.suspects import correction_rows, rank, suspect_section

        features = learner.features(chain(data.train, data.val or ()))
        suspects = rank(features, groups_in(config.data, overview, len(features.labels)))
        sections.append(suspect_section(overview, suspects))
        rows = correction_rows(overview, suspects)
    title = config.data.root if overview.files else data.info.dataset
    page = overview_page(title, overview, seen_in_training(data), sections)
    folder, made = create_folder(config, out)
    with cleaned_up(partial(remove_empty, made)):
        with replacing(folder / "index.html") as file:
            file.write(page.encode())
        if learner:
            write_corrections(folder / "corrections.csv", rows)
    print_summary(sections)
    print(f"{folder / 'index.html'} shows it")
    if learner:
        name = shlex.quote(f"data.relabel={folder / 'corrections.csv'}")
        print(f"where a label is wrong, fill new_label in corrections.csv there and type {name}")
    return folder


def read_images(draft: Draft, labels: bool) -> tuple[Config, TrainingData, Learner | None]:
    """The training images as `draft` has them, those that can be read, prepared as the weights of
    its network ask for; with `labels` that network.

    No model.py is run. Raises UserError where there are `labels` and no weights.
    """
    from nanocnn.config.schema import OWN_IMAGES, Config
    from nanocnn.images.training_data import TrainingData

    config = Config.model_validate(draft.values)
    if not labels and config.model.name.partition(".")[0] not in ("timm", "torchvision"):
        config = readable_config(config, OWN_IMAGES)
        return config, TrainingData(config), None
    from nanocnn.networks.build import build_network, catalogue
    from nanocnn.networks.zoo import ZOO
    from nanocnn.run.origin import expected_preprocessing, first_weights
    from nanocnn.training.device import pick_computing
    from nanocnn.training.learner import Learner

    networks = catalogue(ZOO)
    config = readable_config(draft.check(networks), OWN_IMAGES)
    if not labels:
        prepared = {"data": config.data.prepared(expected_preprocessing(config))}
        config = config.model_copy(update=prepared)
        return config, TrainingData(config), None
    weights, preprocessing = first_weights(config, None)
    if weights is None:
        raise UserError(
            f"--labels: the network {config.model.name} begins with no weights, so it knows "
            "nothing of images; type --config photos.yaml, or model.weights=FILE"
        )
    computing = pick_computing(config)
    data = TrainingData(config, computing.device, preprocessing)
    config = config.model_copy(update={"data": config.data.prepared(preprocessing)})
    shape, classes = data.info.image_shape, len(data.info.classes)
    model = build_network(config, networks, shape, classes, weights=weights)
    return config, data, Learner(model, config, data.info, computing)


def groups_in(data: Data, overview: Overview, count: int) -> list[str] | None:
    """The groups of the first `count` images, those of train and val; None where none are told."""
    from nanocnn.images.listing import groups_of

    return groups_of(data, overview.names[:count]) if data.has_groups else None


def readable_config(config: Config, own: Sequence[str]) -> Config:
    """`config` for all images that can be read: what cannot, is told instead of refused."""
    options = {"overfit_batches": None, "accumulate": 1}
    train = config.train.model_copy(update=options)
    skips = {"skip_unreadable": config.data.dataset in own}
    data = config.data.model_copy(update=skips)
    return config.model_copy(update={"train": train, "data": data})


def seen_in_training(data: TrainingData) -> Tensor:
    """The first batch of the first epoch, (B, C, H, W) from 0 to 255."""
    _, images, _ = next(data.epoch(1))
    return (images * data.train.std + data.train.mean).clamp(0, 255).cpu()


def create_folder(config: Config, out: Path | None) -> tuple[Path, list[Path]]:
    """A new folder, or `out`, and the folders that had to be made for it."""
    from nanocnn.run.folder import create_dated_dir, missing_folders

    if out is None:
        return create_dated_dir(config, "check_data_")
    made = missing_folders(out)
    out.mkdir(parents=True, exist_ok=True)
    return out, made


def print_summary(sections: Sequence[Section]) -> None:
    """A line for each section, and the first of what may be wrong."""
    for section in sections:
        print(f"{'! ' if section.alarming else '  '}{section.title}: {one_line(section.text)}")
        if section.alarming:
            first = [" = ".join(tile.captions) for tile in section.tiles[:NAMED]]
            for line in [*section.lines, *first][:NAMED]:
                print(f"      {one_line(line)}")
