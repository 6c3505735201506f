"""How a run ends that does not end well: one line and an exit code."""

import errno
import linecache
import sys
import traceback
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from pathlib import Path

from nanocnn.system.output import guarded_output
from nanocnn.system.signals import Stopped

# the names under which train.py, and the verbs of nanocnn, import a model.py
MODEL_MODULES = ("model", "nanocnn_model_file")

REMEDIES = {
    errno.EMFILE: "; ulimit -n shows and raises how many may be open",
    errno.EFBIG: "; ulimit -f shows and raises how large a file may be",
    errno.EDQUOT: "; a quota is used up: remove something, or write elsewhere with --run-dir",
}


class UserError(ValueError):
    """A mistake in the command line, the config, the data or a checkpoint (exit code 2).

    The message is one line that names the file, key or value and what is allowed.
    """


class NonFiniteError(ArithmeticError):
    """The loss became NaN or infinite (exit code 3)."""


def did_you_mean(name: str, known: Iterable[str], before: str = "") -> str:
    """The end of a message about an unknown `name`: the nearest known one, with what stands
    `before` it, and all of them.
    """
    names = list(known)
    nearest = get_close_matches(name, names, n=1)
    suggestion = f"; did you mean {before + nearest[0]!r}?" if nearest else ""
    return f"{suggestion} (known: {', '.join(names)})"


def place_in_model_file(error: BaseException) -> str:
    """Where in a model.py `error` arose: its file, line and code; empty if it came from elsewhere.

    Of several places it is the innermost. A model.py has one of MODEL_MODULES as its name.
    """
    if isinstance(error, SyntaxError) and Path(error.filename or "").name == "model.py":
        return f"{error.filename}, line {error.lineno}: `{(error.text or '').strip()}`"
    found = ""
    for frame, line in traceback.walk_tb(error.__traceback__):
        name, path = frame.f_globals.get("__name__"), frame.f_code.co_filename
        if name in MODEL_MODULES or (name == "__main__" and Path(path).name == "model.py"):
            found = f"{path}, line {line}: `{linecache.getline(path, line).strip()}`"
    return found


def exit_code(main: Callable[[], None]) -> int:
    """Run `main` and return the exit code of the process: 0, 2, 3, or 128 + the signal.

    Whatever the operating system refuses (a full disk, a folder without permission) is one line
    too, for it names the file and the reason.
    """
    with guarded_output():
        try:
            main()
        except (UserError, NonFiniteError) as error:
            complain(error)
            return 3 if isinstance(error, NonFiniteError) else 2
        except Stopped as stop:
            print(f"stopped by {stop}", file=sys.stderr)
            return stop.code
        except OSError as error:
            complain(f"{error}{REMEDIES.get(error.errno or 0, '')}")
            return 2
        except (MemoryError, RuntimeError) as error:
            return report_limit(error)
        except Exception as error:  # noqa: BLE001  it is raised again if it is not the user's
            return report_mistake_in_model(error)
    return 0


def report_limit(error: MemoryError | RuntimeError) -> int:
    """Too little memory or too few threads are one line; a RuntimeError may be of anything else."""
    text = str(error)
    if "start new thread" in text:
        complain(f"{text}: a limit on threads is too low; ulimit -u may show and raise it")
    elif isinstance(error, MemoryError) or "allocate" in text:  # as torch says it
        complain(
            f"not enough memory{': ' * bool(text)}{text}; a smaller train.batch_size or "
            "data.image_size may help, or a higher ulimit -v where there is one"
        )
    else:
        return report_mistake_in_model(error)
    return 2


def report_mistake_in_model(error: Exception) -> int:
    """A mistake in the user's own network is theirs, and they need its place; others are bugs."""
    place = place_in_model_file(error)
    if not place:
        raise error
    complain(f"{place}: {type(error).__name__}: {getattr(error, 'msg', None) or error}")
    return 2


def complain(error: Exception | str) -> None:
    # in one line; blanks within it may be those of a file's name
    print("error:", " ".join(map(str.strip, str(error).splitlines())), file=sys.stderr)
