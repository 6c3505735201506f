"""Train a network as a YAML config describes.

python train.py                                     # configs/digits.yaml: real digits, no download
python train.py --config mnist.yaml                 # a bare name is looked up in configs/
python train.py --config mnist.yaml optimizer.lr=0.05 train.epochs=3
python train.py --resume runs/mine                  # go on exactly where it stopped
python train.py --config mnist.yaml --print-config  # every key, default and comment; nothing runs
torchrun --nproc-per-node 2 train.py --config mnist.yaml  # one run, in several processes
tensorboard --logdir runs
"""

from __future__ import annotations

if __name__ == "__main__":
    from nanocnn.system.signals import exit_on_signal

    exit_on_signal()  # the imports below take their time

import sys
from argparse import Namespace
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from nanocnn.config.command_line import add_config, script_parser
from nanocnn.system.errors import UserError, exit_code
from nanocnn.system.output import deliver, in_shell
from nanocnn.system.startup import (
    Laps,
    check_memory_limits,
    leave,
    prepare_process,
    quick_imports,
    several_processes,
)

if TYPE_CHECKING:
    from nanocnn.config.schema import Config
    from nanocnn.run.resume import Place


def train(
    config: Config,
    place: Place | None = None,
    laps: Laps | None = None,
    most: int | None = None,
) -> Path:
    """Train as `config` says and return the run folder, which then holds everything (see docs).

    `place` is that folder, by default a new one; a run that stopped there goes on, to the very bits
    that it would have come to. Raises UserError before anything is written, NonFiniteError when the
    loss is no longer a number, and Stopped after a signal. With `most` an epoch has that many
    steps, and validates that many batches: a trial.
    """
    laps = laps or Laps()
    # here and not above, so that --help and a mistyped config answer at once
    from model import MODELS
    from nanocnn.images.training_data import TrainingData
    from nanocnn.networks.build import build_network, catalogue
    from nanocnn.networks.layers import fit_whitening
    from nanocnn.run.origin import first_weights
    from nanocnn.run.resume import as_begun
    from nanocnn.run.run import Run
    from nanocnn.training.device import pick_computing
    from nanocnn.training.learner import Learner
    from nanocnn.training.schedule import RateSchedule

    laps("import")
    # what is read: weights to begin with, the training images and, carved from them, validation
    checkpoint = place.checkpoint if place else None
    computing = pick_computing(as_begun(config, checkpoint))
    with computing.processes.in_turn("images and weights"):
        weights, prepared = first_weights(config, checkpoint)
        data = TrainingData(config, computing.device, prepared, computing.processes.share)
    laps("data")

    # what is built: the network, what makes it learn, and the learning rate of each step
    shape, classes = data.info.image_shape, len(data.info.classes)
    model = build_network(config, catalogue(MODELS), shape, classes, bool(checkpoint), weights)
    if not checkpoint:
        fit_whitening(model, data.train.sample)
    learner = Learner(model, config, data.info, computing)
    schedule = RateSchedule.of(config, data.steps_per_epoch)

    # what is written: config.yaml, run.json, metrics.jsonl, TensorBoard's curves, last.pt, best.pt
    run = Run(config, data, learner, place, laps)
    some = partial(run.until_stopped, most=most)
    with run.open():
        for epoch in run.epochs():
            fitted = None
            if epoch == 0:
                fitted = learner.fit_head(data.train, data.val, some)
                laps("head")
            for step, images, labels in some(data.epoch(epoch, run.done_in_epoch)):
                lr = schedule.lr_at(step, run.val_losses)
                result = learner.step(images, labels, lr)
                run.after_step(step, lr, result)
            validation = learner.judge(some(data.val)) if data.val else None
            run.after_epoch(validation, fitted)
    assert run.folder is not None
    return run.folder


def parse(arguments: Sequence[str]) -> Namespace:
    """The command line. Raises UserError for arguments that contradict each other."""
    parser = script_parser("train.py", __doc__)
    add_config(parser)
    parser.set_defaults(config=None)  # of a run that goes on, its own
    parser.add_argument("--run-dir", type=Path, metavar="DIR", help="default: runs/<name>/<time>")
    parser.add_argument(
        "--resume",
        metavar="RUN",
        help=(
            "the run folder to go on with; auto: the newest unfinished run of the config, or a "
            "new one"
        ),
    )
    parser.add_argument(
        "--seeds",
        type=int,
        metavar="N",
        help="train N times, from the seed on, and say what the mean is",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="one step of everything, and nothing kept"
    )
    parser.add_argument(
        "--print-config", action="store_true", help="print the whole config and stop"
    )
    args = parser.read(arguments)
    going_on = args.resume not in (None, "auto")
    if going_on and args.run_dir:
        raise UserError("--run-dir and --resume RUN: the run goes on in its own folder")
    if args.dry_run and (args.resume or args.seeds or args.run_dir):
        raise UserError("--dry-run: keeps nothing, so --resume, --seeds and --run-dir cannot act")
    if args.seeds is not None and args.seeds < 2:
        raise UserError(f"--seeds {args.seeds}: should be at least 2")
    if args.seeds and going_on:
        raise UserError("--seeds and --resume RUN: allowed is --resume auto with --run-dir")
    if args.seeds and args.resume and not args.run_dir:
        raise UserError("--seeds and --resume auto: --run-dir should name the folder of the runs")
    return args


def main(arguments: Sequence[str]) -> None:
    args = parse(arguments)
    if not several_processes():
        start(args)
        return
    from nanocnn.training.processes import together

    with together():
        start(args)


def start(args: Namespace) -> None:
    """Do what the command line asks for, in one of several processes or in the only one."""
    laps = Laps()
    going_on = args.resume not in (None, "auto")

    from nanocnn.config.load import config_of, find_config, read_draft
    from nanocnn.config.schema import to_yaml
    from nanocnn.images.ahead import read_ahead

    own = config_of(Path(args.resume)) if going_on else "digits.yaml"
    draft = read_draft(args.config or own, args.overrides)  # most mistakes end here, before torch
    check_memory_limits()
    read_ahead(draft.data)
    with quick_imports():
        from model import MODELS
        from nanocnn.networks.build import catalogue
        from nanocnn.run.folder import warn_of_other_images
        from nanocnn.run.resume import Asked
        from nanocnn.run.start import try_one_step
        from nanocnn.run.together import chosen_place

    networks = catalogue(MODELS)
    config = draft.check(networks)
    if args.config and not any(each.startswith("data.root=") for each in args.overrides):
        warn_of_other_images(find_config(args.config).parent, config.data)
    if args.print_config:
        deliver(to_yaml(config))
        return
    prepare_process()
    if args.dry_run:
        try_one_step(train, config, laps)
        return
    asked = Asked(args.run_dir, args.resume)
    if args.seeds:
        from nanocnn.run.seeds import train_seeds  # with statistics, which take a second

        folder = train_seeds(train, config, args.seeds, asked, networks)
    else:
        place, ended = chosen_place(asked, config, networks)
        if ended:
            print(f"{place.run_dir}: {ended}")
            return
        folder = train(config, place, laps)
    name = in_shell(folder)
    print(f"next: python test.py --ckpt {name}")
    print(f"      tensorboard --logdir {'runs' if folder.parts[0] == 'runs' else name}")


if __name__ == "__main__":
    leave(exit_code(lambda: main(sys.argv[1:])))
