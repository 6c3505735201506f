"""nanocnn predict --map: a picture and a JSON file of what is where in each large picture."""

import io
import sys
from argparse import Namespace
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from nanocnn.commands.made import fill
from nanocnn.run.restore import Restored
from nanocnn.system.output import one_line

MARK = "maps.txt"  # the list of what lies there; a folder with it is one that this has made
NAMED = 3  # peaks


def write_maps(restored: Restored, files: Iterable[Any], args: Namespace) -> tuple[int, int]:
    """The maps of all `files`, in the place of earlier ones; how many were made, and how many
    could not be.
    """
    from nanocnn.deploy.map import mapped, mapper_of

    mapper = mapper_of(restored)
    if not mapper.sliding.exact:
        print(
            "warning: this network has padding, so that a place sees more than its window: scores "
            "are not quite those of the windows alone",
            file=sys.stderr,
        )
    taken: dict[str, str] = {}  # names by themselves in small letters
    failed = 0
    for each in mapped(mapper, files, args.invert == "always"):
        if each.picture is None:
            failed += 1
            print(f"warning: {each.file}: {each.reason}", file=sys.stderr)
            continue
        if not taken:
            clear(args.map)
        name = free_name(Path(each.file).stem, taken)
        content = io.BytesIO()
        each.picture.save(content, "png")
        list_ = "".join(f"{one_line(other)}\n" for other in taken.values())
        made = {f"{name}.json": each.facts.encode(), f"{name}.png": content.getvalue()}
        fill(args.map, {MARK: list_.encode(errors="replace")} | made)
        surest = ", ".join(
            f"{one_line(peak.label)} {peak.probability:.1%} at {peak.x:.0f},{peak.y:.0f}"
            for peak in each.peaks[:NAMED]
        )
        print(f"{one_line(each.file)}: {surest}; {args.map / name}.png")
    return len(taken), failed


def clear(folder: Path) -> None:
    """Remove the maps that an earlier call has made; other files stay."""
    if (folder / MARK).is_file():
        for name in (folder / MARK).read_text(errors="replace").splitlines():
            if Path(name).name == name:
                for end in (".json", ".png"):
                    (folder / f"{name}{end}").unlink(missing_ok=True)


def free_name(stem: str, taken: dict[str, str]) -> str:
    """`stem`, with a number where another picture has it already; it counts as taken then."""
    name, number = stem, 1
    while name.casefold() in taken:
        number += 1
        name = f"{stem}_{number}"
    taken[name.casefold()] = name
    return name
