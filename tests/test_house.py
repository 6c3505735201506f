"""The rules of the house that no linter knows; the others are in pyproject.toml."""

import ast
import subprocess
import sys

import pytest
from conftest import PROJECT

from nanocnn.run.run import Run

MOST_LINES = 60
FILES = sorted(
    path
    for folder in ("nanocnn", "benchmarks", "tests")
    for path in (PROJECT / folder).rglob("*.py")
) + [PROJECT / name for name in ("model.py", "train.py", "test.py")]


def too_long(source):
    """(name, lines) of each function in `source` with more than MOST_LINES lines."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or 0) - node.lineno + 1
            if lines > MOST_LINES:
                found.append((node.name, lines))
    return found


def test_a_function_of_61_lines_is_found():
    body = "    x = 1\n"
    assert too_long("def short():\n" + body * 59) == []
    assert too_long("class C:\n  def long(self):\n" + ("  " + body) * 60) == [("long", 61)]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PROJECT)))
def test_no_function_has_more_than_60_lines(path):
    assert too_long(path.read_text()) == []


def test_no_file_about_runs_has_more_than_200_lines():
    files = (PROJECT / "nanocnn" / "run").glob("*.py")
    lengths = {path.name: len(path.read_text().splitlines()) for path in files}
    assert lengths and {name: n for name, n in lengths.items() if n > 200} == {}


def test_the_top_level_holds_the_three_files_and_no_other_code():
    assert sorted(path.name for path in PROJECT.glob("*.py")) == ["model.py", "test.py", "train.py"]


def test_a_run_has_eight_public_names():
    public = {name for name in dir(Run) if not name.startswith("_")} | {"folder"}
    assert public == {
        "after_epoch",
        "after_step",
        "done_in_epoch",
        "epochs",
        "folder",
        "open",
        "until_stopped",
        "val_losses",
    }


def test_importing_the_package_imports_nothing_else_and_changes_nothing():
    code = (
        "import gc, signal, sys, nanocnn\n"
        "heavy = {'torch', 'numpy', 'pydantic', 'yaml'} & set(sys.modules)\n"
        "print(heavy, gc.isenabled(), signal.getsignal(signal.SIGTERM) == signal.SIG_DFL)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set() True True\n"
