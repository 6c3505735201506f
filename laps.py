"""Where the time of a run goes."""

import time


class Laps:
    """Seconds by phase: each call books the time since the one before on the phase that it names."""

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
