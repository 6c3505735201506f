"""How a process starts and ends: quick imports, threads and memory, and where its time goes."""

import atexit
import ctypes
import gc
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

from nanocnn.system.errors import UserError
from nanocnn.system.launch import Launch

# of malloc.h
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4


@contextmanager
def quick_imports() -> Iterator[None]:
    """Import without the garbage collector, and let it never look at what was imported.

    It would search the many objects that modules are made of again and again, and once more at the
    end of the process, and find nothing to free: together more than half a second.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def leave(code: int) -> NoReturn:
    """End the process with `code`, and leave what it is made of to the system.

    To take it apart takes Python a third of a second once torch is imported. What was asked to be
    done at the end is done. Python ends as it always does where other threads are at work, and
    where the script that calls this was itself called, as by a profiler or a debugger.
    """
    main = threading.main_thread()
    works = any(not each.daemon for each in threading.enumerate() if each is not main)
    if works or sys._getframe(1).f_back is not None:
        sys.exit(code)
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        if stream:
            with suppress(OSError, ValueError):  # nobody is left who could be told
                stream.flush()
    os._exit(code)


def prepare_process(cpu_max: Path = Path("/sys/fs/cgroup/cpu.max")) -> None:
    """No more threads than a container may use, and memory that stays with the process.

    torchrun gives each of several processes on a machine one thread, unless told otherwise by
    OMP_NUM_THREADS: here they share the processors.

    PyTorch counts the processors that the process may run on, but not how much of their time. glibc
    gives large blocks back to the system at once, so that each step has its maps cleared and mapped
    anew, page by page: a quarter of its time.
    """
    import torch

    launch = Launch.of_environment()
    if launch and launch.local_size > 1 and os.environ.get("OMP_NUM_THREADS") == "1":
        torch.set_num_threads(max(1, cores() // launch.local_size))
    if cpu_max.exists():
        quota, _, period = cpu_max.read_text().partition(" ")
        if quota != "max":
            torch.set_num_threads(max(1, min(torch.get_num_threads(), int(quota) // int(period))))
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def cores() -> int:
    """Processors that this process may run on."""
    has_affinity = hasattr(os, "sched_getaffinity")
    return len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1


# variables with the number of processes that were started together, and what sets them
SIZES = {
    "WORLD_SIZE": "torchrun",
    "SLURM_STEP_NUM_TASKS": "srun",
    "OMPI_COMM_WORLD_SIZE": "mpirun",
    "PMI_SIZE": "mpiexec",
    "MV2_COMM_WORLD_SIZE": "mpirun",
}
# what every command comes to, and some memory to work with
NEEDED = (
    "import sklearn.datasets, torch.utils.tensorboard as _, torch; torch.ones(1 << 20).sum(); "
    "bytearray(1 << 28)"
)


def check_memory_limits() -> None:
    """Raises UserError where `ulimit -v` or `ulimit -d` has no room for PyTorch.

    It would end this process from within C, in words that name no limit: another one tries first.
    """
    try:
        import resource
    except ImportError:  # not everywhere
        return
    kinds = {"-v": resource.RLIMIT_AS, "-d": resource.RLIMIT_DATA}
    limits = {option: resource.getrlimit(kind) for option, kind in kinds.items()}
    limits = {key: pair for key, pair in limits.items() if pair[0] != resource.RLIM_INFINITY}
    command = [sys.executable, "-c", NEEDED]
    if not limits or not subprocess.run(command, check=False, capture_output=True).returncode:
        return

    def written(size: int) -> str:
        return "unlimited" if size == resource.RLIM_INFINITY else str(size // 1024)

    found = " ".join(f"{option} {written(soft)}" for option, (soft, _) in limits.items())
    raising = [f"ulimit -S {key} {written(hard)}" for key, (_, hard) in limits.items()]
    # a shell may go as far as the hard limit, which may be too low as well
    raised = ["sh", "-c", f'{"; ".join(raising)}; exec "$@"', "sh", *command]
    if not subprocess.run(raised, check=False, capture_output=True).returncode:
        instead = f"type {'; '.join(raising)}"
    else:
        hard = " ".join(f"{option} {written(hard)}" for option, (_, hard) in limits.items())
        instead = (
            f"the hard limit, {hard}, is too low as well, and this shell cannot raise it: begin in "
            "a new shell, or ask the batch system or whoever set it for more"
        )
    raise UserError(f"ulimit {found}: too little memory for PyTorch to start; {instead}")


def several_processes() -> bool:
    """Whether this process is one of several that torchrun has started.

    Raises UserError for those that were started together otherwise, and know nothing of each other.
    SLURM_NTASKS does not tell: a batch script has it too, which is a single process.
    """
    if launch := Launch.of_environment():
        return launch.size > 1
    for name, launcher in SIZES.items():
        value = os.environ.get(name, "").strip()
        if value in ("", "1"):
            continue
        if not value.isdecimal() or int(value) == 0:
            raise UserError(f"{name} = {value!r}: should be 1 or not set; type unset {name}")
        raise UserError(
            f"{name} = {value}: each of the processes that {launcher} has started would train the "
            "same run; several are started with torchrun, one with python train.py (env -u "
            f"{name} before it where each is to train another)"
        )
    return False


def refuse_several_processes(command: str) -> None:
    """Raises UserError where torchrun has started several of a `command` that one process does."""
    launch = Launch.of_environment()
    if launch and launch.size > 1:
        raise UserError(
            f"{command}: one process does this, torchrun has started {launch.size}; only train.py "
            "shares its work among several"
        )


class Laps:
    """Seconds by phase: each call books the time since the last on the phase that it names."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.last = time.perf_counter()

    def __call__(self, phase: str) -> None:
        now = time.perf_counter()
        elapsed, self.last = now - self.last, now
        self.seconds[phase] = self.seconds.get(phase, 0.0) + elapsed

    def add(self, seconds: dict[str, float]) -> None:
        """Count also what an earlier process has spent on the same run."""
        for phase, spent in seconds.items():
            self.seconds[phase] = self.seconds.get(phase, 0.0) + spent
