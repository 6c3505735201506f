"""Watch a long run from outside: does its memory grow, do its open files?

    python -m benchmarks.soak                 # 10,000 steps of a small network, about three minutes

Resident memory and open files of the training process are read ten times a second. The slope is
that of a line fitted to the second half, in kB per 1,000 steps. The last line is the result as
JSON.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

PROJECT = Path(__file__).parent.parent
STEPS_PER_EPOCH = 100
OPTIONS = [
    "data.limit=1000",
    "data.validation=200",
    "train.batch_size=8",
    "log.every=10",
    "data.augment.shift=1",
    "model={name: convnet, channels: [[8], [16]], hidden: [32], norm: batch, dropout: 0.2}",
    "train.checkpoint_every=50",
]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=10_000)
    steps = parser.parse_args().steps
    with tempfile.TemporaryDirectory() as folder:
        run_dir = Path(folder, "run")
        command = [sys.executable, str(PROJECT / "train.py"), "--run-dir", str(run_dir), *OPTIONS]
        command.append(f"train.epochs={steps // STEPS_PER_EPOCH}")
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        proc = Path("/proc", str(process.pid))
        rows = []
        while process.poll() is None:
            metrics = run_dir / "metrics.jsonl"
            if metrics.exists() and metrics.stat().st_size:
                done = metrics.read_bytes().count(b"\n") * STEPS_PER_EPOCH
                resident = int((proc / "statm").read_text().split()[1]) * 4096
                rows.append((done, resident, len(list((proc / "fd").iterdir()))))
            time.sleep(0.1)
        if process.returncode != 0:
            raise SystemExit("the run failed")
    done, resident, files = np.array(
        [row for row in rows if steps / 2 <= row[0] < steps]
    ).T  # not its end
    slope = np.polyfit(done / 1000, resident / 1000, 1)[0]
    report = {
        "steps": steps,
        "samples": len(done),
        "resident_MB": [round(float(size) / 1e6, 1) for size in (resident[0], resident[-1])],
        "kB_per_1000_steps": round(float(slope), 1),
        "open_files": [int(files.min()), int(files.max())],
    }
    print(json.dumps(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
