"""Reading a command line, with its mistakes reported like every other one."""

import argparse
import json
import re
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from nanocnn.system.errors import UserError
from nanocnn.system.output import deliver

if TYPE_CHECKING:
    from nanocnn.config.hints import Given


class ArgumentParser(argparse.ArgumentParser):
    """argparse that raises UserError instead of ending the process, and says what to type."""

    @property
    def usage_hint(self) -> str:
        command = self.prog if self.prog.startswith("nanocnn") else f"python {self.prog}"
        return f"('{command} --help' shows the usage)"

    @property
    def options(self) -> list[str]:
        return [option for action in self._actions for option in action.option_strings]

    def print_help(self, file: object = None) -> None:
        deliver(self.format_help())

    def error(self, message: str) -> NoReturn:
        if found := re.fullmatch("argument (--[a-z-]+): expected one argument", message):
            from nanocnn.config.hints import with_value

            message += f"; type {with_value(found[1], None)}"
        raise UserError(f"{message} {self.usage_hint}")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """argparse's own, whose message has no word of what may be meant."""
        if action.choices is not None and value not in action.choices:
            from nanocnn.config.hints import with_value

            option = action.option_strings[0]
            meant = with_value(option, value)
            allowed = ", ".join(map(str, action.choices))
            instead = f"; type {meant}" if meant.split()[-1] in action.choices else ""
            self.error(f"{option} {value}: should be one of {allowed}{instead}")

    def read(self, arguments: Sequence[str]) -> argparse.Namespace:
        """The command line. Raises UserError for what is no option and no key=value of it."""
        for index, word in enumerate(arguments):
            if word == "" or (word.startswith("--") and word.endswith("=")):
                option = word or "".join(arguments[index - 1 : index]) or "an argument"
                self.error(f"{option} is given an empty value, as by a variable that is not set")
        args, unknown = self.parse_known_intermixed_args(arguments)
        options = [word for word in unknown if word.startswith("-")]
        if unknown:
            self.refuse_option((options or unknown)[0], list(arguments), args)
        for index, word in enumerate(getattr(args, "overrides", [])):
            if "=" not in word:
                self.refuse_argument(args, index)
        for word in getattr(args, "stray", []):
            self.refuse_stray(word)
        return args

    def refuse_option(
        self, written: str, arguments: list[str], args: argparse.Namespace
    ) -> NoReturn:
        # here and not above, so that --help answers at once
        from nanocnn.config.hints import instead_of_option
        from nanocnn.config.spelling import meant_keys, reason_without

        option, equals, text = written.partition("=")
        after = arguments[arguments.index(written) + 1 :]
        following = takewhile(lambda word: not word.startswith("--") and "=" not in word, after)
        given = self.given(args)
        instead = instead_of_option(option, [text] if equals else list(following), given)
        message = f"{option}: no such option of {self.prog}"
        if given.names is None and meant_keys(option) and not instead.startswith("--device"):
            message += "; the config is that of the checkpoint"
        if why := reason_without(option):
            raise UserError(f"{message}: {why}")
        self.error(f"{message}; type {instead}" if instead else message)

    def given(self, args: argparse.Namespace) -> "Given":
        """What the parser takes, and the config that `args` are about."""
        from nanocnn.config.hints import Given, section_names

        if not hasattr(args, "overrides"):
            return Given(self.options, None)
        overrides = [word for word in args.overrides if "=" in word]
        return Given(self.options, section_names(args.config, overrides))

    def refuse_argument(self, args: argparse.Namespace, index: int) -> NoReturn:
        from nanocnn.config.hints import instead_of_argument

        word = args.overrides[index]
        message = f"{word!r}: a key of the config is written key=value"
        instead = instead_of_argument(args.overrides, index, self.given(args))
        if instead.startswith("--"):
            message = f"{word!r}: no key=value"
        raise UserError(f"{message}; type {instead or 'one, such as train.epochs=3'}")

    def refuse_stray(self, word: str) -> NoReturn:
        from nanocnn.config.hints import instead_of_stray

        splits = next((action.choices for action in self._actions if action.dest == "split"), None)
        instead = instead_of_stray(word, self.options, list(splits or ()))
        what = "; the config is that of the checkpoint" if "=" in word else ""
        message = f"{word!r}: {self.prog} takes options alone{what}"
        self.error(f"{message}; type {instead}" if instead else message)


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


def add_config(parser: ArgumentParser, default: str = "digits.yaml") -> None:
    """The arguments that say which config a command reads."""
    parser.add_argument("--config", default=default, metavar="FILE", help=f"default: {default}")
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


def add_folder(parser: ArgumentParser) -> None:
    """The argument that says where own pictures are; it stands before those of `add_config`."""
    parser.add_argument("folder", nargs="?", metavar="FOLDER", help="the pictures: data.root")


def overrides_with_folder(args: argparse.Namespace) -> list[str]:
    """The overrides, with the folder, if one is given, as data.root.

    Raises UserError where both say where the pictures are.
    """
    overrides = list(args.overrides)
    if args.folder and "=" in args.folder and not Path(args.folder).exists():
        return [args.folder, *overrides]
    roots = [each for each in overrides if each.startswith("data.root=")]
    if args.folder and roots:
        raise UserError(f"{args.folder} and {roots[0]}: both say where the pictures are")
    return [f"data.root={json.dumps(args.folder)}", *overrides] if args.folder else overrides
