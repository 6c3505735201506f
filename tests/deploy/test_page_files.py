"""The folder of a page, and where ONNX Runtime Web comes from."""

import hashlib
import io
import subprocess
import tarfile
from pathlib import Path

import pytest

from nanocnn.commands import page as page_command
from nanocnn.deploy import runtime

CONTENT = {name: name.encode() for name in runtime.FILES}


@pytest.fixture(autouse=True)
def made_up(monkeypatch, tmp_path):
    """Small files in the place of the runtime's, an empty cache, and a network that is none."""
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in CONTENT.items()}
    monkeypatch.setattr(runtime, "FILES", digests)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(page_command, "exported", lambda *_: (b"onnx", {"classes": ["a"]}))
    (tmp_path / "best.pt").touch()


def package(path):
    with tarfile.open(path, "w:gz") as archive:
        for name, content in CONTENT.items():
            member = tarfile.TarInfo(f"package/dist/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def forbid_npm(monkeypatch):
    monkeypatch.setattr(runtime.shutil, "which", lambda _: None)


def test_a_page_is_made_and_made_again_and_the_second_needs_no_network(
    script, tmp_path, monkeypatch
):
    forbid_npm(monkeypatch)
    options = ["nanocnn", "page", "--ckpt", tmp_path / "best.pt", "--out"]
    done = script(*options, "page", "--runtime", package(tmp_path / "runtime.tgz"))
    assert done.code == 0, done.error
    files = {path.name for path in Path("page").iterdir()}
    assert files == {
        *("index.html", "page.css", "page.js", "model.onnx", "nanocnn.json"),
        *("onnxruntime-LICENSE.txt", *CONTENT),
    }
    kept = Path("page/mine.txt")
    kept.write_text("kept")
    Path("page/page.js").write_text("old")
    again = script(*options, "page")
    assert again.code == 0 and kept.exists(), again.error
    assert Path("page/page.js").read_text() != "old"
    Path("other").mkdir()
    Path("other/index.html").write_text("somebody's")
    refused = script(*options, "other")
    assert refused.code == 2 and "holds other files" in refused.error
    assert [path.name for path in Path("other").iterdir()] == ["index.html"]


def test_without_npm_and_a_path_it_says_what_to_type(script, tmp_path, monkeypatch):
    forbid_npm(monkeypatch)
    done = script("nanocnn", "page", "--ckpt", tmp_path / "best.pt", "--out", "page")
    assert done.code == 2 and len(done.error.splitlines()) == 1
    assert "npm pack onnxruntime-web@" in done.error and "--runtime" in done.error
    assert not Path("page").exists()


def test_npm_is_asked_for_one_version_and_its_files_are_kept(script, tmp_path, monkeypatch):
    asked = []

    def npm(command, cwd, **_):
        asked.append(command)
        package(Path(cwd) / "made.tgz")

    monkeypatch.setattr(runtime.shutil, "which", lambda _: "npm")
    monkeypatch.setattr(runtime.subprocess, "run", npm)
    assert runtime.runtime_files() == CONTENT == runtime.runtime_files()
    assert len(asked) == 1 and asked[0][:3] == ["npm", "pack", runtime.PACKAGE]
    (runtime.cache_folder() / "ort.wasm.min.js").write_bytes(b"damaged")
    assert runtime.runtime_files() == CONTENT and len(asked) == 2


def test_npm_that_fails_is_quoted(script, tmp_path, monkeypatch):
    def npm(command, **_):
        raise subprocess.CalledProcessError(1, command, stderr="npm error network\nlast line\n")

    monkeypatch.setattr(runtime.shutil, "which", lambda _: "npm")
    monkeypatch.setattr(runtime.subprocess, "run", npm)
    done = script("nanocnn", "page", "--ckpt", tmp_path / "best.pt", "--out", "page")
    assert done.code == 2 and "(last line)" in done.error


def test_other_files_are_refused(script, tmp_path):
    folder = tmp_path / "dist"
    folder.mkdir()
    for name, content in CONTENT.items():
        (folder / name).write_bytes(content)
    assert runtime.runtime_files(tmp_path) == CONTENT
    (folder / "ort.wasm.min.js").write_bytes(b"another")
    (tmp_path / "text.tgz").write_text("no archive")
    for path, line in (
        (tmp_path, "ort.wasm.min.js is not that of onnxruntime-web"),
        (tmp_path / "text.tgz", "should be the .tgz"),
        (tmp_path / "none", "no such file"),
        (tmp_path / "cache", "with ort.wasm.min.js"),
    ):
        done = script(
            "nanocnn", "page", "--ckpt", tmp_path / "best.pt", "--out", "page", "--runtime", path
        )
        assert done.code == 2 and line in done.error, done.error
