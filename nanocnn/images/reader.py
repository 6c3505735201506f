"""What a process does that reads pictures for a stream.

Nothing here needs torch, which would take ten times the memory of all else in such a process.
"""

import os
import signal
from multiprocessing.connection import Connection
from queue import SimpleQueue
from threading import Thread

from nanocnn.images.pictures import Pictures, quiet
from nanocnn.system.signals import NAMES


def serve(connection: Connection, pictures: Pictures) -> None:
    """Send the pictures of each (number, indices) that comes, until the other end is closed.

    Signals that go to all processes at once are left to the main one. The process ends when that
    one does, however it does.
    """
    for name in NAMES:
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    quiet()
    tasks: SimpleQueue = SimpleQueue()
    Thread(target=receive, args=(connection, tasks), daemon=True).start()
    try:
        while True:
            number, chosen = tasks.get()
            connection.send((number, *pictures[chosen]))
    except (OSError, MemoryError):  # the main process has gone, or will say what to do
        os._exit(1)


def receive(connection: Connection, tasks: SimpleQueue) -> None:
    """Take what comes at once: were both ends to wait until they have sent, neither would go on."""
    try:
        while True:
            tasks.put(connection.recv())
    finally:
        os._exit(1)
