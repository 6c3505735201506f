"""Write a trained network as one file that takes pictures and gives probabilities.

nanocnn export --ckpt runs/mine --onnx mine.onnx                   # for ONNX Runtime
nanocnn export --ckpt runs/mine --onnx small.onnx --quantize int8  # a quarter of the size
nanocnn export --ckpt runs/mine --torch mine.pt2                   # for torch.export.load

Each file is tried on images of the run, and gets a model card, FILE.md.
"""

from __future__ import annotations

import os
import sys
from argparse import SUPPRESS, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from nanocnn.config.command_line import add_networks, script_parser
from nanocnn.system.errors import UserError
from nanocnn.system.files import check_output
from nanocnn.system.startup import check_memory_limits, prepare_process

if TYPE_CHECKING:
    import numpy as np

    from nanocnn.deploy.agreement import Examples
    from nanocnn.deploy.quantize import Figures


class Written(NamedTuple):
    """A file that is to be written, with its card."""

    path: Path
    content: bytes
    card: str


def main(arguments: Sequence[str]) -> None:
    args = parse(arguments)
    check_memory_limits()
    from nanocnn.deploy.export import check_packages
    from nanocnn.run.restore import find_checkpoint
    from nanocnn.system.files import replacing

    if args.onnx:
        check_packages()
    path = find_checkpoint(args.ckpt)
    prepare_process()
    for written in export(path, args):
        with replacing(written.path) as file:
            file.write(written.content)
        with replacing(card_of(written.path)) as file:
            file.write(written.card.encode(errors="replace"))
        print(f"{written.path} ({len(written.content) / 1e6:.2f} MB), {card_of(written.path)}")


def parse(arguments: Sequence[str]) -> Namespace:
    """The command line. Raises UserError for a value that cannot be."""
    parser = script_parser("nanocnn export", __doc__)
    parser.add_argument(
        "--ckpt", type=Path, metavar="RUN", help="run folder or .pt file; default: the newest run"
    )
    parser.add_argument("--onnx", type=Path, metavar="FILE", help="write an ONNX file there")
    parser.add_argument(
        "--torch", type=Path, metavar="FILE", help="write a program of torch.export there"
    )
    parser.add_argument(
        "--quantize",
        choices=["int8"],
        help="of --onnx: the network in integers, calibrated on validation images",
    )
    parser.add_argument(
        "--data-root",
        type=os.path.expanduser,
        metavar="DIR",
        help="where the images are now, if they have moved",
    )
    parser.add_argument("stray", nargs="*", help=SUPPRESS)  # to be told what to type instead
    add_networks(parser)
    args = parser.read(arguments)
    named = {"--onnx": args.onnx, "--torch": args.torch}
    given = {option: path for option, path in named.items() if path}
    if not given:
        raise UserError("nanocnn export: nothing to write; type --onnx FILE or --torch FILE")
    if args.quantize and not args.onnx:
        raise UserError(f"--quantize {args.quantize}: cannot act without --onnx FILE")
    paths: list[Path] = []
    for option, path in given.items():
        for file in (path, card_of(path)):
            check_output(option, file)
            if file.absolute() in paths:
                raise UserError(f"{option} {path}: {file} would be written twice; name another")
            paths.append(file.absolute())
    return args


def card_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.md")


