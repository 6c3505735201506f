"""Make a page that runs a trained network in the browser, on drawings and on pictures.

nanocnn page --ckpt runs/mine --out page               # a folder for any web server
nanocnn page --ckpt runs/mine --runtime FILE.tgz       # without npm and without a network

The page draws on onnxruntime-web, which npm fetches once. To look at it, type in its folder
python -m http.server and open http://localhost:8000.
"""

from __future__ import annotations

from argparse import SUPPRESS, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nanocnn.commands.made import check_free, fill, folder_beside
from nanocnn.config.command_line import add_networks, script_parser
from nanocnn.system.output import in_shell
from nanocnn.system.startup import check_memory_limits, prepare_process


def main(arguments: Sequence[str]) -> None:
    args = parse(arguments)
    check_memory_limits()
    from nanocnn.run.restore import find_checkpoints

    path, *others = find_checkpoints(args.ckpt)
    folder = args.out or folder_beside(path, "page")
    from nanocnn.deploy.export import check_packages
    from nanocnn.deploy.page import FACTS, page_files
    from nanocnn.deploy.runtime import runtime_files

    check_free(folder, FACTS)
    check_packages()
    if others:
        print(f"the first of {1 + len(others)} runs: {path}")
    runtime = runtime_files(args.runtime)
    prepare_process()
    files = page_files(*exported(path, args), runtime)
    fill(folder, files)
    size = sum(map(len, files.values()))
    print(
        f"{folder}: {len(files)} files, {size / 1e6:.1f} MB; to see the page, type\n"
        f"  python -m http.server --directory {in_shell(folder)}\n"
        "and open http://localhost:8000"
    )


def exported(path: Path, args: Namespace) -> tuple[bytes, dict[str, Any]]:
    """The network as an ONNX file, and what the page is told of it."""
    from nanocnn.deploy.export import onnx_bytes, onnx_of, program_of
    from nanocnn.deploy.facts import facts_of
    from nanocnn.deploy.page import told
    from nanocnn.deploy.portable import portable
    from nanocnn.networks.model_file import find_networks
    from nanocnn.run.restore import restore

    restored = restore(path, networks=find_networks(args.model))
    model = portable(restored)
    facts = facts_of(restored, model) | {"format": "onnx"}
    content = onnx_bytes(onnx_of(program_of(model), 1 + facts["map"]), facts)
    return content, told(restored, facts)


def parse(arguments: Sequence[str]) -> Namespace:
    parser = script_parser("nanocnn page", __doc__)
    parser.add_argument(
        "--ckpt", type=Path, metavar="RUN", help="run folder or .pt file; default: the newest run"
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="a new or an empty folder, or one that this has made; default: page in the run folder",
    )
    parser.add_argument(
        "--runtime",
        type=Path,
        metavar="PATH",
        help="onnxruntime-web as npm pack makes it, or a folder with its files; default: what an "
        "earlier page had, else by npm",
    )
    parser.add_argument("stray", nargs="*", help=SUPPRESS)  # to be told what to type instead
    add_networks(parser)
    return parser.read(arguments)
