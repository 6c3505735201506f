"""Several processes for tests: children of this one that meet as torchrun's would."""

import os
import pickle
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist

import train as train_script
from nanocnn.system.errors import exit_code
from nanocnn.training.learner import Learner
from nanocnn.training.processes import current, together


class Child(NamedTuple):
    code: int  # of its exit; minus the signal that ended it
    value: Any  # what its part of the work gave, None where it did not end
    error: str  # what it wrote to standard error


class Several:
    """`act(processes)` in `size` children of this process; a fork saves their imports."""

    def __init__(self, size, act, **environment):
        self.folder = Path(tempfile.mkdtemp())
        # as torchrun keeps it
        self.store = dist.TCPStore("127.0.0.1", 0, None, True, wait_for_workers=False)
        self.pids = []
        for rank in range(size):
            numbers = {"RANK": rank, "LOCAL_RANK": rank}
            numbers |= {"WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size}
            place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(self.store.port)}
            place |= {"TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "0"}
            pid = os.fork()
            if pid == 0:
                code = 1
                try:
                    os.environ.update({key: str(value) for key, value in numbers.items()})
                    os.environ.update(place | environment)
                    os.environ.pop("OMP_NUM_THREADS", None)  # of which a 1 would be torchrun's
                    code = self.work(rank, act)
                except BaseException:
                    traceback.print_exc()
                    raise
                finally:
                    os._exit(code)
            self.pids.append(pid)

    def work(self, rank, act):
        torch.set_num_threads(1)  # a fork takes no other threads along
        for number, name in ((1, "out"), (2, "error")):
            file = os.open(self.folder / f"{name}{rank}", os.O_CREAT | os.O_WRONLY)
            os.dup2(file, number)
        signal.signal(signal.SIGINT, signal.SIG_DFL)

        def main():
            with together():
                value = act(current())
                (self.folder / f"value{rank}").write_bytes(pickle.dumps(value))

        sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1) for number in (1, 2))
        try:
            return exit_code(main)
        except SystemExit as end:
            return end.code

    def wait(self, seconds=60):
        """The children, once all have ended; any that has not is killed, and told by its code."""
        end, found = time.monotonic() + seconds, {}
        while len(found) < len(self.pids) and time.monotonic() < end:
            for rank, pid in enumerate(self.pids):
                if rank not in found and (done := os.waitpid(pid, os.WNOHANG))[0]:
                    found[rank] = os.waitstatus_to_exitcode(done[1])
            time.sleep(0.01)
        for rank, pid in enumerate(self.pids):
            if rank not in found:
                os.kill(pid, signal.SIGKILL)
                found[rank] = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        return [self.child(rank, found[rank]) for rank in range(len(self.pids))]

    def child(self, rank, code):
        path = self.folder / f"value{rank}"
        value = pickle.loads(path.read_bytes()) if path.exists() else None
        return Child(code, value, (self.folder / f"error{rank}").read_text())


def values(size, act, seconds=60):
    """What `act` gives in each of `size` processes, all of which end well."""
    children = Several(size, act).wait(seconds)
    assert [child.code for child in children] == [0] * size, [child.error for child in children]
    return [child.value for child in children]


def run(arguments, act, processes):
    """train.py with these `arguments`; `act(rank, step, lr)` before each step, from 1 on."""
    if act:
        step, made = Learner.step, []

        def acting(learner, *of_step):
            made.append(None)
            act(processes.rank, len(made), of_step[2])
            return step(learner, *of_step)

        Learner.step = acting
    train_script.start(train_script.parse([str(each) for each in arguments]))
