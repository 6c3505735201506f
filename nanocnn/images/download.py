"""Fetching a published file: over https alone, checked before it has its name, never half there."""

import hashlib
import os
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from tqdm import tqdm

from nanocnn.system.errors import UserError
from nanocnn.system.signals import cleaned_up

SCHEME = "https"  # what comes over http, anybody on the way may have changed
TRIES = 3
TIMEOUT = 30.0  # seconds without an answer
MOST_BYTES = 1 << 30  # bytes; no data set of this project comes near


class SameScheme(HTTPRedirectHandler):
    """Follows a redirection, but not from https to a connection that anybody could change."""

    def redirect_request(self, req, fp, code, msg, headers, newurl):  # type: ignore[no-untyped-def]
        if urlsplit(newurl).scheme != urlsplit(req.full_url).scheme:
            raise OSError(f"it redirects to {newurl}")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def download(urls: Sequence[str], path: Path, md5: str) -> None:
    """Fetch `path` from the first of `urls` that gives a file with the checksum `md5`.

    The file is written beside `path` and renamed, so that two processes may do this at once. Raises
    UserError after three tries of each, and at once where no url is of https.
    """
    urls = [url for url in urls if urlsplit(url).scheme == SCHEME]
    problem = "its host offers no https"
    for attempt in range(TRIES if urls else 0):
        if attempt > 0:
            time.sleep(2 ** (attempt - 1))
        for url in urls:
            try:
                fetch(url, path, md5)
                return
            except (OSError, HTTPException, ValueError) as error:  # the last of a url that is none
                problem = f"{url}: {error}"
    raise UserError(
        f"{path.name} is missing in {path.parent} and could not be downloaded ({problem}); put "
        "it there as "
        "data/README.md says, or run 'python train.py', which needs no download"
    )


def fetch(url: str, path: Path, md5: str) -> None:
    """Raises OSError, HTTPException or ValueError where `url` does not give the file, or gives
    another one.
    """
    new = [folder for folder in (path.parent, *path.parent.parents) if not folder.exists()]
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")

    def clean_up() -> None:
        temporary.unlink(missing_ok=True)
        for folder in new:
            with suppress(OSError):  # stays if it holds anything
                folder.rmdir()

    try:
        opener = build_opener(SameScheme())
        request = Request(url, headers={"User-Agent": "nanocnn"})
        with cleaned_up(clean_up), opener.open(request, timeout=TIMEOUT) as response:
            length = response.length or 0
            path.parent.mkdir(parents=True, exist_ok=True)
            checksum, size = hashlib.md5(usedforsecurity=False), 0
            with (
                temporary.open("xb") as file,
                tqdm(
                    total=length or None, desc=path.name, unit="B", unit_scale=True, disable=None
                ) as bar,
            ):
                while block := response.read(1 << 16):
                    file.write(block)
                    checksum.update(block)
                    size += len(block)
                    bar.update(len(block))
                    if size > MOST_BYTES:
                        raise OSError(f"more than {MOST_BYTES:,} bytes")
                file.flush()
                os.fsync(file.fileno())
        if size < length:
            raise OSError(f"the connection broke off after {size:,} of {length:,} bytes")
        if checksum.hexdigest() != md5:
            raise OSError(f"the file that came has the MD5 {checksum.hexdigest()}, not {md5}")
        os.replace(temporary, path)
    except BaseException:
        clean_up()
        raise
