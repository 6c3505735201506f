"""Look at what a trained network does: its filters, what excites them, and where it looks.

nanocnn look --ckpt runs/mine                      # a page and pictures in runs/mine/look
nanocnn look --ckpt runs/mine --layer features.4   # all filters of this layer
nanocnn look --ckpt runs/mine --images 50000       # search more training images for patches

The run itself is not changed.
"""

from __future__ import annotations

import os
import sys
from argparse import SUPPRESS, Namespace
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from nanocnn.commands.made import check_free, fill, folder_beside
from nanocnn.config.command_line import add_networks, script_parser
from nanocnn.system.errors import UserError
from nanocnn.system.output import in_shell
from nanocnn.system.startup import check_memory_limits, prepare_process

if TYPE_CHECKING:
    from nanocnn.evaluation.look_page import Found, Origin
    from nanocnn.evaluation.looking import Subject
    from nanocnn.evaluation.receptive import Fields
    from nanocnn.images.splits import Split
    from nanocnn.run.restore import Restored

PAGE = "look.html"


def main(arguments: Sequence[str]) -> None:
    args = parse(arguments)
    check_memory_limits()
    from nanocnn.run.restore import find_checkpoints

    path, *others = find_checkpoints(args.ckpt)
    folder = args.out or folder_beside(path, "look")
    check_free(folder, PAGE)
    if others:
        print(f"the first of {1 + len(others)} runs: {path}")
    prepare_process()
    found, origin = look(path, args)
    write(folder, found, origin)
    print(f"{folder / PAGE} shows it")


def parse(arguments: Sequence[str]) -> Namespace:
    """The command line. Raises UserError for a value that cannot be."""
    parser = script_parser("nanocnn look", __doc__)
    parser.add_argument(
        "--ckpt", type=Path, metavar="RUN", help="run folder or .pt file; default: the newest run"
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="a new or an empty folder, or one that this has made; default: look in the run folder",
    )
    parser.add_argument(
        "--layer",
        action="append",
        metavar="NAME",
        help="a convolution, as nanocnn layers names it; may be given several times; default: all, "
        "or six of many",
    )
    parser.add_argument(
        "--images",
        type=int,
        metavar="N",
        help="training images to search for patches; default: 5000, fewer for a large network",
    )
    parser.add_argument(
        "--data-root",
        type=os.path.expanduser,
        metavar="DIR",
        help="where the images are now, if they have moved",
    )
    parser.add_argument(
        "--device", choices=["auto", "cpu", "cuda", "mps"], help="default: as in training"
    )
    parser.add_argument("stray", nargs="*", help=SUPPRESS)  # to be told what to type instead
    add_networks(parser)
    args = parser.read(arguments)
    if args.images is not None and args.images < 1:
        raise UserError(f"--images {args.images}: should be at least 1")
    return args


