"""Pictures that the memory cannot hold: worker processes read them batch by batch, a few batches
ahead.
"""

import multiprocessing
import os
import signal
import tempfile
import threading
from collections.abc import Iterator, Sequence
from multiprocessing import resource_tracker

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from nanocnn.images.pictures import Pictures, cores, quiet
from nanocnn.system.errors import UserError
from nanocnn.system.signals import NAMES, held_back

# bytes of the folder in a socket's path: of 108 some systems have 104, and "pymp-" and "listener-"
# with their random ends come after it
MOST_OF_A_SOCKET = 65
MOST_WORKERS = 8  # each costs memory; more would wait for the disk or for the network


class Stream:
    """The images of a split (N, C, H, W) uint8 as batches that are read when they are due.

    The workers live as long as this does. They only decode: what is done to a batch is done where a
    tensor in memory would have it done, so both give the same bits.
    """

    def __init__(self, pictures: Pictures):
        self.pictures = pictures
        self.shape = torch.Size((len(pictures.paths), *pictures.shape))
        # of indices; the loader takes them from here at the start of each pass
        self.chunks: list = []
        self.passes = 0
        # children of a process that is clean: forking this one, with its threads and its GPU, may
        # hang
        context = multiprocessing.get_context(start_method())
        if context.get_start_method() == "forkserver":
            context.set_forkserver_preload(["torch.utils.data", "PIL.Image"])
            with held_back():  # first and alone, for where it starts it lets signals through again
                resource_tracker.ensure_running()
        self.loader = DataLoader(
            pictures,
            batch_size=None,  # an item is a batch
            sampler=self.chunks,
            # arrays as they are: tensors would need shared memory, scarce in containers
            collate_fn=tuple,
            num_workers=min(cores(), MOST_WORKERS),
            prefetch_factor=2,
            persistent_workers=True,
            worker_init_fn=start_worker,
            multiprocessing_context=context,
            generator=torch.Generator(),  # or each pass would draw from the one that training uses
        )

    def batches(self, chunks: Sequence[Tensor]) -> Iterator[Tensor]:
        """The images of each tensor of indices in `chunks`; one pass at a time, a new one ends the
        last.

        Raises UserError where a file can no longer be read.
        """
        self.passes += 1
        this_pass = self.passes
        self.chunks[:] = [chosen.cpu().numpy() for chosen in chunks]
        with held_back():
            loaded = iter(self.loader)  # which starts the workers
        for images, reasons in loaded:
            for index, reason in reasons.items():
                path = self.pictures.root / self.pictures.paths[index]
                raise UserError(f"{path}: could be read when the run began, now: {reason}")
            yield torch.from_numpy(images)
            assert this_pass == self.passes, "another pass has begun"


def start_method() -> str:
    """forkserver where there is one, but for a TMPDIR that is too long for the name of a socket."""
    methods = multiprocessing.get_all_start_methods()
    fits = len(os.fsencode(tempfile.gettempdir())) <= MOST_OF_A_SOCKET
    return "forkserver" if "forkserver" in methods and fits else "spawn"


def start_worker(worker: int) -> None:
    """Leave signals that go to all processes at once to the main one, and end when it ends, however
    it does.
    """
    for name in NAMES:
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    threading.Thread(target=end_with_parent, daemon=True).start()
    quiet()


def end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
