"""Downloads that go wrong, from a real server: nothing half, one line and exit code 2, and a second
start recovers.
"""

import gzip
import hashlib
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from urllib.request import Request

import numpy as np
import pytest
from conftest import PROJECT, heed_signals
from imitation import COUNTS, idx, pixels

from nanocnn.images import download
from nanocnn.system.errors import UserError

pytestmark = pytest.mark.slow

FILES = {
    "train-images-idx3-ubyte.gz": gzip.compress(idx(pixels("train", 28, 28))),
    "train-labels-idx1-ubyte.gz": gzip.compress(idx(np.arange(COUNTS["train"]) % 10)),
}
RAW = Path("data", "MNIST", "raw")
NAME, CONTENT = next(iter(FILES.items()))
MD5 = hashlib.md5(CONTENT).hexdigest()


def give(request, content):
    request.send_response(200)
    request.send_header("Content-Length", str(len(content)))
    request.end_headers()
    request.wfile.write(content)


def break_off(request, content):
    request.send_response(200)
    request.send_header("Content-Length", str(len(content)))
    request.end_headers()
    request.wfile.write(content[: len(content) // 2])


def break_off_a_chunk(request, content):
    request.protocol_version = "HTTP/1.1"
    request.send_response(200)
    request.send_header("Transfer-Encoding", "chunked")
    request.end_headers()
    request.wfile.write(b"%x\r\n" % len(content) + content[: len(content) // 2])
    request.close_connection = True


def never_go_on(request, content):
    break_off(request, content)
    request.server.released.wait(10)


def redirect(place):
    def answer(request, content):
        request.send_response(302)
        request.send_header("Location", place)
        request.end_headers()

    return answer


def odd_length(request, content):
    request.send_response(200)
    request.send_header("Content-Length", "many")
    request.end_headers()
    request.wfile.write(content)


@pytest.fixture
def server(monkeypatch):
    """A server of FILES on this machine, in the place of MNIST's; it answers as `server.answers`
    say in turn.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            server.asked.append(self.path)
            answer = server.answers.pop(0) if len(server.answers) > 1 else server.answers[0]
            answer(self, FILES[self.path.rpartition("/")[2]])

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.answers, server.asked, server.released = [give], [], threading.Event()
    server.url = f"http://127.0.0.1:{server.server_port}/"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    sums = [(name, hashlib.md5(content).hexdigest()) for name, content in FILES.items()]
    monkeypatch.setattr("torchvision.datasets.MNIST.mirrors", [server.url])
    monkeypatch.setattr("torchvision.datasets.MNIST.resources", sums)
    monkeypatch.setattr(download, "SCHEME", "http")  # a server of https would need a certificate
    monkeypatch.setattr(download, "TIMEOUT", 0.3)
    server.waits = []
    monkeypatch.setattr(download, "time", SimpleNamespace(sleep=server.waits.append))
    monkeypatch.setenv("no_proxy", "*")
    yield server
    server.released.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def train(script):
    options = ["data.dataset=mnist", "data.validation=10", "train.epochs=1"]
    options += ["data.augment.shift=0", "model={name: mlp, hidden: [8]}", "--run-dir", "run"]
    return lambda: script("train.py", *options)


def check_files():
    """Both files are there, whole, and nothing else."""
    assert {path.name: path.read_bytes() for path in RAW.iterdir()} == FILES


FAULTS = {
    "wrong checksum": (lambda request, content: give(request, content[:-1] + b"x"), "has the MD5"),
    "another file": (lambda request, content: give(request, b"<html>"), "has the MD5"),
    "broken off": (break_off, "the connection broke off after"),
    "broken off in a chunk": (break_off_a_chunk, "IncompleteRead"),
    "stalled": (never_go_on, "timed out"),
    "404": (lambda request, content: request.send_error(404), "HTTP Error 404"),
    "503": (lambda request, content: request.send_error(503), "HTTP Error 503"),
    "no answer": (lambda request, content: None, "Remote end closed connection"),
    "no http": (lambda request, content: request.wfile.write(b"SSH-2.0\r\n"), "SSH-2.0"),
    "another scheme": (redirect("https://127.0.0.1:9/file"), "it redirects to https://127.0.0.1:9"),
    "a local file": (redirect("file:///etc/passwd"), "file:///etc/passwd' is not allowed"),
    "no url": (redirect("http://[/"), "Invalid IPv6 URL"),
    "round and round": (redirect("/train-images-idx3-ubyte.gz"), "infinite loop"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_download_that_fails_ends_in_one_line_and_a_second_start_recovers(server, train, fault):
    answer, message = FAULTS[fault]
    server.answers = [answer]
    result = train()
    assert result.code == 2
    (line,) = [line for line in result.error.splitlines() if line.startswith("error: ")]
    for part in (NAME, str(RAW), message, server.url, "data/README.md"):
        assert part in line
    assert "Traceback" not in result.error
    assert server.waits == [1, 2], "three tries"
    assert not Path("data").exists() and not Path("run").exists()

    server.released.set()
    server.answers = [give]
    result = train()
    assert result.code == 0, result.error
    check_files()


def test_no_network_ends_in_one_line_and_a_second_start_recovers(server, train, monkeypatch):
    with monkeypatch.context() as without:
        without.setattr("torchvision.datasets.MNIST.mirrors", ["http://127.0.0.1:9/"])
        result = train()
    assert result.code == 2
    assert "Connection refused" in result.error and not Path("data").exists()
    assert train().code == 0
    check_files()


def test_a_host_without_a_name_ends_in_one_line(server, train, monkeypatch):
    monkeypatch.setattr("torchvision.datasets.MNIST.mirrors", ["http://nanocnn.invalid/"])
    result = train()
    assert result.code == 2 and "http://nanocnn.invalid/" in result.error


def test_a_later_try_succeeds(server, train):
    server.answers = [FAULTS["404"][0], break_off, give]
    result = train()
    assert result.code == 0, result.error
    assert server.asked.count(f"/{NAME}") == 3 and server.waits == [1, 2]
    check_files()


def test_another_mirror_is_asked_at_once(server, train, monkeypatch):
    monkeypatch.setattr(
        "torchvision.datasets.MNIST.mirrors", ["http://127.0.0.1:9/", "ftp://x/", server.url]
    )
    assert train().code == 0
    assert server.waits == []
    check_files()


def test_a_length_that_is_no_number_is_ignored(server, train):
    server.answers = [odd_length]
    assert train().code == 0
    check_files()


def test_a_file_without_end_is_given_up(server, train, monkeypatch):
    monkeypatch.setattr(download, "MOST_BYTES", 1000)
    result = train()
    assert result.code == 2
    assert "more than 1,000 bytes" in result.error and not Path("data").exists()


def test_what_is_there_is_not_fetched_again_and_stays_when_more_fails(server, train):
    RAW.mkdir(parents=True)
    (RAW / NAME).write_bytes(CONTENT)
    server.answers = [break_off]
    assert train().code == 2
    assert [path.name for path in RAW.iterdir()] == [NAME]
    assert f"/{NAME}" not in server.asked
    server.answers = [give]
    assert train().code == 0
    check_files()


def test_a_folder_that_cannot_be_made_ends_in_one_line(server, train):
    Path("data").write_text("a file")
    result = train()
    assert result.code == 2 and result.error.count("error: ") == 1
    assert Path("data").read_text() == "a file"


def test_only_https_is_asked(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "SCHEME", "https")
    with pytest.raises(UserError, match=r"file is missing in .*its host offers no https"):
        download.download([server.url, "ftp://127.0.0.1/"], tmp_path / "file", MD5)
    assert server.asked == server.waits == []


def test_a_redirection_away_from_https_is_not_followed():
    asked = Request("https://127.0.0.1/a")
    follow = download.SameScheme().redirect_request
    with pytest.raises(OSError, match="redirects to http://127"):
        follow(asked, None, 302, "Found", {}, "http://127.0.0.1/b")
    assert follow(asked, None, 302, "Found", {}, "https://127.0.0.1/b").full_url[-1] == "b"


def both_at_once(server):
    """Let the server answer only once two requests are there."""
    barrier = threading.Barrier(2, timeout=60)

    def answer(request, content):
        barrier.wait()
        give(request, content)

    server.answers = [answer]


def test_two_threads_may_fetch_the_same_file(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "TIMEOUT", 60)
    both_at_once(server)
    path = tmp_path / "new" / "folder" / NAME
    problems = []

    def fetch():
        try:
            download.download([server.url + NAME], path, MD5)
        except UserError as error:
            problems.append(error)

    umask = os.umask(0o027)
    try:
        threads = [threading.Thread(target=fetch) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        after = os.umask(umask)
    assert problems == [] and after == 0o027
    assert path.read_bytes() == CONTENT and len(list(path.parent.iterdir())) == 1
    assert stat.S_IMODE(path.stat().st_mode) == 0o640, "as the umask says"


# download.download in a process of its own, ending as the scripts end
PROGRAM = """
import sys
from pathlib import Path
from nanocnn.images import download
from nanocnn.system.errors import exit_code
from nanocnn.system.signals import exit_on_signal
exit_on_signal()
download.SCHEME = "http"
url, path, md5 = sys.argv[1:]
sys.exit(exit_code(lambda: download.download([url], Path(path), md5)))
"""


def start(server, path):
    command = [sys.executable, "-c", PROGRAM, server.url + NAME, str(path), MD5]
    return subprocess.Popen(
        command,
        cwd=PROJECT,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heed_signals,  # noqa: PLW1509
    )


def test_two_processes_may_fetch_the_same_file(server, tmp_path):
    both_at_once(server)
    path = tmp_path / "new" / NAME
    processes = [start(server, path) for _ in range(2)]
    for process in processes:
        _, error = process.communicate(timeout=60)
        assert process.returncode == 0, error
    assert path.read_bytes() == CONTENT and len(list(path.parent.iterdir())) == 1


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_in_the_middle_leaves_nothing(server, tmp_path, name):
    number = getattr(signal, name)
    server.answers = [never_go_on]
    path = tmp_path / "new" / NAME
    process = start(server, path)
    while process.poll() is None and not list(path.parent.glob(f".{NAME}.*")):
        time.sleep(0.01)
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 128 + number, error
    assert f"stopped by {name}" in error and "Traceback" not in error
    assert not path.parent.exists()
    server.answers = [give]
    process = start(server, path)
    process.communicate(timeout=60)
    assert process.returncode == 0 and [*path.parent.iterdir()] == [path]


def test_a_kill_in_the_middle_leaves_no_file_of_that_name(server, tmp_path):
    server.answers = [never_go_on]
    path = tmp_path / "new" / NAME
    process = start(server, path)
    while process.poll() is None and not list(path.parent.glob(f".{NAME}.*")):
        time.sleep(0.01)
    process.kill()
    process.communicate(timeout=60)
    assert not path.exists()
    server.answers = [give]
    process = start(server, path)
    process.communicate(timeout=60)
    assert process.returncode == 0 and path.read_bytes() == CONTENT


def test_any_other_end_leaves_nothing_too(server, tmp_path, monkeypatch):
    def full(*_):
        raise MemoryError

    monkeypatch.setattr(download.os, "fsync", full)
    with pytest.raises(MemoryError):
        download.download([server.url + NAME], tmp_path / "new" / NAME, MD5)
    assert not (tmp_path / "new").exists()
