"""docs/notes.md is true: its commands and Python blocks print what it quotes, its sums are right.

That its command lines are understood and its files are there, test_docs.py checks on all pages."""

import importlib
import re
import runpy
import shlex

import pytest
import torch
from conftest import PROJECT

pytestmark = pytest.mark.slow

PAGE = (PROJECT / "docs" / "notes.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PROSE = BLOCK.sub("", PAGE)
SECTIONS = PAGE.split("\n## ")[1:]
COMMANDS = [  # (command, the lines quoted below it)
    (command, quoted.splitlines())
    for kind, content in BLOCK.findall(PAGE)
    if kind == "text"
    for command, quoted in re.findall(r"^\$ (.+)\n((?:(?!\$ ).*\n)*)", content, re.MULTILINE)
]
TABLED = re.findall(r"`(python model\.py [^`]+)` \| ([\d,]+) \|", PROSE)  # (command, parameters)
START, *PYTHON = (content for kind, content in BLOCK.findall(PAGE) if kind == "python")


def printed(script, command):
    """The lines that a command prints; its network has sizes but no numbers, which take time."""
    _, name, *arguments = shlex.split(command)
    assert name == "model.py" or "--print-config" in arguments, "training is not for this test"
    with torch.device("meta"):
        result = script(name, *arguments)
    assert result.code == 0, result.error
    return result.out.splitlines()


def test_each_section_says_where_it_is_in_the_code_and_shows_it():
    assert len(SECTIONS) >= 12
    for section in SECTIONS:
        assert re.search(r"In\sthe\scode:", section), section[:40]
        assert BLOCK.search(section) or any(command in section for command, _ in TABLED)


@pytest.mark.parametrize(("command", "quoted"), COMMANDS)
def test_a_command_prints_the_lines_below_it_in_their_order(command, quoted, script):
    rest = iter(printed(script, command))
    assert quoted
    assert [line for line in quoted if line not in rest] == []  # `in` goes on from line to line


@pytest.mark.parametrize(("command", "parameters"), TABLED)
def test_a_network_has_the_parameters_in_the_table(command, parameters, script):
    totals = [line.split()[1] for line in printed(script, command) if line.startswith("total")]
    assert totals == [parameters]


@pytest.mark.parametrize("block", PYTHON)
def test_a_block_of_python_prints_the_comments_at_its_end(block, tmp_path, monkeypatch, capsys):
    code, comments = re.fullmatch(r"(.*?)((?:^# .*\n)+)", block, re.MULTILINE | re.DOTALL).groups()
    (tmp_path / "block.py").write_text(START + code)
    monkeypatch.chdir(tmp_path)
    with torch.random.fork_rng(devices=[]):
        runpy.run_path("block.py")
    out = capsys.readouterr().out
    assert [line.rstrip() for line in out.splitlines()] == [
        line.removeprefix("# ") for line in comments.splitlines()
    ]


def test_what_is_said_to_be_in_a_file_is_there():
    places = re.findall(r"`([\w/]+)\.py`\s\(([^)]*)\)", PROSE)
    assert len(places) >= len(SECTIONS)
    for file, names in places:
        for name in re.findall(r"`([\w.]+)`", names.partition(" with ")[0]):
            found = importlib.import_module(file.replace("/", "."))
            for part in name.split("."):
                found = getattr(found, part)


def test_sums_in_the_text_are_right():
    plain = " ".join(PROSE.replace("\\*", "*").split())
    sums = re.findall(r"(?<![\w.])([\d(][\d.*+/() -]*[*+/-][\d.*+/() -]*) = ([\d,.]*\d)", plain)
    assert len(sums) >= 5
    for left, right in sums:
        assert eval(left) == pytest.approx(float(right.replace(",", ""))), left
