"""The pages say what is so: commands on them are understood, tables and blocks are the code's."""

import inspect
import json
import re
import runpy
import shlex
import tomllib
from fnmatch import fnmatch
from typing import get_args

import pytest
import torch
from conftest import NETWORKS, PROJECT, SCRIPTS, load_config, train
from PIL import Image
from torch import Tensor, nn

import nanocnn
from model import MODELS
from nanocnn.commands.main import VERBS
from nanocnn.config import load
from nanocnn.config.schema import Augment, Config, Optimizer, Schedule, to_yaml
from nanocnn.config.strict_yaml import parse_yaml
from nanocnn.images import cache
from nanocnn.images.sets import DATASETS
from nanocnn.networks.build import catalogue
from nanocnn.networks.sizes import ImageShape
from nanocnn.networks.table import layer_table
from nanocnn.networks.timm import Timm
from nanocnn.networks.torchvision import Torchvision
from nanocnn.run import restore as restoring

pytestmark = pytest.mark.slow
DOCS = sorted((PROJECT / "docs").glob("*.md"))
PAGES = {
    str(path.relative_to(PROJECT)): path.read_text()
    for path in [
        *(PROJECT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
        *DOCS,
        *(PROJECT / name / "README.md" for name in ("data", "runs", "benchmarks")),
    ]
}
PRESENT = {name: text for name, text in PAGES.items() if name != "CHANGELOG.md"}  # not of the past
WRITTEN = ["README.md", "docs/networks.md"]  # whose Python blocks are run here
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def prose(text):
    """A page without its fenced blocks."""
    return BLOCK.sub("", text)


def blocks(name, language):
    return [content for kind, content in BLOCK.findall(PAGES[name]) if kind == language]


def sections(text):
    """What stands under each heading of the second level."""
    _, *parts = re.split(r"^## (.+)\n", text, flags=re.MULTILINE)
    return dict(zip(parts[::2], parts[1::2], strict=True))


def table(text):
    """The cells of the first table in `text`, its head included and its rule not."""
    rows = re.search(r"(?:^\|.*\n)+", text, re.MULTILINE)[0].splitlines()
    return [[cell.strip() for cell in row.split("|")[1:-1]] for row in (rows[0], *rows[2:])]


def codes(text):
    """What stands in backticks, one by one: `a, b` and `c` are three."""
    return [part for span in re.findall(r"`([^`]+)`", prose(text)) for part in span.split(", ")]


def slugs(text):
    """The anchors that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", prose(text), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", each).lower().replace(" ", "-") for each in headings}


def command_lines(text):
    """The command lines of a page: in indented lines, in blocks of plain text, and in backticks."""
    lines = re.findall(r"^ {4}(\S.*)$", prose(text), re.MULTILINE)
    for kind, content in BLOCK.findall(text):
        if kind in ("", "text"):
            lines += [line.removeprefix("$ ") for line in content.splitlines()]
    lines += [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose(text))]
    for line in lines:
        for command in line.split(" && "):
            if re.match(r"(python|nanocnn)( |$)", command) and "VERB" not in command:
                yield command


COMMANDS = sorted(
    {(name, command) for name, text in PRESENT.items() for command in command_lines(text)}
)
REFUSED = [
    pair
    for name in PRESENT
    for block in blocks(name, "console")
    for pair in re.findall(r"^\$ (.+)\n([^$]*)", block, re.MULTILINE)
]
YAML_BLOCKS = [(name, block) for name in PRESENT for block in blocks(name, "yaml")]
PYTHON_BLOCKS = [(name, block) for name in WRITTEN for block in blocks(name, "python")]


def run_block(folder, block):
    """The names that a block of Python makes, with what the pages take as given."""
    given = {"nn": nn, "Tensor": Tensor, "ImageShape": ImageShape}
    (folder / "block.py").write_text(block)
    images = torch.zeros(2, 1, 56, 84)
    return runpy.run_path(str(folder / "block.py"), given | {"images": images})


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    """Those of model.py, and the one that a page adds to it."""
    block = next(block for _, block in PYTHON_BLOCKS if block.startswith("class Tiny"))
    names = run_block(tmp_path_factory.mktemp("block"), block)
    return catalogue({**MODELS, "tiny": names["Tiny"]})


@pytest.fixture(scope="module")
def small_run(tmp_path_factory):
    """A folder in which runs/mine is a run."""
    folder = tmp_path_factory.mktemp("documented")
    options = ["data.limit=80", "data.validation=20", "train.epochs=2"]
    train(load_config("digits.yaml", options), folder / "runs" / "mine")
    for name in ("photo.jpg", "other.png"):
        Image.new("L", (20, 30), 99).save(folder / name)
    return folder


class Understood(Exception):
    """A command line was read, and the work would begin."""


def understand(words):
    """Let a command read its command line; the config and the overrides that it would load, if
    any.
    """
    program, *arguments = words[1:] if words[0] == "python" else words
    if program == "-m":
        program, *arguments = arguments

    def stop(*found):
        raise Understood(*found)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(load, "read_draft", stop)
        patch.setattr(load, "config_of", lambda run_dir: "digits.yaml")
        patch.setattr(restoring, "find_checkpoints", stop)
        patch.setattr(restoring, "find_checkpoint", stop)
        patch.setattr(cache, "caches_in", stop)
        try:
            SCRIPTS[program](arguments)
        except Understood as found:
            return found.args if len(found.args) == 2 else None
        except SystemExit as end:  # --help
            assert end.code == 0
        return None


@pytest.mark.parametrize(("page", "command"), COMMANDS)
def test_each_command_line_is_understood(page, command, networks):
    words = shlex.split(command, comments=True)
    if words[:2] == ["python", "-m"] and words[2].startswith("benchmarks."):
        source = (PROJECT / f"{words[2].replace('.', '/')}.py").read_text()
        assert all(f'"{word}"' in source for word in words[3:] if word.startswith("--"))
    elif words[0] == "nanocnn" and len(words) == 2:  # is spoken of
        assert words[1] in VERBS or words[1].startswith("--")
    elif words[:3] == ["python", "-m", "nanocnn.commands.schema"]:
        assert (PROJECT / "nanocnn" / "commands" / "schema.py").exists()
    elif words[:3] == ["python", "-m", "http.server"]:
        return  # Python's own
    elif found := understand(words):
        path, overrides = found
        load.load_config(path, overrides, networks=networks)


def test_commands_are_found_and_misspelt_ones_are_not_understood(networks):
    assert len(COMMANDS) > 50 and len(REFUSED) >= 3 and len(YAML_BLOCKS) >= 4
    with pytest.raises(nanocnn.UserError, match="--dryrun"):
        understand(["python", "train.py", "--dryrun"])
    with pytest.raises(nanocnn.UserError, match="no such verb"):
        understand(["nanocnn", "find_lr"])
    path, overrides = understand(["python", "train.py", "--config", "mnist.yaml", "train.epoch=3"])
    with pytest.raises(nanocnn.UserError, match="unknown key"):
        load.load_config(path, overrides, networks=networks)


@pytest.mark.parametrize(("command", "answer"), REFUSED)
def test_a_refusal_is_as_the_pages_show_it(script, command, answer):
    _, name, *arguments = shlex.split(command)
    result = script(name, *arguments)
    assert (result.code, result.out, result.error) == (2, "", answer)


@pytest.mark.parametrize(("page", "block"), YAML_BLOCKS)
def test_each_block_of_yaml_is_a_piece_of_a_config(tmp_path, page, block):
    values, _ = parse_yaml(block, page)
    load_config("digits.yaml", [f"{key}={json.dumps(value)}" for key, value in values.items()])
    (tmp_path / "piece.yaml").write_text(block)
    load_config(tmp_path / "piece.yaml")


@pytest.mark.parametrize(("page", "block"), PYTHON_BLOCKS)
def test_each_block_of_python_runs(small_run, monkeypatch, page, block):
    monkeypatch.chdir(small_run)
    names = run_block(small_run, block)
    if "scores" in names:
        assert names["scores"].shape == (2, 10, 8, 15)


def test_the_whole_config_is_shown_as_it_is():
    assert to_yaml(load_config("mnist.yaml")) in blocks("docs/config.md", "yaml")


def test_the_layer_table_is_shown_as_it_is(script):
    shown = script("model.py", "--config", "mnist.yaml").out
    assert shown in blocks("docs/networks.md", "")
    assert layer_table(MODELS["lenet"]((1, 28, 28), 10), (1, 28, 28)) in shown


def test_the_first_page_is_short():
    assert len((PROJECT / "README.md").read_bytes()) <= 8192


def test_the_first_page_shows_what_a_run_says(script):
    shown = next(block for block in blocks("README.md", "") if block.startswith("digits:"))
    result = script("train.py", "--dry-run")
    assert result.code == 0, result.error
    assert shown.splitlines()[:5] == result.out.splitlines()[:5]
    assert re.fullmatch(
        r"\w+, \d+ threads, \w+; writing to runs/digits/[\d_-]+", shown.split("\n")[5]
    )
    assert shown.splitlines()[-1].startswith("next: python test.py --ckpt runs/digits/")


def test_the_first_page_says_how_to_install_and_test():
    pyproject = tomllib.loads((PROJECT / "pyproject.toml").read_text())
    oldest = pyproject["project"]["requires-python"].removeprefix(">=")
    assert f"Python {oldest} or newer" in PAGES["README.md"]
    assert f"Python {oldest} or newer" in PAGES["CONTRIBUTING.md"]
    tests = sections(PAGES["README.md"])["Tests"].splitlines()[1].strip()
    assert tests in (PROJECT / ".ci" / "run").read_text().replace(" --quiet", "").splitlines()


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)\s#]*)(?:#([^)\s]*))?\)", prose(PAGES[page]))
    for target, anchor in links:
        if target.startswith("https://"):
            continue
        path = (PROJECT / page).parent / target if target else PROJECT / page
        assert path.exists(), f"{page}: {target}"
        if anchor:
            assert anchor in slugs(path.read_text()), f"{page}: {target}#{anchor}"


@pytest.mark.parametrize("page", PRESENT)
def test_files_that_are_named_are_there(page):
    named = re.findall(r"`((?:nanocnn|configs|docs|tests|benchmarks)/[\w./-]+)`", PAGES[page])
    missing = [name for name in named if not (PROJECT / name).exists()]
    assert not missing


def test_every_page_is_in_both_indexes():
    for path in DOCS:
        assert path.name == "README.md" or f"({path.name})" in PAGES["docs/README.md"]
        assert path.name == "README.md" or f"(docs/{path.name})" in PAGES["README.md"]


@pytest.mark.parametrize("page", [page for page in PAGES if "/" not in page or "docs/" in page])
def test_pages_are_easy_to_read(page):
    lines = prose(PAGES[page]).splitlines()
    assert not [line for line in lines if len(line) > 120 and not line.startswith("|")]
    assert not re.search(r"(?<![\w.])/(home|work|root|Users)/", PAGES[page])  # of one machine


def test_the_rooms_are_all_there_and_in_order():
    rooms = [
        codes(row[0])[0] for row in table(sections(PAGES["README.md"])["What to read next"])[1:]
    ]
    packages = {path.parent.name for path in (PROJECT / "nanocnn").glob("*/__init__.py")}
    assert {f"nanocnn/{name}" for name in packages} == set(rooms)
    order = re.search(r"^system <.*$", PAGES["CONTRIBUTING.md"], re.MULTILINE)[0]
    assert [f"nanocnn/{name}" for name in re.findall(r"\w+", order)] == rooms


def test_the_library_is_named_in_full():
    library = sections(PAGES["README.md"])["As a library"]
    assert not [name for name in nanocnn.__all__ if not re.search(rf"\b{name}\b", library)]


def test_the_data_sets_are_named():
    names = codes(PAGES["README.md"])
    assert not [name for name in DATASETS if name != "digits" and name not in names]


def options_of(command, capsys):
    """The options of a command and the values that they may take, as its --help has them."""
    program, *verb = command.split()
    with pytest.raises(SystemExit):
        SCRIPTS[program]([*verb, "--help"])
    text = capsys.readouterr().out.partition("\noptions:")[2]
    options = set(re.findall(r"^ +(?:-\w, )?(--[\w-]+)", text, re.MULTILINE)) - {"--help"}
    return options, {
        value for values in re.findall(r"\{([\w,]+)\}", text) for value in values.split(",")
    }


@pytest.mark.parametrize(
    "command", ["train.py", "test.py", "model.py", *(f"nanocnn {verb}" for verb in VERBS)]
)
def test_every_option_is_explained(command, capsys):
    options, values = options_of(command, capsys)
    assert options
    section = sections(PAGES["docs/commands.md"])[command]
    words = {word for span in codes(section) for word in span.split()}
    assert options <= words and values <= words
    if "| option |" in section:
        listed = {codes(row[0])[0].split()[0] for row in table(section)[1:]}
        assert listed == options


def test_every_verb_is_in_the_list_of_commands():
    listed = " ".join(row[0] for row in table(PAGES["docs/commands.md"]))
    assert not [verb for verb in VERBS if f"`nanocnn {verb}`" not in listed]


def keys_by_name(key, common):
    """What each variant of a section takes beyond the `common` keys."""
    variants = get_args(Config.model_fields[key].annotation)
    return {
        variant.model_fields["name"].default: set(variant.model_fields) - set(common)
        for variant in variants
    }


@pytest.mark.parametrize(
    ("heading", "key", "common"),
    [
        ("Optimizers", "optimizer", Optimizer.model_fields),
        ("Schedules", "schedule", Schedule.model_fields),
        ("Losses", "loss", ["name"]),
    ],
)
def test_names_and_their_keys_are_those_of_the_schema(heading, key, common):
    head, *rows = table(sections(PAGES["docs/config.md"])[heading])
    assert {name: set(codes(row[-1])) for row in rows for name in codes(row[0])} == keys_by_name(
        key, common
    )
    assert {"name", *codes(head[-1])} == set(common)


def test_augmentation_is_explained_key_by_key():
    rows = table(sections(PAGES["docs/config.md"])["Augmentation"])[1:]
    assert sorted(key for row in rows for key in codes(row[0])) == sorted(Augment.model_fields)


def test_networks_and_their_keys_are_those_of_the_code():
    listed = {
        name: set(codes(row[1]))
        for row in table(PAGES["docs/networks.md"])[1:]
        for name in codes(row[0])
    }
    published = {"torchvision.NAME": Torchvision, "timm.NAME": Timm}
    assert set(listed) == {*NETWORKS.names, *published}
    for name in set(listed) - {"convnet", *published}:
        assert listed[name] == {key.name for key in NETWORKS.keys(name)}, name
    fixed = {"image_shape", "num_classes", "architecture"}
    for name, network in published.items():
        assert listed[name] == set(inspect.signature(network).parameters) - fixed
    convnet = sections(PAGES["docs/networks.md"])["convnet"]
    assert not [
        key.name for key in NETWORKS.keys("convnet") if not re.search(rf"\b{key.name}\b", convnet)
    ]


@pytest.mark.parametrize(
    ("page", "heading"), [("README.md", "Results"), ("docs/networks.md", "What they reach")]
)
def test_results_are_those_that_the_configs_state(page, heading):
    for command, epochs, accuracy, _, seconds in table(sections(PAGES[page])[heading])[1:]:
        name, _ = understand(shlex.split(command.strip("`")))
        stated = (PROJECT / "configs" / name).read_text()
        assert f"# {command.strip('`')}\n" in stated
        assert f"# {accuracy} test accuracy" in stated and f", {seconds} s" in stated, name
        assert load_config(name).train.epochs == int(epochs), name


def test_a_run_folder_and_a_report_hold_what_is_said_of_them(small_run, script):
    rows = {
        name: row[1] for row in table(PAGES["runs/README.md"])[1:] for name in row[0].split(", ")
    }
    run = small_run / "runs" / "mine"
    result = script("test.py", "--ckpt", run, "--report")
    assert result.code == 0, result.error
    held = [path.name for path in run.iterdir()]
    assert not [name for name in held if not any(fnmatch(name, pattern) for pattern in rows)]
    absent = {pattern for pattern in rows if not any(fnmatch(name, pattern) for name in held)}
    assert absent <= {
        "unreadable.txt",
        "origin_hashes.txt",
        ".lock",
        "look",
        "page",
        "00000",
        "projector_config.pbtxt",
    }
    metrics = json.loads((run / "metrics.jsonl").read_text().splitlines()[0])
    assert rows["metrics.jsonl"] == f"a line an epoch: {', '.join(metrics)}"

    section = sections(PAGES["docs/commands.md"])["test.py"]
    keys = {key for row in table(section[section.index("| key |") :])[1:] for key in codes(row[0])}
    report = json.loads((run / "test.json").read_text())
    assert set(report) == keys
    per_class = next(line for line in section.splitlines() if line.startswith("| `per_class`"))
    assert set(report["per_class"][0]) == set(codes(per_class)) - {"per_class"}
