"""Time from launch to the end of the first training step, by part.

python -m benchmarks.startup                              # mnist_fast.yaml, five launches
python -m benchmarks.startup --project ../older   # of another checkout, to compare

The phases are those of run.json; the end of the first step is the moment that its point of the
TensorBoard curve bears (`log.every=1`); `interpreter` is what is left: Python itself and reading
the command line. Then the packages that a run imports, by the time spent in their own modules
(`python -X importtime`).
"""

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from benchmarks.measure import report
from nanocnn.system.errors import exit_code

PROJECT = Path(__file__).parent.parent


def main() -> None:
    parser = argparse.ArgumentParser("startup.py", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--config", default="mnist_fast.yaml", help="default: mnist_fast.yaml")
    parser.add_argument("--launches", type=int, default=5, help="default: 5")
    parser.add_argument("--project", type=Path, default=PROJECT, metavar="DIR")
    args = parser.parse_args()
    script = str(args.project.absolute() / "train.py")
    options = ["--config", args.config, "log.every=1", "train.epochs=1", "data.limit=10000"]
    launches: list[dict[str, float]] = []
    own: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        for number in range(args.launches):
            run_dir = Path(folder, str(number))
            command = [script, *options, "--run-dir", str(run_dir)]
            launched = time.time()
            subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL)
            ended = time.time()
            phases = json.loads((run_dir / "run.json").read_text())["seconds"]
            curves = EventAccumulator(str(run_dir))
            curves.Reload()
            steps = [point.wall_time for point in curves.Scalars("loss/train")]
            row = {phase: phases[phase] for phase in ("import", "data", "build")}
            # the training phase begins where the build phase ends, and is as long as run.json says
            began = steps[-1] - phases["training"]
            row["first step"] = steps[0] - began
            row["interpreter"] = began - launched - row["import"] - row["data"] - row["build"]
            row["launch to first step"] = steps[0] - launched
            row["a later step"] = (steps[-1] - steps[0]) / (len(steps) - 1)
            row["saved to exit"] = ended - (run_dir / "last.pt").stat().st_mtime
            launches.append(row)
        command = [script, *options, "--run-dir", str(Path(folder, "imports"))]
        done = subprocess.run(
            [sys.executable, "-X", "importtime", *command],
            check=True, capture_output=True, text=True,
        )  # fmt: skip
    for line in done.stderr.splitlines():
        if found := re.match(r"import time:\s+(\d+) \|\s+\d+ \| +([\w.]+)", line):
            own[found[2].partition(".")[0]] += int(found[1])
    rows = [
        {"part": part, "seconds": statistics.median(row[part] for row in launches)}
        for part in ("interpreter", "import", "data", "build", "first step",
                     "launch to first step", "a later step", "saved to exit")
    ]  # fmt: skip
    packages = {package: microseconds / 1e6 for package, microseconds in own.most_common(12)}
    report("startup", rows, config=args.config, imports=packages)


if __name__ == "__main__":
    sys.exit(exit_code(main))
