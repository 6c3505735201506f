"""Pictures that the memory cannot hold: other processes read them batch by batch, a few batches
ahead.
"""

import math
import multiprocessing
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from multiprocessing.util import Finalize
from queue import Empty, SimpleQueue
from threading import Thread
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from nanocnn.images.pictures import Pictures
from nanocnn.images.reader import serve
from nanocnn.system.errors import UserError
from nanocnn.system.signals import check_stop, held_back
from nanocnn.system.startup import cores

# bytes of the folder in a socket's path: of 108 some systems have 104, and "pymp-" and "listener-"
# with their random ends come after it
MOST_OF_A_SOCKET = 65
MOST_READERS = 8  # each costs memory; more would wait for the disk or for the network
AHEAD = 2  # batches that each of them may have read before they are due
LONG = 60.0  # seconds without an answer until it is said
GLANCE = 0.2  # seconds between two looks at whether the run is to stop


class StreamError(UserError):
    """Pictures can no longer be read as they were; what was read before is right."""


class Reader(NamedTuple):
    """A process that reads pictures, and the pipe to it.

    Nobody else holds the pipe's other end, so that its end is known as soon as the process has
    ended, however it has, and the process ends when this one does.
    """

    process: BaseProcess
    connection: Connection


class Stream:
    """The images of a split (N, C, H, W) uint8 as batches that are read when they are due.

    The processes live as long as this does. They only decode: what is done to a batch is done where
    a tensor in memory would have it done, so both give the same bits.
    """

    def __init__(self, pictures: Pictures):
        self.pictures = pictures
        self.shape = torch.Size((len(pictures.paths), *pictures.form.shape))
        self.readers: list[Reader] = []
        self.passes = 0

    def batches(self, chunks: Sequence[Tensor]) -> Iterator[Tensor]:
        """The images of each tensor of indices in `chunks`; one pass at a time, a new one ends the
        last.

        Raises StreamError where a file is no longer what it was, or a process was killed.
        """
        self.passes += 1
        this_pass = self.passes
        if not self.readers:
            self.readers = start_readers(self.pictures)
            # before multiprocessing waits, at its exit, for processes that wait for it
            Finalize(self, hang_up, [self.readers], exitpriority=1)
        ahead = AHEAD * len(self.readers)
        for number, chosen in enumerate(chunks[:ahead]):
            self.ask(number, chosen)
        for number, chosen in enumerate(chunks):
            images, reasons = self.answer(number, chosen)
            refuse_changed(self.pictures, reasons)
            if number + ahead < len(chunks):
                self.ask(number + ahead, chunks[number + ahead])
            yield torch.from_numpy(images)
            assert this_pass == self.passes, "another pass has begun"

    def ask(self, number: int, chosen: Tensor) -> None:
        """Let batch `number` of this pass be read; the readers take turns."""
        connection = self.readers[number % len(self.readers)].connection
        task = self.passes, chosen.cpu().numpy()
        self.patiently(lambda: connection.send(task), number, chosen)

    def answer(self, number: int, chosen: Tensor) -> tuple[np.ndarray, dict[int, str]]:
        """Batch `number` of this pass, and why pictures in it cannot be read."""
        connection = self.readers[number % len(self.readers)].connection
        while True:  # first may come what was left of a pass before
            of_pass, images, reasons = self.patiently(connection.recv, number, chosen)
            if of_pass == self.passes:
                return images, reasons

    def patiently(self, exchange: Callable[[], Any], number: int, chosen: Tensor) -> Any:
        """What `exchange` with the reader of batch `number` gives, however long it takes.

        A process that was stopped, or a disk that hangs, may hold it up in the middle of a message,
        where nothing ends the waiting: a thread waits, and this one says so and stays free to stop.
        Raises Stopped, or StreamError where the reader has ended.
        """
        reader = self.readers[number % len(self.readers)]
        results: SimpleQueue = SimpleQueue()
        Thread(target=put_result, args=(exchange, results), daemon=True).start()
        warn_at = time.monotonic() + LONG
        try:
            while True:
                try:
                    result, error = results.get(timeout=GLANCE)
                    break
                except Empty:
                    check_stop()
                if time.monotonic() > warn_at:
                    warn_at = math.inf
                    self.warn_of_silence(reader, chosen)
        except BaseException:
            hang_up(self.readers)  # else the thread would take what is the next one's
            raise
        if isinstance(error, OSError | EOFError):
            raise self.end_of(reader)
        if error:
            raise error
        return result

    def warn_of_silence(self, reader: Reader, chosen: Tensor) -> None:
        pid, first = reader.process.pid, self.pictures.paths[int(chosen[0])]
        print(
            f"warning: process {pid} has been reading {len(chosen):,} pictures, of which "
            f"{self.pictures.root / first} is the first, for {LONG:g} seconds and is waited for: "
            f"the disk may hang; if the process was stopped, kill -CONT {pid} lets it go on",
            file=sys.stderr,
        )

    def end_of(self, reader: Reader) -> StreamError:
        """What to say of a process that has ended unasked; the others end too."""
        count = len(self.readers)
        reader.process.join(1)  # before it is ended in case that it has not
        code = reader.process.exitcode
        hang_up(self.readers)
        how = f"was killed ({signal.Signals(-code).name})" if code and code < 0 else "has ended"
        return StreamError(
            f"a process that read pictures {how}, as happens where memory runs out: each of these "
            f"{count} holds {AHEAD} batches; free some memory, or begin anew with a smaller "
            "train.batch_size or data.image_size"
        )


