"""How a run ends when it does not end well: one line and an exit code, a traceback only for a bug."""

import argparse
import os
import signal
import sys
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from typing import NoReturn


class UserError(ValueError):
    """A mistake in the command line, the config, the data or a checkpoint (exit code 2).

    The message is one line that names the file, key or value and what is allowed.
    """


class NonFiniteError(ArithmeticError):
    """The loss became NaN or infinite (exit code 3)."""


class ArgumentParser(argparse.ArgumentParser):
    """argparse, with its mistakes reported like every other one."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} ('python {self.prog} --help' shows the usage)")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown `name`: the nearest known one, and all of them."""
    names = list(known)
    nearest = get_close_matches(name, names, n=1)
    suggestion = f"; did you mean {nearest[0]!r}?" if nearest else ""
    return f"{suggestion} (known: {', '.join(names)})"


def exit_code(main: Callable[[], None]) -> int:
    """Run `main` and return the exit code of the process: 0, 2, 3 or 130 (see README)."""
    try:
        main()
        sys.stdout.flush()
    except (UserError, NonFiniteError) as error:
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        return 2 if isinstance(error, UserError) else 3
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # whoever read the output has gone, as head does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    return 0
