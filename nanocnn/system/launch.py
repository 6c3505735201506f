"""What torchrun tells each process that it starts.

As signals.py this takes no time: it imports nothing but os.
"""

from __future__ import annotations

import os

NUMBERS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")


class Launch:
    """This process among those that torchrun has started together."""

    def __init__(self, numbers: list[int], run_id: str | None):
        self.rank, self.size = numbers[:2]
        self.local_rank, self.local_size = numbers[2:]  # among those of its machine
        self.run_id = run_id  # that torchrun was given, None without one

    @classmethod
    def of_environment(cls) -> Launch | None:
        """What the environment says; None where it is not torchrun's."""
        values = [os.environ.get(name, "") for name in NUMBERS]
        if not all(value.isdecimal() for value in values):
            return None
        run_id = os.environ.get("TORCHELASTIC_RUN_ID", "none")
        return cls([int(value) for value in values], None if run_id == "none" else run_id)


def is_follower() -> bool:
    """Whether this is one of several processes, and not the first, which speaks for all."""
    launch = Launch.of_environment()
    return launch is not None and launch.rank > 0
