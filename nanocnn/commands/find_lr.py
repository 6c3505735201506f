"""Find a learning rate: train for some steps with one that grows each step, and draw the loss.

nanocnn find-lr --config mnist.yaml           # writes lr.png into runs/<name>/find_lr_<time>/
nanocnn find-lr --config mnist.yaml --from 1e-4 --to 1 --steps 200

Only training images are used.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

from nanocnn.config.command_line import add_config, add_networks, script_parser
from nanocnn.system.errors import UserError
from nanocnn.system.output import deliver
from nanocnn.system.signals import cleaned_up
from nanocnn.system.startup import check_memory_limits, prepare_process


def main(arguments: Sequence[str]) -> None:
    parser = script_parser("nanocnn find-lr", __doc__)
    add_config(parser)
    add_networks(parser)
    parser.add_argument(
        "--from", dest="low", type=float, default=1e-5, metavar="LR", help="default: 1e-5"
    )
    parser.add_argument(
        "--to", dest="high", type=float, default=10.0, metavar="LR", help="default: 10"
    )
    parser.add_argument("--steps", type=int, default=200, metavar="N", help="default: 200")
    args = parser.read(arguments)
    if not 0 < args.low < args.high < math.inf:
        raise UserError(f"--from {args.low:g} --to {args.high:g}: should be 0 < from < to")
    if args.steps < 20:
        raise UserError(f"--steps {args.steps}: should be at least 20")

    from nanocnn.config.load import read_draft

    draft = read_draft(args.config, args.overrides)
    check_memory_limits()
    from nanocnn.experiments.lr_range import draw, range_test, suggestion
    from nanocnn.networks.model_file import find_networks
    from nanocnn.run.folder import create_dated_dir, remove_empty
    from nanocnn.system.files import replacing

    networks = find_networks(args.model)
    config = draft.check(networks)
    prepare_process()
    lrs, losses = range_test(config, networks, args.low, args.high, args.steps)
    best = suggestion(lrs, losses)
    folder, made = create_dated_dir(config, "find_lr_")
    path = folder / "lr.png"
    with cleaned_up(partial(remove_empty, made)), replacing(path) as file:
        draw(file, lrs, losses, best)
    lowest = lrs[losses.index(min(losses))]
    deliver(
        f"the loss falls steepest at lr {best:.2g}, and is lowest at {lowest:.2g}\n"
        f"{path} shows it; one_cycle bears about that as its peak: optimizer.lr={best:.2g}\n"
    )
