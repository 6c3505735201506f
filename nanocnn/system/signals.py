"""Being asked to stop: the signals of Ctrl-C, of schedulers and of a terminal that is closed."""

import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, TypeVar

Item = TypeVar("Item")
NAMES = ["SIGINT", "SIGTERM", "SIGHUP"]  # the last is not known everywhere


class Stopped(BaseException):
    """A signal asked the process to end. As KeyboardInterrupt it is no Exception."""

    def __init__(self, number: int, note: str = "nothing was written"):
        super().__init__(f"{signal.Signals(number).name}; {note}")
        self.number = number


@contextmanager
def handled(handler: Callable[[int, FrameType | None], Any]) -> Iterator[None]:
    """Let `handler` have the signals that ask to stop, but for those that are ignored."""
    before = {}
    if threading.current_thread() is threading.main_thread():  # no other may set them
        for number in (getattr(signal, name) for name in NAMES if hasattr(signal, name)):
            if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup does
                before[number] = signal.signal(number, handler)
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)


def stop_at_once(number: int, frame: FrameType | None) -> None:
    raise Stopped(number)


class StopRequest:
    """Remembers a signal until the run can stop; a second one ends the process.

    with handled(request := StopRequest()):
        for batch in request.until(batches):  # or request.check() anywhere
            ...
    """

    def __init__(self) -> None:
        self.number: int | None = None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self.number is not None:
            os._exit(128 + number)
        self.number = number

    def check(self) -> None:
        """Raises Stopped if a signal has come."""
        if self.number is not None:
            raise Stopped(self.number)

    def until(self, items: Iterable[Item]) -> Iterator[Item]:
        """The items; raises Stopped before the next one once a signal has come."""
        for item in items:
            self.check()
            yield item
