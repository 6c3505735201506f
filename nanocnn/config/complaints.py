"""What is wrong with a config, in one line: pydantic's findings in this project's words."""

import re
from collections.abc import Callable
from difflib import get_close_matches
from typing import Any, get_args

from pydantic import ValidationError

from nanocnn.config.hints import meant_keys, reason_without
from nanocnn.config.schema import Config
from nanocnn.config.strict_yaml import inline
from nanocnn.system.errors import did_you_mean


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
        key = tuple(message.split()[0].split("."))
    elif kind == "extra_forbidden":
        message = unknown_key(key, known_keys(schema, key[:-1], values))
        named = (*key[:-1], "name")
        if place(named) == "command line" != place(key):  # the name is new, the key is not
            section = values[key[0]]["name"] if len(key) == 2 else "NAME"
            message += f"; {key[0]}={section} begins this section anew"
    elif kind == "missing":
        message = f"{'.'.join(key)} needs the key {complaint['loc'][-1]!r}"
    elif kind in ("literal_error", "union_tag_invalid") and len(messages) == 1:
        allowed = complaint["ctx"].get("expected") or complaint["ctx"]["expected_tags"]
        if kind == "union_tag_invalid":
            key, value = (*key, "name"), value["name"]
        message = f"{'.'.join(key)} = {shown(value)} is unknown"
        message += did_you_mean(str(value), re.findall(r"'([^']*)'", allowed) or [allowed])
    elif kind in ("model_type", "model_attributes_type"):
        message = f"{'.'.join(key)} = {shown(value)}: should be a section, written {{key: value}}"
        if isinstance(value, str) and key == ("data",):
            message += f"; did you mean data.dataset={value} or data.root={value}?"
    else:
        message = f"{'.'.join(key)} = {shown(value)}: " + " or ".join(messages)
        message = message.replace("Input should", "should")
    return f"{place(key)}: {message}"


def unknown_key(key: tuple[str, ...], known: list[str]) -> str:
    """That there is no such key beside the `known` ones, and which one may be meant."""
    dotted = ".".join(key)
    message = f"unknown key {dotted!r}"
    if why := reason_without(dotted):
        return f"{message}: {why}"
    elsewhere = meant_keys(dotted)
    if not elsewhere and not get_close_matches(key[-1], known, 1):
        elsewhere = meant_keys(dotted, guess=True)
    if elsewhere and dotted not in elsewhere:
        return f"{message}; did you mean {' or '.join(map(repr, elsewhere))}?"
    return message + did_you_mean(key[-1], known)


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


def known_keys(schema: Any, key: tuple[str, ...], values: dict[str, Any]) -> list[str]:
    """The keys that the section `key` takes, given the name that `values` has there."""
    for part in key:
        if isinstance(values, list):  # its sections are all of one kind
            values = values[int(part)]
            continue
        annotation, values = schema.model_fields[part].annotation, values[part]
        variants = get_args(annotation) or (annotation,)
        name = values.get("name") if isinstance(values, dict) else None
        named = [
            variant
            for variant in variants
            if "name" in variant.model_fields and variant.model_fields["name"].default == name
        ]
        schema = (named or variants)[0]
    return list(schema.model_fields)