def refuse_changed(pictures: Pictures, reasons: dict[int, str]) -> None:
    """Raises StreamError for a picture that cannot be read any more as it was."""
    for index, reason in reasons.items():
        path = pictures.root / pictures.paths[index]
        raise StreamError(
            f"{path}: is no longer what it was when the run began: {reason}; put it back as it was"
        )


def start_readers(pictures: Pictures) -> list[Reader]:
    """Children of a process that is clean: forking this one, with its threads and its GPU, may
    hang.
    """
    context: Any = multiprocessing.get_context(start_method())
    if context.get_start_method() == "forkserver":
        with held_back():  # first and alone, for it lets signals through again once it has started
            resource_tracker.ensure_running()
        # all that they need; the last is not found there where the package is not installed
        context.set_forkserver_preload(["numpy", "PIL.Image", "tqdm", "nanocnn.images.reader"])
    readers: list[Reader] = []
    for _ in range(min(cores(), MOST_READERS)):
        here, there = context.Pipe()
        process = context.Process(target=serve, args=(there, pictures), daemon=True)
        try:
            with no_main_script(), held_back():
                process.start()
        except (OSError, EOFError) as error:
            hang_up(readers)
            raise UserError(
                f"no process can be started to read pictures: {error}; a larger data.memory_limit "
                "reads them without"
            ) from None
        there.close()
        readers.append(Reader(process, here))
    return readers


def start_method() -> str:
    """forkserver where there is one, but for a TMPDIR that is too long for the name of a socket."""
    methods = multiprocessing.get_all_start_methods()
    fits = len(os.fsencode(tempfile.gettempdir())) <= MOST_OF_A_SOCKET
    return "forkserver" if "forkserver" in methods and fits else "spawn"


@contextmanager
def no_main_script() -> Iterator[None]:
    """Keep a process that starts from running the user's script up to its main, as it would.

    Readers need nothing of it, and it may import torch, which takes more than all else in them.
    """
    script = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = script


def put_result(exchange: Callable[[], Any], results: SimpleQueue) -> None:
    """Put what `exchange` gives into `results`, and what it raises."""
    try:
        results.put((exchange(), None))
    except BaseException as error:  # noqa: BLE001  it is raised where it is waited for
        results.put((None, error))


def hang_up(readers: list[Reader]) -> None:
    """End these processes, which `readers` then no longer has.

    They only read, so that they may end anywhere, and one that was stopped ends in no other way. A
    thread may still wait for a pipe, which closes when nobody has it any more.
    """
    while readers:
        process = readers.pop().process
        if process.is_alive():
            process.kill()
