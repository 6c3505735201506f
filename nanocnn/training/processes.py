"""The processes that train one run together, as torchrun starts them: the room of
torch.distributed.

Each works off its slices of a step (see images.sharing). Their gradients are added up before the
optimizer's step, which all of them then make alike.
"""

import ctypes
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from hashlib import sha256
from threading import Event, Thread
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from nanocnn.images.sharing import ALONE, Share
from nanocnn.system.errors import NonFiniteError, UserError, place_in_model_file
from nanocnn.system.launch import Launch
from nanocnn.system.signals import NAMES, Stopped, StopRequest

T = TypeVar("T")

TIMEOUT = 60.0  # seconds that an exchange between processes may take
BEAT = 1.0  # seconds between two signs of life of each
GLANCE = 0.02  # seconds between two looks at whether another one is ready
LONG = 60.0  # seconds of waiting until it is said
ENDING = 20.0  # seconds that the others wait for process 0 to end a run; torchrun kills after 30
PR_SET_PDEATHSIG = 1  # of prctl.h


class LostError(UserError):
    """Another process of the run has ended, or does not answer."""


class Processes:
    """This process alone: what several have to do with each other is nothing to it."""

    share: Share = ALONE
    hosts: Sequence[str] = ()

    def stop_request(self) -> StopRequest:
        """What remembers a signal until the run can stop."""
        return StopRequest()

    def agree(self) -> None:
        """Let a signal that came to one process be known to all, in the same place of the run."""

    def add_up(self, parameters: Iterable[nn.Parameter], *figures: Tensor) -> tuple[Tensor, ...]:
        """Sums of the `figures` (), and the gradients made sums, over all processes."""
        return figures

    def joined(self, records: list[T]) -> list[T]:
        """Those of every batch of a pass, in its order, given those of this process's batches."""
        return records

    def led(self, what: str, act: Callable[[], T]) -> T:
        """What `act` gives on process 0, which alone does it; the others wait for `what`."""
        return act()

    def told(self, value: T) -> T:
        """The `value` of process 0."""
        return value

    @contextmanager
    def in_turn(self, what: str) -> Iterator[None]:
        """First in one process of each machine, then in its others; `what` is waited for."""
        yield

    def check_same(self, facts: dict[str, str]) -> None:
        """Raises UserError where another process has others than process 0."""

    def copy_first(self, tensors: list[Tensor]) -> None:
        """Let `tensors` be those of process 0."""


class SharedStop(StopRequest):
    """A signal counts once all processes know of it, so that they stop after the same step."""

    agreed: int | None = None

    def check(self) -> None:
        if self.agreed is not None:
            raise Stopped(self.agreed)


