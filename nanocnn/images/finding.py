"""Which picture files paths, folders and lists name; none is opened here."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from nanocnn.images.new_pictures import Unreadable
from nanocnn.images.places import looks_like_a_picture, natural


class Finder:
    """The pictures that `paths` name, in their order: files as they are, and those in folders.

    Of a folder, and of those in it at any depth, it is the files that are called as pictures are,
    in natural order; hidden ones are left out. What cannot be read comes as an `Unreadable`. The
    path "-" stands for the lines of `listed`.
    """

    def __init__(self, paths: Iterable[str], listed: Iterable[bytes] = ()):
        self.paths, self.listed = paths, listed
        self.passed_over: list[str] = []  # files in folders that are not called as pictures are

    def __iter__(self) -> Iterator[str | Unreadable]:
        for path in self.paths:
            if path != "-":
                yield from self.of(path)
                continue
            for line in self.listed:
                if name := os.fsdecode(line.rstrip(b"\r\n")):
                    yield from self.of(name)

    def of(self, path: str) -> Iterator[str | Unreadable]:
        return self.below(path, ()) if os.path.isdir(path) else iter([path])

    def below(self, folder: str, above: tuple[str, ...]) -> Iterator[str | Unreadable]:
        try:
            behind = os.path.realpath(folder)
            if behind in above:
                yield Unreadable(folder, f"a link that leads back to {behind}")
                return
            with os.scandir(folder) as entries:
                shown = {entry.name: entry.is_dir() for entry in entries if entry.name[0] != "."}
        except OSError as error:
            yield Unreadable(folder, error.strerror or str(error))
            return
        for name in sorted(shown, key=natural):
            path = os.path.join(folder, name)
            if shown[name]:
                yield from self.below(path, (*above, behind))
            elif looks_like_a_picture(Path(name)):
                yield path
            else:
                self.passed_over.append(path)
