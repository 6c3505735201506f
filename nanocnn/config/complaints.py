"""What is wrong with a config, in one line: pydantic's findings in this project's words."""

import re
import shlex
from collections.abc import Callable
from difflib import get_close_matches
from typing import Any, get_args

from pydantic import ValidationError

from nanocnn.config.schema import Config
from nanocnn.config.spelling import (
    all_keys,
    assignments,
    example_of,
    meant_keys,
    meant_value,
    missing_names,
    reason_without,
)
from nanocnn.config.strict_yaml import inline
from nanocnn.system.errors import did_you_mean

# texts that a pattern describes, by one of them
TEXTS = {("train", "checkpoint_every"): "60s", ("data", "memory_limit"): "500MB"}


def describe(
    error: ValidationError,
    schema: type[Config],
    values: dict[str, Any],
    place: Callable[[tuple[str, ...]], str],
) -> str:
    """The first of pydantic's complaints, in this project's words."""
    complaint = error.errors()[0]
    key, value = written(complaint["loc"], values)
    kind = complaint["type"]
    # one for each type that the key may have
    messages = [each["msg"] for each in error.errors() if written(each["loc"], values)[0] == key]
    if kind == "value_error":  # of a validator above, whose message begins with its own key
        message = "".join(f"{part}." for part in key)
        message += complaint["msg"].removeprefix("Value error, ")
        key = tuple(message.split()[0].rstrip(":").split("."))
    elif kind == "extra_forbidden":
        *section, _ = key
        name = value_at(values, (*section, "name"))
        if name and place((*section, "name")) == "command line" != place(key):
            # the name is new, the key is not
            message = f"unknown key {'.'.join(key)!r} of {name}; "
            message += f"{'.'.join(section)}={name} begins this section anew"
        else:
            message = unknown_key(key, known_keys(schema, key[:-1], values), values)
    elif kind == "missing":
        message = f"{'.'.join(key)} needs the key {complaint['loc'][-1]!r}"
    elif kind in ("literal_error", "union_tag_invalid") and len(messages) == 1:
        allowed = complaint["ctx"].get("expected") or complaint["ctx"]["expected_tags"]
        if kind == "union_tag_invalid":
            key, value = (*key, "name"), value["name"]
        message = f"{'.'.join(key)} = {shown(value)} is unknown"
        known = re.findall(r"'([^']*)'", allowed) or [allowed]
        dotted = ".".join(key).removesuffix(".name")
        message += did_you_mean(meant_value(dotted, str(value)) or str(value), known)
    elif kind in ("model_type", "model_attributes_type"):
        message = f"{'.'.join(key)} = {shown(value)}: should be a section, such as "
        message += section_for(key, value, place(key) == "command line")
    else:
        if key in TEXTS:  # of which pydantic shows the pattern
            messages = [each for each in messages if "pattern" not in each and "string" not in each]
            messages.append(f"a text such as {TEXTS[key]}")
        message = f"{'.'.join(key)} = {shown(value)}: " + " or ".join(messages)
        message = re.sub("(Input|List) should", "should", message).replace(" after validation", "")
    return f"{place(key)}: {message}"


def section_for(key: tuple[str, ...], value: Any, is_typed: bool) -> str:
    """An example of the section `key`, as it is typed or as it stands in YAML, by its `value`."""
    dotted = ".".join(key)
    if key[-1].isdecimal():  # in the one list of sections, optimizer.groups
        return "{match: '*.bias'}"
    if dotted == "data" and isinstance(value, str):
        text = meant_value("data.dataset", value)
        own = {"dataset": text} if text else {"dataset": "folder", "root": value}
        pairs = [f"data.{name}={each}" for name, each in own.items()]
        return " ".join(map(shlex.quote, pairs)) if is_typed else inline(own)
    if hasattr(value_at(Config().model_dump(), key), "keys") and (section := sample(key)):
        name, example = section
        return assignments([f"{dotted}.{name}"], example) if is_typed else f"{{{name}: {example}}}"
    text = (isinstance(value, str) and meant_value(dotted, value)) or example_of(dotted)
    return f"{dotted}={text}" if is_typed else f"{{name: {text}}}"