def look(path: Path, args: Namespace) -> tuple[Found, Origin]:
    """What is to be seen of the checkpoint at `path`. Raises UserError where that cannot be."""
    from nanocnn.evaluation import looking
    from nanocnn.evaluation.gradcam import LOOK
    from nanocnn.evaluation.look_page import Found, Origin
    from nanocnn.networks.model_file import find_networks
    from nanocnn.run.restore import restore

    restored = restore(path, networks=find_networks(args.model))
    config, info = restored.config, restored.info
    subject, fields, shown = prepare(restored, args)
    count, known = len(subject.train.labels), looking.convolutions(subject.calls)
    searched, sights = looking.images_within(subject.calls, count)
    searched = min(count, args.images or searched)
    missing = [] if known else ["This network has no convolution: no patches and no Grad-CAM."]
    if known and find_spec("captum") is None:
        missing.append(f"No Grad-CAM, which needs the package captum: {LOOK}")
    sight = looking.sight(subject, sights, with_gradcam=not missing)
    files = shown.images.files
    found = Found(
        info.classes,
        [files.paths[place] if files else f"image {place}" for place in sight.places],
        shown.name,
        *looking.steps_of(subject, sight.places[0]),
        looking.first_filters(subject.calls, info.image_shape),
        looking.responses(subject, fields, looking.evenly(count, searched), bool(args.layer)),
        [call.name for call in known if call.name not in fields],
        searched,
        count,
        sight,
    )
    print(
        f"{len(fields)} of {len(known)} convolutions, patches of {searched:,} of {count:,} "
        f"training images; where it looks on {len(sight.images)} images of {shown.name}"
    )
    for line in missing:
        print(f"warning: {line}", file=sys.stderr)
    title = f"{config.name}: {config.model.name} on {info.dataset}"
    given = {"--data-root": args.data_root, "--images": args.images, "--model": args.model}
    options = [("--ckpt", path), *(("--layer", name) for name in args.layer or ()), *given.items()]
    words = [f"{option} {in_shell(value)}" for option, value in options if value is not None]
    command = " ".join(["nanocnn look", *words])
    return found, Origin(title, str(path), restored.checkpoint["epoch"], command, missing)


class Shown(NamedTuple):
    """A split that the network was not trained on."""

    name: str
    images: Split


def prepare(restored: Restored, args: Namespace) -> tuple[Subject, dict[str, Fields], Shown]:
    """The network and its images on the device, and the receptive fields of the layers to look
    at.
    """
    from nanocnn.evaluation.evaluate import AverageFlips
    from nanocnn.evaluation.looking import Subject, calls_of, choose
    from nanocnn.evaluation.receptive import receptive_fields
    from nanocnn.images.batches import Batches
    from nanocnn.networks.rewrite import fold_batch_norm
    from nanocnn.training.device import pick_computing

    info, shape = restored.info, restored.info.image_shape
    computing = pick_computing(restored.config, args.device, typed="--device ")
    folded = fold_batch_norm(restored.model, shape).model
    calls = calls_of(folded, shape)
    chosen = choose(calls, args.layer)
    train, shown = read_images(restored, args.data_root)
    fields = {call.name: receptive_fields(folded, call.layer, shape) for call in chosen}
    seen, unseen = (
        Batches(split, info, restored.config.train.batch_size, computing.device)
        for split in (train, shown.images)
    )
    temperature = (restored.checkpoint["validation"] or {}).get("temperature") or 1.0
    model, folded = computing.place(restored.model), computing.place(folded)
    judged = AverageFlips(model) if restored.config.data.average_flips else model
    return Subject(model, judged, folded, calls, seen, unseen, temperature), fields, shown


def read_images(restored: Restored, root: str | None) -> tuple[Split, Shown]:
    """The training images of a run, and its validation images, else those of the test split, or
    where there are neither the training images again.
    """
    from nanocnn.images.splits import has_test, load_split, load_train_and_val
    from nanocnn.run.folder import warn_of_other_images

    config, info, folder = restored.config, restored.info, restored.path.parent
    data = config.data.model_copy(update={"root": root} if root else {})
    if root is None:
        warn_of_other_images(folder, data)
    try:
        splits = load_train_and_val(data, config.seed, info)
        name = "val" if "val" in splits else "train"
        if name == "val" or not has_test(data, info):
            return splits["train"], Shown(name, splits[name])
        return splits["train"], Shown("test", load_split("test", data, config.seed, info, folder))
    except UserError as error:
        if root or Path(data.root).is_dir():
            raise
        raise UserError(f"{error}; if the images have moved, type --data-root DIR") from None


def write(folder: Path, found: Found, origin: Origin) -> None:
    """The page and the pictures, in the place of earlier ones. Raises OSError."""
    from nanocnn.evaluation.look_page import look_page, look_pictures

    page = look_page(found, origin).encode(errors="replace")
    fill(folder, {**dict(look_pictures(found)), PAGE: page}, stale="*.png")