def export(checkpoint: Path, args: Namespace) -> list[Written]:
    """The files that `args` ask for, each of them tried.

    Raises UserError where one says something else than the checkpoint.
    """
    from nanocnn.deploy import agreement
    from nanocnn.deploy.export import (
        by_onnxruntime,
        by_torch,
        onnx_bytes,
        onnx_of,
        program_bytes,
        program_of,
    )
    from nanocnn.deploy.facts import facts_of
    from nanocnn.deploy.portable import portable
    from nanocnn.deploy.quantize import MOST_JUDGED
    from nanocnn.networks.model_file import find_networks
    from nanocnn.run.restore import restore

    restored = restore(checkpoint, networks=find_networks(args.model))
    model = portable(restored)
    facts = facts_of(restored, model)
    most = MOST_JUDGED if args.quantize else agreement.IMAGES
    examples = agreement.examples_of(restored, args.data_root, model.resizing.form, most)
    if args.quantize and examples.name != "val":
        raise UserError(
            f"--quantize {args.quantize}: needs validation images to calibrate on, and there are "
            "none"
        )
    wanted = agreement.expected(restored, examples)
    program = program_of(model)
    written = []
    if args.onnx:
        facts["format"] = "onnx"
        proto = onnx_of(program, 1 + facts["map"])
        content = onnx_bytes(proto, facts)
        told = [tried(args.onnx, by_onnxruntime(content), examples, wanted)]
        if args.quantize:
            facts["quantized"] = args.quantize
            content, more = in_integers(proto, content, facts, examples, wanted)
            told += more
        written.append(with_card(args.onnx, content, facts, told, checkpoint))
    if args.torch:
        facts |= {"format": "torch", "quantized": None}
        content = program_bytes(program, facts)
        told = [tried(args.torch, by_torch(content), examples, wanted)]
        written.append(with_card(args.torch, content, facts, told, checkpoint))
    return written


def tried(path: Path, judge: Any, examples: Examples, wanted: np.ndarray) -> str:
    """How far a file agrees with the checkpoint, printed."""
    from nanocnn.deploy.agreement import check, compare, judged_by

    agreement = compare(judged_by(judge, examples), wanted)
    check(str(path), agreement)
    said = f"against the checkpoint, {examples.name} images: {agreement}"
    print(f"{path.name}: {said}")
    return said


def in_integers(
    proto: Any, content: bytes, facts: dict[str, Any], examples: Examples, wanted: np.ndarray
) -> tuple[bytes, list[str]]:
    """The file in int8, and what was found of it, printed."""
    from nanocnn.deploy.agreement import compare, judged_by
    from nanocnn.deploy.export import by_onnxruntime
    from nanocnn.deploy.quantize import LOST

    small, before, after = in_few_bits(proto, content, facts, examples)
    agreement = compare(judged_by(by_onnxruntime(small), examples), wanted)
    equal = f"top-1 equal to the checkpoint's on {agreement.equal:,} of {agreement.images:,}"
    lines = [f"float32: {before}", f"int8: {after}; {equal} validation images"]
    for line in lines:
        print(line)
    if after.milliseconds > before.milliseconds:
        lines.append("int8 is slower here than float32")
        print(f"warning: {lines[-1]}", file=sys.stderr)
    if before.accuracy - after.accuracy > LOST:
        lines.append(
            f"int8 loses {100 * (before.accuracy - after.accuracy):.2f} points of accuracy"
        )
        print(f"warning: {lines[-1]}", file=sys.stderr)
    return small, lines


def in_few_bits(
    proto: Any, content: bytes, facts: dict[str, Any], examples: Examples
) -> tuple[bytes, Figures, Figures]:
    """A file in int8, the figures of that in float32 and its own; where 7 bits of a weight are too
    few it has 8.
    """
    from nanocnn.deploy.export import onnx_bytes
    from nanocnn.deploy.quantize import FEW_IMAGES, LOST, figures_of, quantized

    tries = []
    for full in (False, True):
        small = onnx_bytes(quantized(proto, examples, full), facts)
        before, after = figures_of([content, small], examples)
        tries.append((small, before, after))
        if before.accuracy - after.accuracy <= max(LOST, FEW_IMAGES / len(examples.labels)):
            break
    return max(tries, key=lambda each: each[2].accuracy)


def with_card(
    path: Path, content: bytes, facts: dict[str, Any], told: list[str], checkpoint: Path
) -> Written:
    from nanocnn.deploy.card import card
    from nanocnn.run.folder import read_facts

    folder = checkpoint.parent
    is_run = (folder / "config.yaml").is_file() and (folder / "run.json").is_file()
    remarks = read_facts(folder).get("remarks", []) if is_run else []
    return Written(path, content, card(path, facts, told, remarks))