def sample(key: tuple[str, ...]) -> tuple[str, str] | None:
    """The first key of a section without a name, and a value of it; None if it has a name."""
    first = next(iter(value_at(Config().model_dump(), key)))
    return None if first == "name" else (first, example_of(".".join((*key, first))))


def unknown_key(key: tuple[str, ...], known: list[str], values: dict[str, Any]) -> str:
    """That there is no such key beside the `known` ones, and which one may be meant."""
    dotted = ".".join(key)
    if (below := key_below(value_at(values, key))) and (found := moved(dotted, below)):
        return f"unknown key {dotted!r}; did you mean {' or '.join(map(repr, found))}?"
    message = f"unknown key {dotted!r}"
    if why := reason_without(dotted):
        return f"{message}: {why}"
    elsewhere = meant_keys(dotted)
    if not elsewhere and not get_close_matches(key[-1], known, 1):
        elsewhere = meant_keys(dotted, guess=True)
    names = {name: each["name"] for name, each in values.items() if has_name(each)}
    if other := missing_names(dotted, names) if dotted in elsewhere else []:
        message += f" of {names.get(key[0], 'the default')}, which {other[0]} takes"
        return message + did_you_mean(key[-1], known)
    if elsewhere and dotted not in elsewhere:
        ready = [each for each in elsewhere if not missing_names(each, names)]
        meant = [
            " with ".join([repr(each), *missing_names(each, names)]) for each in ready or elsewhere
        ]
        return f"{message}; did you mean {' or '.join(meant)}?"
    return message + did_you_mean(key[-1], known, ".".join((*key[:-1], "")))


def key_below(value: Any) -> str:
    """The first key in a section `value`, with those of sections in it; empty if it is none."""
    if not isinstance(value, dict) or not value:
        return ""
    name = next(iter(value))
    return ".".join(filter(None, (str(name), key_below(value[name]))))


def moved(section: str, below: str) -> list[str]:
    """The keys that `below` may be where there is no such `section`, as in augment.flip."""
    if not section.isidentifier():
        return []
    found = [f"{each}.{below}" for each in meant_keys(section)]
    return [each for each in found if each in all_keys()] or (
        [] if below == "name" else meant_keys(f"{section}.{below}")
    )


def has_name(section: Any) -> bool:
    return isinstance(section, dict) and isinstance(section.get("name"), str)


def value_at(values: Any, key: tuple[str, ...]) -> Any:
    """The value of `key` in nested `values`; None where there is none."""
    for part in key:
        if isinstance(values, list) and part.isdecimal() and int(part) < len(values):
            values = values[int(part)]
        else:
            values = values.get(part) if isinstance(values, dict) else None
    return values


def shown(value: Any) -> str:
    text = inline(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def written(location: tuple[int | str, ...], values: Any) -> tuple[tuple[str, ...], Any]:
    """The key as the user wrote it, and its value: pydantic's locations also name types and
    variants.
    """
    key: tuple[str, ...] = ()
    for part in location:
        if isinstance(values, list):
            is_key = isinstance(part, int)
        else:
            is_key = isinstance(values, dict) and part in values
        if is_key:
            key, values = (*key, str(part)), values[part]
    return key, values


def all_types(annotation: Any) -> list[Any]:
    """The types that a union comes to, or the one that is no union."""
    parts = get_args(annotation)
    return [each for part in parts for each in all_types(part)] if parts else [annotation]


def known_keys(schema: Any, key: tuple[str, ...], values: dict[str, Any]) -> list[str]:
    """The keys that the section `key` takes, given the name that `values` has there."""
    for part in key:
        if isinstance(values, list):  # its sections are all of one kind
            values = values[int(part)]
            continue
        annotation, values = schema.model_fields[part].annotation, values[part]
        variants = [each for each in all_types(annotation) if hasattr(each, "model_fields")]
        name = values.get("name") if isinstance(values, dict) else None
        named = [
            variant
            for variant in variants
            if "name" in variant.model_fields and variant.model_fields["name"].default == name
        ]
        schema = (named or variants)[0]
    return list(schema.model_fields)
