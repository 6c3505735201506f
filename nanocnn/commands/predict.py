"""Say what is in pictures, by a trained network.

nanocnn predict --ckpt runs/mine photo.jpg more/          # files and folders
nanocnn predict --ckpt runs/mine more --csv answers.csv   # a table
nanocnn predict --ckpt runs/mine more --json | jq .label  # a JSON object a line
nanocnn predict --ckpt runs/mine large.png --map maps      # what is where in it
find . -name '*.png' | nanocnn predict --ckpt runs/mine -  # paths from standard input
"""

from __future__ import annotations

import csv
import io
import json
import sys
import warnings
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from nanocnn.config.command_line import add_networks, script_parser
from nanocnn.system.errors import UserError
from nanocnn.system.output import check_delivered, one_line, reader_has_gone
from nanocnn.system.startup import check_memory_limits, prepare_process

if TYPE_CHECKING:
    from nanocnn.deploy.classifier import Classifier, Prediction
    from nanocnn.images.finding import Finder

COLUMNS = ["file", "label", "probability", "top", "unlike", "inverted"]
NONE = "none of these"
NAMED = 3  # of the files passed over


def main(arguments: Sequence[str]) -> None:
    args = parse(arguments)
    check_memory_limits()
    from nanocnn.deploy.classifier import classifier_of
    from nanocnn.images.finding import Finder
    from nanocnn.images.pictures import quiet
    from nanocnn.networks.model_file import find_networks
    from nanocnn.run.restore import find_checkpoints, restore

    path, *others = find_checkpoints(args.ckpt)
    if not args.paths:
        raise UserError("no pictures: type their paths, a folder, or - for a list of paths")
    if others:
        print(f"the first of {1 + len(others)} runs: {path}", file=sys.stderr)
    prepare_process()
    restored = restore(path, networks=find_networks(args.model))
    found = Finder(args.paths, sys.stdin.buffer if "-" in args.paths else ())
    if args.map:
        from nanocnn.commands.predict_map import write_maps

        with warnings.catch_warnings():
            quiet()
            told = Told(*write_maps(restored, found, args))
        finish(told, found, args)
        return
    classifier = classifier_of(restored, args.device, typed="--device ")
    if not classifier.judges:
        print(
            f"warning: {path}: it keeps nothing by which pictures unlike its training images are "
            "told",
            file=sys.stderr,
        )
    with warnings.catch_warnings():
        quiet()
        told = predict(classifier, found, args)
    if args.csv and not args.json:
        print(f"{told.read:,} picture{'s' * (told.read != 1)}: {args.csv}")
    finish(told, found, args)


def finish(told: Told, found: Finder, args: Namespace) -> None:
    """Raises UserError where a picture could not be read, or there was none."""
    check_delivered()
    if found.passed_over:
        print(f"passed over: {names_of(found.passed_over)}", file=sys.stderr)
    if told.unreadable:
        raise UserError(
            f"{told.unreadable:,} of {told.read + told.unreadable:,} pictures cannot be read"
        )
    if not told.read:
        raise UserError(f"no pictures in {', '.join(args.paths)}")


def parse(arguments: Sequence[str]) -> Namespace:
    """The command line. Raises UserError for a value that cannot be."""
    parser = script_parser("nanocnn predict", __doc__)
    parser.add_argument(
        "--ckpt", type=Path, metavar="RUN", help="run folder or .pt file; default: the newest run"
    )
    parser.add_argument(
        "paths", nargs="*", metavar="PATH", help="a picture, a folder, or - for a list of paths"
    )
    parser.add_argument("--json", action="store_true", help="print a JSON object a line")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write a table there")
    parser.add_argument(
        "--map",
        type=Path,
        metavar="DIR",
        help="slide the network over large pictures: a picture and a JSON file of each there",
    )
    parser.add_argument(
        "--top", type=int, metavar="K", help="name the K likeliest classes; default: 3"
    )
    parser.add_argument(
        "--threshold",
        type=float,
        metavar="P",
        help=f"{NONE} where no class has this probability; default: 0",
    )
    parser.add_argument(
        "--invert",
        default="auto",
        choices=["auto", "never", "always"],
        help="whether light and dark are exchanged; auto: where the training images need it",
    )
    parser.add_argument(
        "--device", choices=["auto", "cpu", "cuda", "mps"], help="default: as in training"
    )
    parser.add_argument(
        "--batch-size", type=int, metavar="N", help="pictures at a time; default: by their size"
    )
    add_networks(parser)
    args = parser.read(arguments)
    check(args)
    return args


