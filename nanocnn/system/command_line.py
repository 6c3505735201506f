"""Reading a command line, with its mistakes reported like every other one."""

import argparse
from pathlib import Path
from typing import NoReturn

from nanocnn.system.errors import UserError


class ArgumentParser(argparse.ArgumentParser):
    """argparse that raises UserError instead of ending the process."""

    def error(self, message: str) -> NoReturn:
        command = self.prog if self.prog.startswith("nanocnn") else f"python {self.prog}"
        raise UserError(f"{message} ('{command} --help' shows the usage)")


def script_parser(command: str, doc: str | None) -> ArgumentParser:
    """A parser for a script whose docstring says what it does in a line, and then by examples."""
    summary, _, examples = (doc or "").strip().partition("\n\n")
    return ArgumentParser(
        command,
        description=summary,
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,  # --seed 3 is not --seeds 3
    )


def add_config(parser: ArgumentParser) -> None:
    """The arguments that say which config a command reads."""
    parser.add_argument(
        "--config", default="digits.yaml", metavar="FILE", help="default: digits.yaml"
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="change any key of the config"
    )


def add_networks(parser: ArgumentParser) -> None:
    """The argument that says whose networks a command has."""
    parser.add_argument(
        "--model",
        type=Path,
        metavar="FILE",
        help="whose MODELS to take; default: ./model.py beside a train.py, else this package's",
    )
