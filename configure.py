"""From a YAML file and `key=value` to a checked config. Run by itself it writes configs/schema.json anew.

    config = load_config("mnist.yaml", ["optimizer.lr=0.05", "train.epochs=3"])

Unknown, repeated or mistyped keys, values out of range and keys that cannot act raise `UserError`, with the
place where they were written.
"""

import inspect
import json
import re
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import Field, ValidationError, create_model

from config import OWN_IMAGES, Config, Data, Network, dotted_items
from errors import UserError, did_you_mean
from strict_yaml import inline, parse_yaml, read_yaml

CONFIGS = Path(__file__).parent / "configs"


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read the YAML file at `path` (a bare name is also looked up in configs/), apply `overrides`."""
    path = find_config(path)
    values, lines = read_yaml(path)
    if not isinstance(values, dict):
        raise UserError(f"{path}: should hold lines of `key: value`, not {shown(values)}")
    places = {key: f"{path}, line {line}" for key, line in lines.items()}
    for override in overrides:
        apply_override(values, places, override)

    def place(key: tuple[str, ...]) -> str:
        while key and key not in places:
            key = key[:-1]
        return places.get(key, str(path))

    return config_from_dict(values, place)


def config_from_dict(
    values: dict[str, Any], place: Callable[[tuple[str, ...]], str] = lambda key: "config"
) -> Config:
    """Check nested `values` against the whole schema; `place` says where a key was written."""
    schema = Config
    try:
        schema.model_validate(values)  # at once, before the networks are imported with torch
        schema = full_schema(values.get("model", {}).get("name", ""))
        return schema.model_validate(values)
    except ValidationError as error:
        raise UserError(describe(error, schema, values, place)) from None
    except UserError as error:  # of a network that torchvision has not
        raise UserError(f"{place(('model', 'name'))}: {error}") from None


@cache
def full_schema(network: str) -> type[Config]:
    """`Config` with all data sets and networks: a network's keys are the arguments of its constructor.

    `network` is the one that the config asks for, since torchvision's are known by asking for them.
    """
    from dataset import DATASETS
    from model import MODELS, find_network

    dataset: Any = Literal[(*DATASETS, *OWN_IMAGES)]
    data = create_model("Data", __base__=Data, dataset=(dataset, Data().dataset))
    names = [*MODELS, network] if network.startswith("torchvision.") else list(MODELS)
    sections = {name: network_section(name, find_network(name)) for name in names}
    model: Any = Annotated[Union[tuple(sections.values())], Field(discriminator="name")]  # noqa: UP007
    default = sections[Config().model.name].model_validate({})
    return create_model("Config", __base__=Config, data=(data, data()), model=(model, default))


def network_section(name: str, network: Callable) -> type[Network]:
    """The keys of `model: {name: ...}`: what the constructor takes after image_shape and num_classes."""
    fields: dict[str, Any] = {"name": (Literal[name], name)}
    fixed = network.keywords if isinstance(network, partial) else {}
    for parameter in list(inspect.signature(network, eval_str=True).parameters.values())[2:]:
        if parameter.name in fixed or parameter.kind in (
            parameter.VAR_POSITIONAL,
            parameter.VAR_KEYWORD,
        ):
            continue
        required = parameter.default is parameter.empty
        annotation = parameter.annotation
        if annotation is parameter.empty:
            untyped = required or parameter.default is None
            annotation = Any if untyped else type(parameter.default)
        if tuple in (annotation, get_origin(annotation)):  # YAML has lists only
            annotation = Annotated[annotation, Field(strict=False)]
        fields[parameter.name] = (annotation, ... if required else parameter.default)
    return create_model(name, __base__=Network, **fields)


def json_schema() -> dict[str, Any]:
    """The JSON Schema of a config, by which editors complete and check YAML files (configs/schema.json)."""
    schema = full_schema("").model_json_schema()
    # A section without a name has the default's, so more than one variant may fit.
    stack: list[Any] = [schema]
    while stack:
        node = stack.pop()
        if isinstance(node, dict):
            node.pop("discriminator", None)
            if "oneOf" in node:
                node["anyOf"] = node.pop("oneOf")
            stack += node.values()
        elif isinstance(node, list):
            stack += node
    torchvision = {"type": "string", "pattern": r"^torchvision\."}
    schema["properties"]["model"]["anyOf"].append(
        {"type": "object", "properties": {"name": torchvision}, "required": ["name"]}
    )
    return schema


def find_config(path: str | Path) -> Path:
    try:
        for candidate in (Path(path), CONFIGS / path):
            if candidate.is_file():
                return candidate
    except OSError as error:  # such as a name that is too long
        raise UserError(f"{path}: {error.strerror}") from None
    known = sorted(file.stem for file in CONFIGS.glob("*.yaml"))
    raise UserError(f"{path}: no such config file{did_you_mean(Path(path).stem, known)}")


def apply_override(
    values: dict[str, Any], places: dict[tuple[str, ...], str], override: str
) -> None:
    """Set one `key=value` of the command line in nested `values`, and its place in `places`."""
    name, equals, text = override.partition("=")
    *sections, last = name.split(".")
    if not equals or not all([*sections, last]):
        raise UserError(f"{override!r}: an override is written key=value, such as train.epochs=3")
    target = values
    for depth, section in enumerate(sections, start=1):
        target = target.setdefault(section, {})
        if not isinstance(target, dict):
            raise UserError(f"{override!r}: {'.'.join(sections[:depth])} is a value, not a section")
    target[last], _ = parse_yaml(text, f"command line, {name}")
    key = (*sections, last)
    for depth in range(1, len(key)):
        places.setdefault(key[:depth], "command line")
    for replaced in [other for other in places if other[: len(key)] == key]:
        del places[replaced]
    places[key] = "command line"


# what went wrong, in one line


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
        dotted = ".".join(key)
        message = f"unknown key {dotted!r}"
        elsewhere = [other for other, _ in dotted_items(Config()) if other.endswith(f".{key[-1]}")]
        if elsewhere and dotted not in elsewhere:
            message += f"; did you mean {elsewhere[0]!r}?"
        else:
            message += did_you_mean(key[-1], known_keys(schema, key[:-1], values))
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
    else:
        message = f"{'.'.join(key)} = {shown(value)}: " + " or ".join(messages)
        message = message.replace("Input should", "should")
    return f"{place(key)}: {message}"


def shown(value: Any) -> str:
    text = inline(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def written(location: tuple[int | str, ...], values: Any) -> tuple[tuple[str, ...], Any]:
    """The key as the user wrote it, and its value: pydantic's locations also name types and variants."""
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


if __name__ == "__main__":
    (CONFIGS / "schema.json").write_text(json.dumps(json_schema(), indent=1) + "\n")
