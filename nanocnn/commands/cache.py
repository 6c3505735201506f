"""Show the decoded images that runs have kept, or remove them.

nanocnn cache my                # that of the images in my, which lies in my/.nanocnn-cache
nanocnn cache my --clear
nanocnn cache /fast/cache       # a folder that data.cache has named
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nanocnn.config.command_line import script_parser
from nanocnn.system.output import deliver


def main(arguments: Sequence[str]) -> None:
    parser = script_parser("nanocnn cache", __doc__)
    parser.add_argument(
        "folder",
        nargs="?",
        type=Path,
        default=Path(),
        metavar="FOLDER",
        help="a data.root, or a data.cache; default: this one",
    )
    parser.add_argument("--clear", action="store_true", help="remove them; default: show them")
    args = parser.read(arguments)
    folder = args.folder.expanduser()
    from nanocnn.images.cache import caches_in, clear, shown

    caches = caches_in(folder)
    if not caches:
        deliver(f"{folder}: no cache\n")
    for cache in caches:
        if args.clear:
            deliver(f"{cache}: {clear(cache) / 1e6:,.1f} MB removed\n")
        else:
            deliver("".join(f"{line}\n" for line in shown(cache)))
