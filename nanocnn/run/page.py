"""The page of a report, with what the run folder says of its run."""

import shlex
from pathlib import Path
from typing import Any

from nanocnn.config.schema import Config, to_yaml
from nanocnn.evaluation.page import About, Mistakes, report_page
from nanocnn.run.folder import read_facts
from nanocnn.run.rows import read_rows
from nanocnn.system.files import replacing
from nanocnn.system.output import one_line


def write_page(
    path: Path, checkpoint: Path, config: Config, report: dict[str, Any], mistakes: Mistakes | None
) -> None:
    """Write the page of `report`, on a checkpoint, as `path`. Raises OSError."""
    page = report_page(report, about(checkpoint, config, report["split"]), mistakes)
    with replacing(path) as file:
        file.write(page.encode(errors="replace"))


def about(checkpoint: Path, config: Config, split: str) -> About:
    """What the folder of a checkpoint says of its run; of a checkpoint alone the config."""
    folder = checkpoint.parent
    is_run = (folder / "config.yaml").is_file()
    rows, facts, remarks = [], "", []
    if is_run:
        rows = read_rows(folder / "metrics.jsonl")
    if is_run and (folder / "run.json").is_file():
        known = read_facts(folder)
        versions = known.get("versions", {})
        named = [f"{name} {versions[name]}" for name in ("nanocnn", "torch") if name in versions]
        seconds = sum(known.get("seconds", {}).values())
        where = [str(known[key]) for key in ("device", "precision", "platform") if key in known]
        facts = ", ".join([*named, *where, f"{seconds:,.0f} s in all"])
        remarks = known.get("remarks", [])
    name = shlex.quote(str(folder if is_run and checkpoint.stem == "best" else checkpoint))
    lines = [f"python train.py --config {shlex.quote(str(folder / 'config.yaml'))}"] * is_run
    lines.append(
        f"python test.py --ckpt {name}{'' if split == 'test' else f' --split {split}'} --report"
    )
    title = f"{config.name}: {config.model.name} on {config.data.dataset}"
    commands = "\n".join(map(one_line, lines))
    return About(one_line(title), rows, to_yaml(config), commands, facts, [*map(one_line, remarks)])