class Group(Processes):
    """One of several processes; see `Processes` for what they do together.

    Whatever fails in one is known to all by the store in which they met: whoever waits for it, or
    loses it in an exchange, ends with the same exit code, and one line is said by one of them.
    """

    def __init__(self, launch: Launch):
        """Meet the others. Raises LostError where they do not all come."""
        self.launch, self.share = launch, Share(launch.rank, launch.size)
        self.rank, self.size = self.share
        self.request = SharedStop()
        self.turns = 0
        self.hosts, self.pids = ["?"] * self.size, [0] * self.size
        self.ended, self.beating = Event(), Thread(target=self.beat, daemon=True)
        limit = timedelta(seconds=TIMEOUT)
        backend = "gloo"
        if torch.cuda.is_available():
            backend = "cpu:gloo,cuda:nccl"
            torch.cuda.set_device(launch.local_rank % torch.cuda.device_count())
        try:
            kept, *_ = next(dist.rendezvous("env://", timeout=limit))
            self.store = dist.PrefixStore(meet(kept, self.rank, self.size), kept)
            dist.init_process_group(
                backend,
                store=dist.PrefixStore("group", self.store),
                rank=self.rank,
                world_size=self.size,
                timeout=limit,
            )
        except RuntimeError as error:
            raise LostError(
                f"process {self.rank} of {self.size} has not met the others within {TIMEOUT:g} "
                f"seconds: {first_line(error)}"
            ) from None
        self.beating.start()
        self.hosts = self.gathered(socket.gethostname())
        self.pids = self.gathered(os.getpid())

    # signs of life

    def beat(self) -> None:
        """Say in the store that this process lives: a process that was stopped does not."""
        while not self.ended.wait(BEAT):
            try:
                self.store.add(f"beat/{self.rank}", 1)
            except RuntimeError:  # the store has ended, which the next exchange will tell
                return

    def beats(self) -> list[int]:
        return [self.store.add(f"beat/{rank}", 0) for rank in range(self.size)]

    def name(self, rank: int) -> str:
        return f"process {rank} of {self.size} (pid {self.pids[rank]} on {self.hosts[rank]})"

    def failure(self) -> int | None:
        """The exit code of a process that has failed and told so."""
        return int(self.store.get("failure")) if self.store.check(["failure"]) else None

    def lost(self, error: RuntimeError) -> BaseException:
        """What to raise where an exchange with the others failed."""
        silent: list[int] = []
        try:
            before, end = self.beats(), time.monotonic() + 2.5 * BEAT
            while time.monotonic() < end and self.request.number is None:
                if (code := self.failure()) is not None:
                    return SystemExit(code)
                time.sleep(GLANCE)
            now = self.beats()
            silent = [
                rank for rank in range(self.size) if rank != self.rank and now[rank] == before[rank]
            ]
        except RuntimeError:  # the store has ended with whoever kept it
            return LostError(f"the store in which the processes met is gone; {GO_ON}")
        for rank in silent:
            self.wake(rank)
        if not silent:
            return LostError(f"an exchange has failed: {first_line(error)}; {GO_ON}")
        named = ", ".join(map(self.name, silent))
        return LostError(f"{named} has ended or does not answer; {GO_ON}")

    def wake(self, rank: int) -> None:
        """Let a process on this machine that was stopped go on, so that torchrun can end it."""
        if self.hosts[rank] == socket.gethostname() and hasattr(signal, "SIGCONT"):
            with suppress(OSError):
                os.kill(self.pids[rank], signal.SIGCONT)

    @contextmanager
    def exchanging(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            raise self.lost(error) from None

    def wait_for(self, key: str, what: str, rank: int) -> None:
        """Until process `rank` has set `key`, however long it takes while that one lives."""
        began = alive = looked = time.monotonic()
        said, beat = False, -1
        with self.exchanging():
            while not self.store.check([key]):
                if (code := self.failure()) is not None:
                    raise SystemExit(code)
                time.sleep(GLANCE)
                now = time.monotonic()
                if now - looked > BEAT:
                    looked, seen = now, self.store.add(f"beat/{rank}", 0)
                    alive, beat = (now, seen) if seen != beat else (alive, beat)
                # torchrun has stopped all after one of them: it waits for half a minute at most
                limit = TIMEOUT if self.request.number is None else 5 * BEAT
                if now - alive > limit:
                    self.wake(rank)
                    raise LostError(
                        f"{self.name(rank)} has given no sign of life for {limit:g} seconds "
                        f"({what}); {GO_ON}"
                    )
                if now - began > LONG and not said:
                    said = True
                    print(f"waiting for {self.name(rank)}: {what}", file=sys.stderr)

    # what they do together

    def stop_request(self) -> StopRequest:
        self.request = SharedStop()
        return self.request

    def flags(self) -> list[float]:
        """A 1 for the signal that this process was sent."""
        number = self.request.number
        sent = None if number is None else signal.Signals(number).name
        return [float(name == sent) for name in NAMES]

    def heed(self, counts: list[float]) -> None:
        """Take note of how many processes each signal came to."""
        sent = [name for name, count in zip(NAMES, counts, strict=True) if count]
        if sent:
            self.request.agreed = int(getattr(signal, sent[0]))

    def agree(self) -> None:
        counts = torch.tensor(self.flags())
        self.sum(counts)
        self.heed(counts.tolist())

    def sum(self, values: Tensor) -> None:
        """Make `values` their sum over all processes, in place."""
        with self.exchanging():
            dist.all_reduce(values)

    def add_up(self, parameters: Iterable[nn.Parameter], *figures: Tensor) -> tuple[Tensor, ...]:
        """All in one exchange, whose order of adding up is then the same in each step.

        DistributedDataParallel has its buckets in another order in its first step than in those
        after it: from three processes on a run that goes on would round otherwise than one that
        nothing disturbed. Signals that ask to stop come along. A parameter without a gradient in
        all processes stays without.
        """
        trained = [parameter for parameter in parameters if parameter.requires_grad]
        has = [parameter.grad is not None for parameter in trained]
        notes = [*self.flags(), *map(float, has)]
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in trained]
        sizes = [gradient.numel() for gradient in gradients]
        noted = torch.tensor(notes, device=figures[0].device)
        flat = torch.cat([each.flatten() for each in (*gradients, *figures, noted)])
        self.sum(flat)
        *gradients, sums, counts = flat.split([*sizes, len(figures), len(notes)])
        found = counts.tolist()
        self.heed(found[: len(NAMES)])
        for parameter, gradient, count in zip(trained, gradients, found[len(NAMES) :], strict=True):
            if parameter.grad is not None:
                parameter.grad.copy_(gradient.view_as(parameter))  # in its own layout of memory
            elif count:
                parameter.grad = gradient.view_as(parameter).clone()
        return tuple(sums.to(figures[0].dtype).unbind())

    def gathered(self, value: T) -> list[T]:
        """That of each process."""
        found: list[Any] = [None] * self.size
        with self.exchanging():
            dist.all_gather_object(found, value)
        return found

    def joined(self, records: list[T]) -> list[T]:
        of_each = self.gathered(records)
        rounds = range(max(map(len, of_each)))
        return [some[turn] for turn in rounds for some in of_each if turn < len(some)]

    def told(self, value: T) -> T:
        values = [value]
        with self.exchanging():
            dist.broadcast_object_list(values, device=torch.device("cpu"))
        return values[0]

    def led(self, what: str, act: Callable[[], T]) -> T:
        self.turns += 1
        key, value = f"led/{self.turns}", None
        if self.rank == 0:
            value = act()
            with self.exchanging():
                self.store.set(key, "")
        else:
            self.wait_for(key, what, 0)
        return self.told(value)  # type: ignore[return-value]

    @contextmanager
    def in_turn(self, what: str) -> Iterator[None]:
        self.turns += 1
        turn, local = f"turn/{self.turns}", self.launch.local_rank
        first = self.rank - local
        if local:
            self.wait_for(f"{turn}/{first}", what, first)
        yield
        with self.exchanging():
            self.store.set(f"{turn}/{self.rank}", "")
        for rank in range(self.size):
            self.wait_for(f"{turn}/{rank}", what, rank)

    def check_same(self, facts: dict[str, str]) -> None:
        of_each = self.gathered(facts)
        for rank, theirs in enumerate(of_each):
            for key, value in theirs.items():
                if value != of_each[0][key]:
                    raise UserError(
                        f"{self.name(rank)}: its {key} is another than that of process 0 on "
                        f"{self.hosts[0]} ({value}, not {of_each[0][key]}); all processes should "
                        "have the same"
                    )

    def copy_first(self, tensors: list[Tensor]) -> None:
        with self.exchanging():
            for tensor in tensors:
                whole = tensor.contiguous()
                dist.broadcast(whole, 0)
                tensor.copy_(whole)

    # how they end

    @contextmanager
    def telling(self) -> Iterator[None]:
        """Let the others know how this process ends, and one of them say why."""
        try:
            yield
        except SystemExit:
            raise
        except Stopped:
            self.end_together()
            raise
        except BaseException as error:
            if not self.is_first_to_fail(exit_code_of(error)):
                raise SystemExit(exit_code_of(error)) from None
            raise
        finally:
            self.ended.set()
            self.beating.join()
            with suppress(RuntimeError):  # whatever it still wants to say to the others
                self.store.set(f"ended/{self.rank}", "")
        dist.destroy_process_group()

    def is_first_to_fail(self, code: int) -> bool:
        """Note that this process fails. Where the store has ended too, each speaks for itself."""
        try:
            if self.store.add("failures", 1) > 1:
                return False
            self.store.set("failure", str(code))
        except RuntimeError:
            pass
        return True

    def end_together(self) -> None:
        """Let process 0 end the run before torchrun, which sees another end, ends it too."""
        if self.rank == 0:
            return
        end = time.monotonic() + ENDING
        with suppress(RuntimeError):
            while not self.store.check(["ended/0"]) and time.monotonic() < end:
                time.sleep(GLANCE)


