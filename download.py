"""Fetching a published file: over https alone, checked before it has its name, never half there."""

import hashlib
import os
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from tqdm import tqdm

from errors import UserError

TRIES = 3
TIMEOUT = 30.0  # seconds without an answer
LARGEST = 1 << 30  # bytes; no data set of this project comes near


class SameScheme(HTTPRedirectHandler):
    """Follows a redirection, but not from https to a connection that anybody could change."""

    def redirect_request(self, req, fp, code, msg, headers, newurl):  # type: ignore[no-untyped-def]
        if urlsplit(newurl).scheme != urlsplit(req.full_url).scheme:
            raise OSError(f"it redirects to {newurl}")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def download(urls: Sequence[str], path: Path, md5: str) -> None:
    """Fetch `path` from the first of `urls` that gives a file with the checksum `md5`.

    The file is written beside `path` and renamed, so that two processes may do this at once. Raises
    UserError after three tries of each.
    """
    problems = []
    for attempt in range(TRIES):
        for url in urls:
            try:
                fetch(url, path, md5)
                return
            except (OSError, HTTPException) as error:
                problems.append(f"{url}: {error}")
        if attempt + 1 < TRIES:
            time.sleep(2**attempt)
    raise UserError(
        f"{path.name} is missing in {path.parent} and could not be downloaded ({problems[-1]}); put it there as "
        "data/README.md says, or run 'python train.py', which needs no download"
    )


def fetch(url: str, path: Path, md5: str) -> None:
    """Raises OSError or HTTPException where `url` does not give the file, or gives another one."""
    new = [folder for folder in (path.parent, *path.parent.parents) if not folder.exists()]
    temporary = None
    try:
        opener = build_opener(SameScheme())
        request = Request(url, headers={"User-Agent": "nanocnn"})
        with opener.open(request, timeout=TIMEOUT) as response:
            length = int(response.headers.get("Content-Length") or 0)
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
            checksum, size = hashlib.md5(usedforsecurity=False), 0
            with (
                os.fdopen(descriptor, "wb") as file,
                tqdm(
                    total=length or None, desc=path.name, unit="B", unit_scale=True, disable=None
                ) as bar,
            ):
                while block := response.read(1 << 16):
                    file.write(block)
                    checksum.update(block)
                    size += len(block)
                    bar.update(len(block))
                    if size > LARGEST:
                        raise OSError(f"more than {LARGEST:,} bytes")
                file.flush()
                os.fsync(file.fileno())
        if size < length:
            raise OSError(f"the connection broke off after {size:,} of {length:,} bytes")
        if checksum.hexdigest() != md5:
            raise OSError(f"the file that came has the MD5 {checksum.hexdigest()}, not {md5}")
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)  # mkstemp makes files for their owner alone
        os.replace(temporary, path)
    except BaseException:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        for folder in new:
            with suppress(OSError):  # stays if it holds anything
                folder.rmdir()
        raise
