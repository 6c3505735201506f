"""Export a trained network as one file that takes pictures and gives probabilities.

nanocnn export --ckpt runs/mine --onnx mine.onnx   # for onnxruntime, in any language
"""

from __future__ import annotations

import json
import os
from argparse import SUPPRESS, Namespace
from collections.abc import Sequence
from pathlib import Path

from nanocnn.config.command_line import add_networks, script_parser
from nanocnn.system.errors import UserError
from nanocnn.system.startup import check_memory_limits, prepare_process


def main(arguments: Sequence[str]) -> None:
    args = parse(arguments)
    check_memory_limits()
    prepare_process()
    from nanocnn.deploy.export import form_of, onnx_of, portable, program_of, temperature_of
    from nanocnn.networks.model_file import find_networks
    from nanocnn.run.restore import find_checkpoint, restore
    from nanocnn.system.files import replacing
    from nanocnn.system.version import __version__

    path = find_checkpoint(args.ckpt)
    restored = restore(path, networks=find_networks(args.model))
    form = form_of(restored)
    proto = onnx_of(program_of(portable(restored, form)), 1)
    facts = {
        "version": __version__,
        "name": restored.config.name,
        "dataset": restored.info.dataset,
        "classes": restored.info.classes,
        "image_shape": list(form.shape),
        "resize": form.resize,
        "background": form.background,
        "temperature": temperature_of(restored),
        "accuracy": None,
    }
    entry = proto.metadata_props.add()
    entry.key, entry.value = "nanocnn", json.dumps(facts)
    with replacing(args.onnx) as file:
        file.write(proto.SerializeToString())


def parse(arguments: Sequence[str]) -> Namespace:
    """The command line. Raises UserError for a value that cannot be."""
    parser = script_parser("nanocnn export", __doc__)
    parser.add_argument(
        "--ckpt", type=Path, metavar="RUN", help="run folder or .pt file; default: the newest run"
    )
    parser.add_argument("--onnx", type=Path, metavar="FILE", help="write an ONNX file there")
    parser.add_argument(
        "--data-root",
        type=os.path.expanduser,
        metavar="DIR",
        help="where the images are now, if they have moved",
    )
    parser.add_argument("stray", nargs="*", help=SUPPRESS)  # to be told what to type instead
    add_networks(parser)
    args = parser.read(arguments)
    if args.onnx is None:
        raise UserError("nanocnn export: nothing to write; type --onnx FILE")
    return args
