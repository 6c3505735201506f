"""What a command prints: it never ends a run, and no name in it acts on the terminal."""

import errno
import os
import re
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import TextIOWrapper
from pathlib import Path
from typing import Any, TextIO

from nanocnn.system.launch import is_follower

# Control characters but for a tab and the end of a line, line separators, what turns the direction
# of writing round, and surrogates, which stand for bytes that are no UTF-8.
UNSAFE = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


# how the lines begin that each of several processes may write; the first one alone writes others
SAID_BY_ALL = ("error:", "waiting for")


def printable(text: str) -> str:
    """`text` with an escape such as \\x1b for each character that would act on a terminal."""
    return UNSAFE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def one_line(text: str) -> str:
    """`text`, such as a name, printable and in one line."""
    return printable(text.replace("\n", "\\n"))


def escaped(text: str) -> str:
    """As `one_line`, but so that `text` can be had back: a backslash in it is doubled."""
    return one_line(text.replace("\\", "\\\\"))


def in_shell(path: str | Path) -> str:
    """`path` as one types it in a shell, in one line and not to be taken for an option."""
    text = str(path)
    text = f"./{text}" if text.startswith("-") else text
    if not any(UNSAFE.match(letter) or letter == "\n" for letter in text):
        return shlex.quote(text)
    # as bash and zsh read it, in octal bytes
    letters = (
        "".join(f"\\{byte:03o}" for byte in letter.encode(errors="surrogateescape"))
        if UNSAFE.match(letter) or letter in "\n\\'"
        else letter
        for letter in text
    )
    return f"$'{''.join(letters)}'"


class Output:
    """A stream of a process, with `printable` text, to which writing never fails.

    Whoever has read it may have gone, as head does, and the disk that a log is on may be full: that
    is not worth a run. What cannot be written is lost, and `failure` says why.
    """

    def __init__(self, stream: TextIO, has_bars: bool):
        """With `has_bars` it shows progress bars, each of which begins by returning to the left."""
        self.stream, self.has_bars = stream, has_bars
        self.failure: OSError | None = None

    def write(self, text: str) -> int:
        bar = "\r" if self.has_bars and text.startswith("\r") else ""
        if text.startswith(("warning:", "error:")):  # the names in it may hold ends of lines
            text = one_line(text)
        with self.tolerant():
            self.stream.write(bar + printable(text[len(bar) :]))
        return len(text)

    def flush(self) -> None:
        with self.tolerant():
            self.stream.flush()

    @contextmanager
    def tolerant(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.failure = error

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


class Errors(Output):
    """Standard error of a process whose output another one gives: errors alone, line by line."""

    def __init__(self, stream: TextIO):
        super().__init__(stream, has_bars=False)
        self.line = ""

    def write(self, text: str) -> int:
        *lines, self.line = (self.line + text).split("\n")
        for line in lines:
            if line.startswith(SAID_BY_ALL):
                super().write(line)
                super().write("\n")
        return len(text)


@contextmanager
def guarded_output() -> Iterator[None]:
    """Let standard output and standard error be an `Output` each, even where they are closed."""
    # A file that is opened while they are closed would be given their number, and take in whatever
    # a library prints: /dev/null takes the numbers first.
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    before = sys.stdout, sys.stderr
    with os.fdopen(number, "w") as nowhere:
        out, error = (stream or nowhere for stream in before)
        for stream in (out, error):
            if isinstance(stream, TextIOWrapper):
                # a log shows each line as it comes, and no name is one that it cannot show
                stream.reconfigure(line_buffering=True, errors="backslashreplace")
        guarded = Output(out, False), Output(error, has_bars=True)
        if is_follower():
            guarded = Output(nowhere, False), Errors(error)
        sys.stdout, sys.stderr = guarded
        try:
            yield
        finally:
            sys.stdout, sys.stderr = before
            for output in guarded:
                give_up_what_is_left(output)


def give_up_what_is_left(output: Output) -> None:
    """Let the end of the process not fail at what could not be written."""
    output.failure = None
    output.flush()
    if output.failure:
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), output.fileno())


def deliver(text: str) -> None:
    """Print what a command was asked for, and would be wrong without its end; see
    `check_delivered`.
    """
    print(text, end="")
    check_delivered()


def reader_has_gone() -> bool:
    """Whether nobody reads standard output any more, as where head has had enough."""
    failure = getattr(sys.stdout, "failure", None)
    return failure is not None and failure.errno == errno.EPIPE


def check_delivered() -> None:
    """Raises OSError where what was printed cannot be written, unless whoever reads it has gone."""
    sys.stdout.flush()
    failure = getattr(sys.stdout, "failure", None)
    if failure and failure.errno != errno.EPIPE:
        raise OSError(failure.errno, failure.strerror, "standard output")
