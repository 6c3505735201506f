"""YAML without its surprises: what a file says is read strictly, and each key's line is known.

PyYAML reads YAML 1.1, in which 1e-3 is a text, `no` is false and 010 is 8, the last of two equal
keys wins, and aliases can make a small file huge. Here scalars are those of YAML 1.2's JSON schema,
with the spellings of its core schema but for octal and hexadecimal numbers (YAML 1.2.2, 10.2 and
10.3); repeated keys, aliases and tags (!!int 0x1F) are refused.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from nanocnn.system.errors import UserError

MAX_BYTES = 1_000_000  # of a file; a real config has a few hundred


class Loader(yaml.SafeLoader):
    """YAML 1.2's scalars (1e-3 is a number, `yes` and 010 are not), no aliases, no repeated
    keys.
    """

    yaml_implicit_resolvers: dict = {}  # noqa: RUF012  the base class has it so

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark
            raise yaml.MarkedYAMLError(problem="aliases (*name) are not allowed", problem_mark=mark)
        event = self.peek_event()
        if tag := getattr(event, "tag", None):
            written = tag.replace("tag:yaml.org,2002:", "!!")
            problem = (
                f"the tag {written} is not allowed; a value stands alone, a text in quotes if it "
                "looks like something else"
            )
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                problem = "a key should be a name"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
            if key.value in seen:
                problem = f"the key {key.value!r} stands twice"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


class Dumper(yaml.SafeDumper):
    """Puts quotes around a text that Loader would take for a number."""

    yaml_implicit_resolvers = Loader.yaml_implicit_resolvers


for tag, pattern, first in [
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?(0|[1-9][0-9]{0,307})", list("-+0123456789")),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+\.[0-9]*|[0-9]+(?=[eE]))([eE][-+]?[0-9]+)?",
        list("-+.0123456789"),
    ),
    ("float", r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", list("-+.")),
]:
    Loader.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(f"^(?:{pattern})$"), first)


def read_yaml(path: Path) -> tuple[Any, dict[tuple[str, ...], int]]:
    """`parse_yaml` of a file."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise UserError(f"{path}: larger than {MAX_BYTES:,} bytes, which no config is")
        return parse_yaml(content.decode(), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as UTF-8 text: {error}") from None


def parse_yaml(text: str, source: str) -> tuple[Any, dict[tuple[str, ...], int]]:
    """The value of a YAML document, and the line of each of its keys, counted from 1."""
    try:
        loader = Loader(text)
        node = loader.get_single_node()
        value = loader.construct_document(node) if node else None
        return value, dict(key_lines(node))
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise UserError(f"{source}{line}: {error.problem}") from None
    except (yaml.YAMLError, ValueError, KeyError, IndexError, RecursionError) as error:
        raise UserError(f"{source}: not a YAML document: {error}") from None


def key_lines(
    node: yaml.Node | None, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], int]]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield (*path, key.value), key.start_mark.line + 1
            yield from key_lines(value, (*path, key.value))


def inline(value: Any) -> str:
    """`value` as YAML on one line."""
    text = yaml.dump(value, Dumper=Dumper, default_flow_style=True, width=10**9, sort_keys=False)
    return text.strip().removesuffix("...").strip()
