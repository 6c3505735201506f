"""ONNX Runtime Web: the files that run a network in a browser, of one version.

They are had once, with the npm client or from a path that is given, compared with the checksums
below, and kept in a folder for the pages to come.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

from nanocnn.system.errors import UserError
from nanocnn.system.files import replacing

VERSION = "1.30.0"
FILES = {  # name -> sha256
    "ort.wasm.min.js": "faece07e84faa9001f5104bbe4e5c70861d06cb2376a0dea1fa0ad33a67adc81",
    "ort-wasm-simd-threaded.mjs": (
        "e13f7f94fc51b4ca72b12faeb1ee95f4ace6dfbc8939bc718aabdc0a27c4299b"
    ),
    "ort-wasm-simd-threaded.wasm": (
        "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2"
    ),
}
PACKAGE = f"onnxruntime-web@{VERSION}"
PLACES = ("", "dist", "package/dist", "node_modules/onnxruntime-web/dist")  # in a given folder
SECONDS = 600  # for npm
Read = Callable[[str], bytes]  # a file by its name; raises OSError or KeyError where it is not


def runtime_files(given: Path | None = None) -> dict[str, bytes]:
    """The files by name: from `given`, a folder or npm's .tgz, else from those that were kept, else
    by npm.

    Raises UserError where they cannot be had, or are others.
    """
    folder = cache_folder()
    if given is not None:
        files = files_at(given)
    elif kept := files_kept(folder):
        return kept
    else:
        files = files_by_npm(folder)
    keep(folder, files)
    return files


def cache_folder() -> Path:
    """Where the files of this version are kept."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "nanocnn" / f"onnxruntime-web-{VERSION}"


def files_kept(folder: Path) -> dict[str, bytes] | None:
    """None where a file is missing or damaged."""
    try:
        return checked(lambda name: (folder / name).read_bytes(), folder)
    except (OSError, UserError):
        return None


def files_at(given: Path) -> dict[str, bytes]:
    if not given.exists():
        raise UserError(f"--runtime {given}: no such file or folder")
    problem = f"--runtime {given}: should be the .tgz that 'npm pack {PACKAGE}' makes, or a folder"
    try:
        if given.is_dir():
            places = [given / place for place in PLACES]
            found = next((place for place in places if (place / next(iter(FILES))).is_file()), None)
            if found is None:
                raise UserError(f"{problem} with {', '.join(FILES)}")
            return checked(lambda name: (found / name).read_bytes(), given)
        with tarfile.open(given) as archive:

            def read(name: str) -> bytes:
                member = archive.extractfile(f"package/dist/{name}")
                if member is None:
                    raise KeyError(name)
                return member.read()

            return checked(read, given)
    except (OSError, KeyError, EOFError, tarfile.TarError) as error:
        raise UserError(f"{problem} ({error})") from None


def files_by_npm(folder: Path) -> dict[str, bytes]:
    instead = (
        f"type 'npm pack {PACKAGE}' where there is npm and a network, and here --runtime with the "
        ".tgz that it makes"
    )
    what = f"onnxruntime-web {VERSION}, which runs the network in the page, is not in {folder}"
    npm = shutil.which("npm")
    if npm is None:
        raise UserError(f"{what}, and there is no npm; {instead}")
    print(f"fetching onnxruntime-web {VERSION} with npm, once", file=sys.stderr)
    command = [npm, "pack", PACKAGE, "--ignore-scripts", "--silent", "--fetch-retries=1"]
    with tempfile.TemporaryDirectory() as temporary:
        try:
            subprocess.run(
                command, cwd=temporary, check=True, capture_output=True, text=True, timeout=SECONDS
            )
        except subprocess.CalledProcessError as error:
            last = (error.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise UserError(f"{what}, and npm cannot fetch it ({last}); {instead}") from None
        except subprocess.TimeoutExpired:
            raise UserError(f"{what}, and npm took over {SECONDS} s; {instead}") from None
        made = next(Path(temporary).glob("*.tgz"), None)
        if made is None:
            raise UserError(f"{what}, and npm made no .tgz of it; {instead}")
        return files_at(made)


def checked(read: Read, origin: Path) -> dict[str, bytes]:
    """The files by name. Raises UserError where one is another."""
    files = {name: read(name) for name in FILES}
    for name, content in files.items():
        if hashlib.sha256(content).hexdigest() != FILES[name]:
            raise UserError(
                f"{origin}: its {name} is not that of onnxruntime-web {VERSION}, or damaged"
            )
    return files


def keep(folder: Path, files: dict[str, bytes]) -> None:
    """Keep them for the next page; where that cannot be, they are fetched again."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            with replacing(folder / name) as file:
                file.write(content)
    except OSError as error:
        print(
            f"warning: {folder}: cannot be written ({error.strerror}): the next page needs npm or "
            "--runtime again",
            file=sys.stderr,
        )
