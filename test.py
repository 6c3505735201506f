"""Judge a trained network, by default on the test split, which training never reads.

python test.py                                      # the newest run
python test.py --ckpt runs/mine                     # a run folder (its best.pt) or a .pt file
python test.py --ckpt runs/mine --split val --json result.json   # '-' is standard output
"""

from __future__ import annotations

if __name__ == "__main__":
    from nanocnn.system.signals import exit_on_signal

    exit_on_signal()  # the imports below take their time

import json
import math
import os
import sys
import time
from argparse import SUPPRESS, ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nanocnn.config.command_line import script_parser
from nanocnn.system.errors import UserError, exit_code
from nanocnn.system.files import check_output
from nanocnn.system.startup import (
    check_memory_limits,
    leave,
    prepare_process,
    refuse_several_processes,
)

if TYPE_CHECKING:
    import torch
    from torch import nn

    from nanocnn.config.schema import Config, Data
    from nanocnn.evaluation.page import Mistakes
    from nanocnn.images.batches import Batches
    from nanocnn.images.splits import DataInfo, Split


def judge(path: Path, args: Namespace) -> tuple[dict[str, Any], Callable[[], None]]:
    """The report on the checkpoint at `path`, all of test.json (see docs), and what writes the
    files beside it that `args` ask for.

    Options that are None stay as they were in training. Raises UserError where checkpoint and
    images do not fit.
    """
    # here and not above, so that --help answers at once
    from model import MODELS
    from nanocnn.evaluation.evaluate import evaluate
    from nanocnn.evaluation.tables import figures, write_predictions
    from nanocnn.images.batches import Batches
    from nanocnn.networks.build import catalogue
    from nanocnn.run.page import write_page
    from nanocnn.run.restore import faster, restore, temperature_of, trained_on
    from nanocnn.training.device import pick_computing
    from nanocnn.training.loss import build_loss

    # the network, and the images: only here, and only when asked, is the test split read
    model, config, info, checkpoint, _ = restore(path, networks=catalogue(MODELS))
    computing = pick_computing(config, args.device, typed="--device ")
    split = read_split(path.parent, config, info, args)
    batch_size = args.batch_size or config.train.batch_size
    batches = Batches(split, info, batch_size, computing.device)

    # what the same network, computed faster, makes of them
    model, folding = faster(computing.place(model), info, args.fold, config.data.average_flips)
    loss = build_loss(config.loss, info).to(computing.device)
    start = time.perf_counter()
    evaluation = evaluate(model, batches, loss, computing.precision)
    seconds = time.perf_counter() - start
    if not math.isfinite(evaluation.loss):
        raise UserError(f"{path}: its loss on these images is {evaluation.loss}: no result")
    # what is said of it
    names = split.files.paths if split.files else None
    temperature = temperature_of(checkpoint)
    report = {
        "dataset": info.dataset,
        "split": args.split,
        **figures(evaluation, info.classes, names, temperature),
        "checkpoint": str(path),
        "epoch": checkpoint["epoch"],
        "trained_on": trained_on(path.parent, split, info) if args.split != "train" else None,
        "unreadable": split.files.unreadable if split.files else [],
        "folding": {"layers": folding.layers, "exact": folding.exact},
        "evaluation_seconds": seconds,
        "average_flips": config.data.average_flips,
    }
    pictures = None
    if args.report and args.pictures:
        pictures = pictures_of(report["mistakes"], model, batches, computing.precision)

    def write() -> None:
        if args.predictions:
            write_predictions(args.predictions, evaluation, info.classes, names, temperature)
        if args.report:
            write_page(report_file(path, args.split, ".html"), path, config, report, pictures)

    return report, write


def pictures_of(
    mistakes: list[dict[str, Any]], model: nn.Module, batches: Batches, precision: torch.dtype
) -> Mistakes | None:
    """The pictures of these mistakes, and where `model` looked when it made them."""
    import torch

    from nanocnn.evaluation.occlusion import occlusion
    from nanocnn.evaluation.page import Mistakes

    if not mistakes:
        return None
    device = batches.labels.device
    chosen = torch.tensor([each["index"] for each in mistakes], device=device)
    images, _ = next(batches.read([chosen]))
    with torch.autocast(device.type, precision, enabled=precision != torch.float32):
        found = occlusion(model, batches.normalise(images))
    return Mistakes(images.cpu(), found)


