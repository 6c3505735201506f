"""What the benchmarks share: medians of times, the machine, tables, and results as JSON."""

import json
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from nanocnn.run.start import git

RESULTS = Path(__file__).parent / "results"


def median_seconds(work: Callable[[], object], repeats: int = 15) -> float:
    """Of `repeats` calls, after three to warm up."""
    for _ in range(3):
        work()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def sgemm_rate(size: int = 2048) -> float:
    """GFLOP/s of a product of two square float32 matrices, what the machine's arithmetic can give
    at most.
    """
    one, other = torch.randn(size, size), torch.randn(size, size)
    return 2 * size**3 / median_seconds(lambda: one @ other) / 1e9


def processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def report(name: str, rows: Sequence[dict[str, Any]], **facts: Any) -> None:
    """Print `rows` as a table and write them, with the machine, to
    benchmarks/results/<name>.json.
    """
    titles = list(rows[0])
    cells = [titles, *([shown(row[title]) for title in titles] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for line in cells:
        print("  ".join(f"{cell:>{width}}" for cell, width in zip(line, widths, strict=True)))
    for key, value in facts.items():
        print(f"{key}: {shown(value)}")
    machine = {
        "processor": processor(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "commit": git("rev-parse", "--short", "HEAD"),
    }
    RESULTS.mkdir(exist_ok=True)
    result = {"machine": machine} | facts | {"rows": list(rows)}
    (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=2) + "\n")


def shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return "" if value is None else str(value)
