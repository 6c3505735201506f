"""A mistake in one's own model.py is told with its file, line and code."""

import shutil
import subprocess
import sys

import pytest
from conftest import PROJECT

pytestmark = pytest.mark.slow

TINY = """
class Tiny(nn.Module):
    def __init__(self, image_shape: ImageShape, num_classes: int):
        super().__init__()
        sizes = [image_shape[0]]
        self.layers = nn.Sequential(nn.Flatten(), nn.LazyLinear(num_classes))
        {build}

    def forward(self, images: Tensor) -> Tensor:
        {forward}
        return self.layers(images)


MODELS: dict[str, Callable[..., nn.Module]] = {{
    "tiny": Tiny,
"""


@pytest.fixture
def project(tmp_path):
    """A copy of the project whose model.py has a network with these lines."""
    for name in ("model.py", "train.py", "test.py"):
        shutil.copy(PROJECT / name, tmp_path)
    for name in ("nanocnn", "configs"):
        (tmp_path / name).symlink_to(PROJECT / name)

    def make(build="pass", forward="pass"):
        source = (PROJECT / "model.py").read_text()
        head = "\nMODELS: dict[str, Callable[..., nn.Module]] = {\n"
        assert source.count(head) == 1
        changed = source.replace(head, TINY.format(build=build, forward=forward))
        (tmp_path / "model.py").write_text(changed)
        return tmp_path

    return make


def run(folder, *arguments):
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    "lines, code, kind",
    [
        ({"build": "self.size = sizes[3]"}, "self.size = sizes[3]", "list index out of range"),
        ({"build": "self.act = nn.Relu()"}, "self.act = nn.Relu()", "AttributeError"),
        ({"forward": "images = image / 2"}, "images = image / 2", "NameError"),
        ({"forward": "images = images.view(-1, 3)"}, "images = images.view(-1, 3)", "shape"),
    ],
)
def test_its_file_line_and_code_are_told(project, lines, code, kind):
    folder = project(**lines)
    done = run(folder, "train.py", "model={name: tiny}", "--run-dir", "run")
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    line = (folder / "model.py").read_text().splitlines().index(f"        {code}") + 1
    assert f"model.py, line {line}: `{code}`" in done.stderr and kind in done.stderr
    assert not (folder / "run").exists()


def test_a_model_py_that_python_cannot_read_is_told_too(project):
    folder = project(build="x = = 3")
    done = run(folder, "train.py", "--run-dir", "run")
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "model.py, line" in done.stderr and "`x = = 3`" in done.stderr


def test_a_mistake_elsewhere_stays_a_bug_with_a_traceback(project):
    folder = project()
    code = (
        "import sys, train; from nanocnn.system.errors import exit_code\n"
        "sys.exit(exit_code(lambda: [][1]))"
    )
    done = run(folder, "-c", code)
    assert done.returncode == 1 and "Traceback" in done.stderr