def read_split(run_dir: Path, config: Config, info: DataInfo, args: Namespace) -> Split:
    """The images that `args` ask for, of a network trained in `run_dir` on data as `info` says."""
    from nanocnn.images.likeness import compare
    from nanocnn.images.report import warn_of_odd_pictures, warn_of_two_labels
    from nanocnn.images.splits import image_hashes, load_split
    from nanocnn.run.folder import warn_of_other_images

    data = asked_for(config.data, args)
    if not args.data_root:
        warn_of_other_images(run_dir, data)
    try:
        # what is told of the images is no part of a report that stands alone
        with redirect_stdout(sys.stderr if args.json == "-" else sys.stdout):
            split = load_split(args.split, data, config.seed, info, run_dir)
    except UserError as error:
        if args.data_root or Path(data.root).is_dir():
            raise
        raise UserError(f"{error}; if the images have moved, type --data-root DIR") from None
    if args.split != "train":
        compare(args.split, split, data, info)
    warn_of_odd_pictures({args.split: split})
    warn_of_two_labels({args.split: split}, {args.split: image_hashes(split)}, info.classes)
    return split


def asked_for(data: Data, args: Namespace) -> Data:
    """`data` as in training, but for what `args` say. Raises UserError for what cannot act."""
    from nanocnn.config.schema import OWN_IMAGES

    changes: dict[str, Any] = {"root": args.data_root} if args.data_root else {}
    if args.skip_unreadable:
        if data.dataset not in OWN_IMAGES:
            raise UserError(f"--skip-unreadable: cannot act on {data.dataset}, only on own images")
        changes["skip_unreadable"] = True
    return data.model_copy(update=changes)


def parse(arguments: Sequence[str]) -> Namespace:
    """The command line. Raises UserError for a value that cannot be."""
    parser = script_parser("test.py", __doc__)
    parser.add_argument(
        "--ckpt",
        nargs="?",
        type=Path,
        metavar="RUN",
        help="run folder, folder of several seeds, or .pt file; default: the newest run",
    )
    parser.add_argument(
        "--split", default="test", choices=["train", "val", "test"], help="default: test"
    )
    add_outputs(parser)
    parser.add_argument(
        "--data-root",
        type=os.path.expanduser,
        metavar="DIR",
        help="where the images are now, if they have moved",
    )
    parser.add_argument(
        "--skip-unreadable",
        action="store_true",
        help="leave out files in test/ that are no images; default: as in training",
    )
    parser.add_argument(
        "--device", choices=["auto", "cpu", "cuda", "mps"], help="default: as in training"
    )
    parser.add_argument("--batch-size", type=int, metavar="N", help="default: as in training")
    parser.add_argument(
        "--no-fold",
        dest="fold",
        action="store_false",
        help="leave batch normalisation as it is instead of folding it into the layers before it",
    )
    parser.add_argument("stray", nargs="*", help=SUPPRESS)  # to be told what to type instead
    args = parser.read(arguments)
    if args.batch_size is not None and args.batch_size < 1:
        raise UserError(f"--batch-size {args.batch_size}: should be at least 1")
    if args.skip_unreadable and args.split != "test":
        raise UserError(
            f"--skip-unreadable --split {args.split}: those are the images of the training, which "
            "data.skip_unreadable chose; allowed with --split test"
        )
    if not args.pictures and not args.report:
        raise UserError("--no-pictures: cannot act without --report")
    for option, name in (("--json", args.json), ("--predictions", args.predictions)):
        if name not in (None, "-"):
            check_output(option, Path(name))
    if args.predictions and args.json == str(args.predictions):
        raise UserError(f"--json {args.json}: is the file of --predictions too")
    return args


