"""From a folder of pictures to a judged classifier: check-data, train.py and test.py in turn.

nanocnn photos my/pictures                         # with configs/photos.yaml
nanocnn photos my/pictures data.image_size=128 train.epochs=3
nanocnn photos my/pictures --run-dir runs/pets

Each command is printed before it runs: they can be typed one by one as well.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from nanocnn.config.command_line import (
    add_config,
    add_folder,
    overrides_with_folder,
    script_parser,
)
from nanocnn.system.errors import UserError
from nanocnn.system.signals import handled

if TYPE_CHECKING:
    from types import FrameType

    from nanocnn.config.schema import Config


def main(arguments: Sequence[str]) -> None:
    parser = script_parser("nanocnn photos", __doc__)
    add_folder(parser)
    add_config(parser, default="photos.yaml")
    parser.add_argument("--run-dir", type=Path, metavar="DIR", help="default: runs/<name>/<time>")
    args = parser.read(arguments)

    from nanocnn.config.load import read_draft
    from nanocnn.config.schema import Config

    overrides = overrides_with_folder(args)
    draft = read_draft(args.config, overrides)
    train, test = (clone() / name for name in ("train.py", "test.py"))
    from nanocnn.run.folder import create_dated_dir, remove_empty

    config = Config.model_validate(draft.values)
    if not Path(config.data.root).exists():
        raise UserError(f"{config.data.root}: no such folder; type nanocnn photos FOLDER")
    print_choices(config)
    from nanocnn.run.origin import first_weights

    first_weights(config, None)  # fetched now, or known to be missing before all pictures are read
    folder, made = (args.run_dir, []) if args.run_dir else create_dated_dir(config)
    options = ["--config", args.config, *overrides]
    try:
        run("-m", "nanocnn", "check-data", *options)
        run(str(train), *options, "--run-dir", str(folder))
        run(str(test), "--ckpt", str(folder), "--report")
    finally:
        remove_empty(made)  # where nothing was trained


def clone() -> Path:
    """The folder of train.py. Raises UserError where the package is installed without one."""
    from nanocnn.networks.model_file import find_model_file

    folder = find_model_file().parent
    if not (folder / "train.py").is_file():
        raise UserError(
            "nanocnn photos: train.py is a file of a clone, and this package is installed alone; "
            "run it in the folder of a clone"
        )
    return folder


def print_choices(config: Config) -> None:
    """What is chosen for the user, each with the key that changes it."""
    weights = getattr(config.model, "weights", None)
    if not weights and getattr(config.model, "pretrained", False):
        weights = "its published weights"
    print(f"network: {config.model.name}, from {weights or 'no weights'} (model)")
    print(
        f"images: {config.data.image_size} pixels, {config.data.resize} (data.image_size, .resize)"
    )
    head = "the last layer is fitted" if config.train.fit_head else "no head is fitted"
    epochs = config.train.epochs
    rest = f"then all layers trained for {epochs} epochs" if epochs else "no other is trained"
    print(f"training: {head}, {rest} (train.epochs)")


def run(*words: str) -> None:
    """Run a command of this Python, which signals that ask to stop are passed on to.

    Raises SystemExit with its exit code where that is not 0.
    """
    print(f"\n$ python {shlex.join(words)}", flush=True)
    with subprocess.Popen([sys.executable, *words]) as process, handled(partial(pass_on, process)):
        code = process.wait()
    if code:
        raise SystemExit(code if code > 0 else 128 - code)


def pass_on(process: subprocess.Popen[bytes], number: int, frame: FrameType | None) -> None:
    """A handler of signals; a terminal sends them to both, which counts as once."""
    process.send_signal(number)
