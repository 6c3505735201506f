"""Being asked to stop: the signals of Ctrl-C, of schedulers and of a terminal that is closed."""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import contextmanager, suppress

from nanocnn.system.launch import is_follower

# A script takes the signals before anything else, and until then they end it as they like: this
# module imports only what takes no time, as typing does.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType
    from typing import Any

# SIGUSR1 and SIGUSR2 are what batch systems send some time before the end; not all are known
# everywhere; SIGXCPU is what ulimit -S -t sends, once a second until the hard limit
NAMES = ["SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU"]
# seconds in which the same wish may come twice: timeout, for one, sends it to the process and then
# to its group
ECHO = 0.5

REPEATED = [getattr(signal, "SIGXCPU", None)]  # whoever sends these does not wish it twice

clean_ups: list[Callable[[], object]] = []  # see `cleaned_up`


class Stopped(BaseException):
    """A signal asked the process to end. As KeyboardInterrupt it is no Exception."""

    def __init__(self, number: int, note: str = "", code: int | None = None):
        """`code` is the exit code of a process that this ends, by default 128 + `number`."""
        super().__init__("; ".join(filter(None, [signal.Signals(number).name, note])))
        self.number, self.code = number, 128 + number if code is None else code


def exit_on_signal() -> None:
    """Let signals that ask to stop end the process at once, from here on.

    For the first line of a script. Raising something instead would not do: it may come up in the
    middle of an import, in code that catches it or calls std::terminate.
    """
    take(exit_at_once)


def exit_at_once(number: int, frame: FrameType | None, note: str = "") -> None:
    """A handler that raises nothing, wherever it is called."""
    for clean_up in reversed(clean_ups):
        with suppress(Exception):
            clean_up()
    if not is_follower():
        with suppress(OSError):
            os.write(2, f"stopped by {Stopped(number, note)}\n".encode(errors="backslashreplace"))
    os._exit(128 + number)


@contextmanager
def cleaned_up(clean_up: Callable[[], object]) -> Iterator[None]:
    """Call `clean_up` where a signal ends the process at once; every other end is the caller's."""
    clean_ups.append(clean_up)
    try:
        yield
    finally:
        clean_ups.remove(clean_up)


@contextmanager
def held_back() -> Iterator[None]:
    """Let signals that ask to stop wait, and never reach processes that are started meanwhile.

    A terminal sends them to all: it is for this process to end its children in order. In one that
    starts they would come before it could ignore them.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    numbers = [getattr(signal, name) for name in NAMES]
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def handled(handler: Callable[[int, FrameType | None], Any]) -> Iterator[None]:
    """Let `handler` have the signals that ask to stop, but for those that are ignored."""
    before = take(handler)
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)


def take(handler: Callable[[int, FrameType | None], Any]) -> dict[int, Any]:
    """As `handled`, for good. Returns the handlers from before."""
    before = {}
    if threading.current_thread() is threading.main_thread():  # no other may set them
        for number in (getattr(signal, name) for name in NAMES if hasattr(signal, name)):
            if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup does
                before[number] = signal.signal(number, handler)
    return before


class StopRequest:
    """Remembers a signal until the run can stop; a second one ends the process, but for SIGXCPU.

    with handled(request := StopRequest()):
        for batch in batches:
            request.check()
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self.time = 0.0

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self.number is None:
            self.number, self.time = number, time.monotonic()
        elif time.monotonic() - self.time > ECHO and number not in REPEATED:
            exit_at_once(number, frame)

    def check(self) -> None:
        """Raises Stopped if a signal has come."""
        if self.number is not None:
            raise Stopped(self.number)


def check_stop() -> None:
    """Raises Stopped if a signal has come to the StopRequest in force; for who waits long for
    something else than a step.
    """
    for name in NAMES:
        handler = signal.getsignal(getattr(signal, name)) if hasattr(signal, name) else None
        if isinstance(handler, StopRequest):
            handler.check()