def add_outputs(parser: ArgumentParser) -> None:
    """What is written, besides the report in the run folder."""
    parser.add_argument(
        "--json", metavar="FILE", help="write the report there too; - prints it alone"
    )
    parser.add_argument(
        "--predictions",
        type=Path,
        metavar="FILE",
        help="write a CSV file there: label, prediction and probabilities of every image",
    )
    parser.add_argument(
        "--report",
        action="store_true",
        help="write a page beside the checkpoint: test.html, which says it with pictures",
    )
    parser.add_argument(
        "--no-pictures",
        dest="pictures",
        action="store_false",
        help="of --report: no image is shown there",
    )


def judge_all(
    paths: list[Path], args: Namespace
) -> tuple[list[dict[str, Any]], list[Callable[[], None]]]:
    """The reports on several checkpoints, each with what writes its files; `judge` of each."""
    from nanocnn.system.output import in_shell

    if len(paths) > 1 and args.predictions:
        raise UserError(
            f"--predictions {args.predictions}: cannot act on {len(paths)} runs at once; type "
            f"--ckpt {in_shell(paths[0].parent)} for one of them"
        )
    reports, writes = [], []
    for path in paths:
        report, write = judge(path, args)
        reports.append(report)
        writes.append(write)
        if report["trained_on"]:
            print(
                f"warning: {path}: trained on {report['trained_on']:,} of these {report['n']:,} "
                "images",
                file=sys.stderr,
            )
        if len(paths) > 1 and args.json != "-":
            print(
                f"{path}: {report['correct']:,} of {report['n']:,} correct, "
                f"{report['accuracy']:.2%}"
            )
    return reports, writes


def main(arguments: Sequence[str]) -> None:
    args = parse(arguments)
    refuse_several_processes("test.py")
    check_memory_limits()
    from nanocnn.evaluation.metrics import mean_of_seeds
    from nanocnn.evaluation.tables import print_report, print_unreadable
    from nanocnn.run.restore import find_checkpoints
    from nanocnn.system.files import output, write_json
    from nanocnn.system.output import check_delivered, deliver, one_line

    paths = find_checkpoints(args.ckpt)
    prepare_process()
    reports, writes = judge_all(paths, args)
    result, files = reports[0], [written_beside(path, args.split) for path in paths]
    if len(paths) > 1:
        seeds = mean_of_seeds([report["accuracy"] for report in reports])
        result = {key: reports[0][key] for key in ("dataset", "split", "n", "unreadable")} | {
            "accuracy": seeds.mean,
            "sd": seeds.sd,
            "ci95": seeds.ci95,
            "accuracies": [report["accuracy"] for report in reports],
            "checkpoints": [str(path) for path in paths],
        }
        reports.append(result)
        files.append(paths[0].parent.parent / f"{args.split}.json")
    try:
        if args.json not in (None, "-"):
            with output(Path(args.json)) as file:
                file.write(json.dumps(result, indent=2).encode())
        for beside, report in zip(files, reports, strict=True):
            if beside:
                write_json(beside, report)
        for write in writes:
            write()
    except OSError as error:
        raise UserError(f"cannot write a file of the report: {error}") from None
    finally:
        if args.json == "-":
            deliver(json.dumps(result, indent=2) + "\n")
        elif len(paths) > 1:
            print(f"{result['dataset']}, {args.split} split: accuracy {seeds}")
            print_unreadable(result)
        else:
            print_report(result)
        check_delivered()
    if args.report and args.json != "-":
        for path in paths:
            print(f"{one_line(str(report_file(path, args.split, '.html')))} shows it")
        check_delivered()


def written_beside(path: Path, split: str) -> Path | None:
    """The file of the report, which only a run folder is given."""
    return report_file(path, split) if (path.parent / "config.yaml").exists() else None


def report_file(path: Path, split: str, kind: str = ".json") -> Path:
    """Where the report on the checkpoint at `path` goes: beside it.

    That on best.pt is test.json, that on last.pt test_last.json, and so on.
    """
    return path.with_name(f"{split}{kind}" if path.stem == "best" else f"{split}_{path.stem}{kind}")


if __name__ == "__main__":
    leave(exit_code(lambda: main(sys.argv[1:])))