def meet(store: dist.Store, rank: int, size: int) -> str:
    """A name for this meeting of `size` processes, by which their keys in `store` are told apart.

    torchrun may keep its store when it starts the processes anew: what earlier ones have left there
    is none of theirs. Raises LostError where not all have come within TIMEOUT.
    """
    mine, end = os.urandom(8).hex(), time.monotonic() + TIMEOUT
    store.set(f"come/{rank}", mine)
    come = [f"come/{each}" for each in range(size)]
    meeting: list[str] = []
    while time.monotonic() < end:
        if rank == 0 and store.check(come):
            store.set("meeting", ",".join(store.get(key).decode() for key in come))
        if store.check(["meeting"]):
            meeting = store.get("meeting").decode().split(",")
            name = sha256("".join(meeting).encode()).hexdigest()[:16]
            if meeting[rank : rank + 1] == [mine]:  # those of an earlier one do not have it
                store.set(f"{name}/{rank}", "")
                if store.check([f"{name}/{each}" for each in range(size)]):
                    return name
        time.sleep(GLANCE)
    missing = [each for each in range(size) if not store.check([f"come/{each}"])]
    raise LostError(
        f"not all of {size} processes have come within {TIMEOUT:g} seconds; missing: "
        f"{', '.join(map(str, missing)) or 'one that has come before'}"
    )


GO_ON = "nothing before its last checkpoint is lost: the command with --resume goes on"


def first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0].partition(". This is typically")[0]


def exit_code_of(error: BaseException) -> int:
    """That which `system.errors.exit_code` gives."""
    if isinstance(error, NonFiniteError):
        return 3
    is_theirs = isinstance(error, UserError | OSError | MemoryError) or place_in_model_file(error)
    return 2 if is_theirs else 1


joined: Processes | None = None


def current() -> Processes:
    """The processes that this one has joined; by default it is alone."""
    return joined or Processes()


@contextmanager
def together() -> Iterator[Processes]:
    """Join the processes that torchrun has started with this one, if there are any.

    A signal ends this process where torchrun, which else would, has been killed.
    """
    global joined
    launch = Launch.of_environment()
    if launch is None or launch.size == 1:
        yield Processes()
        return
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    group = Group(launch)
    joined = group
    try:
        with group.telling():
            yield group
    finally:
        joined = None