def check(args: Namespace) -> None:
    """Raises UserError for values that cannot be, and for files that cannot be written."""
    if args.map:
        for option in ("--top", "--threshold", "--device", "--batch-size"):
            if getattr(args, option[2:].replace("-", "_")) is not None:
                raise UserError(f"{option}: cannot act with --map")
    args.top = 3 if args.top is None else args.top
    args.threshold = args.threshold or 0.0
    if args.top < 1:
        raise UserError(f"--top {args.top}: should be at least 1")
    if not 0 <= args.threshold <= 1:
        raise UserError(f"--threshold {args.threshold}: should be a probability, from 0 to 1")
    if args.batch_size is not None and args.batch_size < 1:
        raise UserError(f"--batch-size {args.batch_size}: should be at least 1")
    if args.map:
        from nanocnn.commands.made import check_free
        from nanocnn.commands.predict_map import MARK

        if args.json or args.csv:
            raise UserError("--map: cannot be combined with --json or --csv; it writes its own")
        check_free(args.map, MARK, option="--map")
    if args.csv:
        from nanocnn.system.files import check_output

        if str(args.csv) == "-":
            raise UserError("--csv -: should name a file; type --csv /dev/stdout")
        check_output("--csv", args.csv)


class Told(NamedTuple):
    read: int
    unreadable: int


def predict(classifier: Classifier, found: Finder, args: Namespace) -> Told:
    """Say what the network makes of each picture, one after the other, and of each that cannot be
    read why. It ends where nobody reads what is said any more.
    """
    from tqdm import tqdm

    from nanocnn.images.new_pictures import Unreadable

    read = unreadable = 0
    prints = args.json or not args.csv
    has_bar = None if not (prints and sys.stdout.isatty()) else True  # lines are progress enough
    predictions = classifier.stream(
        found,
        top=args.top,
        threshold=args.threshold,
        invert=args.invert,
        batch_size=args.batch_size,
    )
    with (
        table(args.csv) as write,
        tqdm(unit="picture", disable=has_bar, leave=False) as bar,
        closing(predictions),
    ):
        for each in predictions:
            bar.update()
            if isinstance(each, Unreadable):
                unreadable += 1
                bar.clear()
                print(f"warning: {each.file}: {each.reason}", file=sys.stderr)
                continue
            read += 1
            write(each)
            if prints:
                print(as_json(each) if args.json else in_words(each))
                if reader_has_gone() and not args.csv:
                    break
                check_delivered()
    return Told(read, unreadable)


@contextmanager
def table(path: Path | None) -> Iterator[Callable[[Prediction], object]]:
    """What writes a row of the CSV file at `path`; without one nothing does. Raises OSError."""
    from nanocnn.system.files import output

    if path is None:
        yield lambda _: None
        return
    with output(path) as binary:
        file = io.TextIOWrapper(binary, "utf-8", "surrogateescape", newline="")
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(COLUMNS)
        yield lambda prediction: rows.writerow(in_cells(prediction))
        file.detach()


def as_json(prediction: Prediction) -> str:
    top = [[name, float(f"{chance:.6g}")] for name, chance in prediction.top]
    values = prediction._asdict() | {"top": top, "probability": top[0][1]}
    return json.dumps({key: values[key] for key in COLUMNS})


def in_cells(prediction: Prediction) -> list[str]:
    """A row; what is no plain text or number is there as in JSON."""
    values = json.loads(as_json(prediction))
    plain = [prediction.file or "", prediction.label or "", f"{prediction.probability:.6g}"]
    return plain + [json.dumps(values[key], ensure_ascii=False) for key in COLUMNS[3:]]


def in_words(prediction: Prediction) -> str:
    file, label, _, top, unlike, inverted = (getattr(prediction, key) for key in COLUMNS)
    said = [f"{name} {chance:.1%}" for name, chance in top]
    text = f"{one_line(file)}: {said.pop(0) if label is not None else NONE}"
    if said:
        text += f" ({', '.join(said)})"
    remarks = ["inverted"] if inverted else []
    if unlike:
        remarks.append(f"unlike the training images: {', '.join(unlike)}")
    return "; ".join([text, *remarks])


def names_of(paths: list[str]) -> str:
    more = f" and {len(paths) - NAMED:,} more" if len(paths) > NAMED else ""
    return f"{', '.join(paths[:NAMED])}{more}, which are not called as pictures are"
