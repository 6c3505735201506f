"""The config: every key with its type, range, default and one comment.

    config = load_config("mnist.yaml", ["optimizer.lr=0.05", "train.epochs=3"])
    print(to_yaml(config))

A YAML file and `key=value` overrides become one frozen `Config`, checked strictly: unknown, repeated or
mistyped keys, values out of range and keys that cannot act raise `UserError` and name the place.
"""

import inspect
import re
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model, model_validator

from errors import UserError, did_you_mean

CONFIGS = Path(__file__).parent / "configs"
MAX_BYTES = 1_000_000  # of a config file; a real one has a few hundred


class Section(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


class Named(Section):
    """A section whose `name` decides which other keys it takes."""

    model_config = ConfigDict(extra="allow")

    name: str

    def arguments(self) -> dict[str, Any]:
        """Every key but `name`."""
        return self.model_dump(exclude={"name"})


class Augment(Section):
    shift: int = Field(0, ge=0, description="pixels; each image moves by up to this, both ways")


class Data(Section):
    dataset: str = Field("digits", description="the data set's name")
    root: str = Field("data", description="folder where data sets live")
    image_size: int | None = Field(None, ge=1, description="pixels; null = the data set's own")
    limit: int | None = Field(None, ge=1, description="images of train to use at all; null = all")
    validation: int | float = Field(
        0.1, ge=0, description="images (int) or fraction (float) carved from train; 0 = none"
    )
    augment: Augment = Augment()

    @model_validator(mode="after")
    def check_validation(self) -> "Data":
        if isinstance(self.validation, float) and self.validation >= 1:
            raise ValueError(
                f"validation = {self.validation}: a fraction should be less than 1; "
                "a number of images is written without a point"
            )
        return self


class CrossEntropy(Section):
    name: Literal["cross_entropy"] = "cross_entropy"
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="share spread over all classes")


class SGD(Section):
    name: Literal["sgd"] = "sgd"
    lr: float = Field(0.1, gt=0, description="peak learning rate")
    momentum: float = Field(0.9, ge=0, lt=1, description="share of the last update kept")
    nesterov: bool = Field(False, description="look-ahead momentum")
    weight_decay: float = Field(0.0, ge=0, description="L2 penalty, on every parameter")

    @model_validator(mode="after")
    def check_nesterov(self) -> "SGD":
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov = true cannot act with momentum = 0")
        return self


class OneCycle(Section):
    name: Literal["one_cycle"] = "one_cycle"
    warmup: float = Field(0.2, ge=0, lt=1, description="share of all steps; then linear to zero")


class Constant(Section):
    name: Literal["constant"] = "constant"


class Train(Section):
    epochs: int = Field(10, ge=1, description="passes over the training images")
    batch_size: int = Field(128, ge=1, description="images in a step")


class Log(Section):
    every: int = Field(50, ge=1, description="steps between two points of the training curves")


class Config(Section):
    name: str = Field("run", pattern=r"^[\w.-]*\w[\w.-]*$", description="runs go to runs/<name>/")
    seed: int = Field(0, ge=0, lt=2**63, description="of weights, split, order, augmentation")
    device: Literal["auto", "cpu", "cuda", "mps"] = Field(
        "auto", description="auto = the fastest here"
    )
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="auto = bf16 where the device multiplies it natively, else fp32"
    )
    data: Data = Data()
    model: Named = Named(name="lenet")
    loss: CrossEntropy = CrossEntropy()
    optimizer: SGD = SGD()
    schedule: OneCycle | Constant = Field(OneCycle(), discriminator="name")
    train: Train = Train()
    log: Log = Log()

    @model_validator(mode="before")
    @classmethod
    def fill_names(cls, values: dict[str, Any]) -> dict[str, Any]:
        """`schedule.warmup=0.1` means the default schedule: a section without a name has the default's."""
        for key, field in cls.model_fields.items():
            section = values.get(key)
            if isinstance(section, dict) and hasattr(field.default, "name"):
                values = values | {key: {"name": field.default.name} | section}
        return values


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read the YAML file at `path` (a bare name is also looked up in configs/), apply `overrides`."""
    path = find_config(path)
    values, lines = parse_yaml(read_text(path), str(path))
    if not isinstance(values, dict):
        raise UserError(f"{path}: should hold lines of `key: value`, not {inline(values)}")
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
        schema = full_schema()
        return schema.model_validate(values)
    except ValidationError as error:
        raise UserError(describe(error, schema, values, place)) from None


@cache
def full_schema() -> type[Config]:
    """`Config` with the data sets and networks of this project: a network's keys are its constructor's."""
    from dataset import DATASETS
    from model import MODELS

    dataset: Any = Literal[tuple(DATASETS)]
    data = create_model("Data", __base__=Data, dataset=(dataset, Data().dataset))
    sections = {name: network_section(name, network) for name, network in MODELS.items()}
    default = sections[Config().model.name]
    network: Any = default
    if len(sections) > 1:  # as a discriminator demands
        network = Annotated[Union[tuple(sections.values())], Field(discriminator="name")]  # noqa: UP007
    model = (network, default.model_validate({}))
    return create_model("Config", __base__=Config, data=(data, data()), model=model)


class Network(Named):
    model_config = ConfigDict(extra="forbid")


def network_section(name: str, network: Callable) -> type[Network]:
    """The keys of `model: {name: ...}`: what the constructor takes after image_shape and num_classes."""
    fields: dict[str, Any] = {"name": (Literal[name], name)}
    for parameter in list(inspect.signature(network, eval_str=True).parameters.values())[2:]:
        required = parameter.default is parameter.empty
        annotation = parameter.annotation
        if annotation is parameter.empty:
            annotation = Any if required else type(parameter.default)
        fields[parameter.name] = (annotation, ... if required else parameter.default)
    return create_model(name, __base__=Network, **fields)


# reading YAML


class Loader(yaml.SafeLoader):
    """YAML 1.2's scalars (1e-3 is a number, `yes` and 010 are not), no aliases, no repeated keys."""

    yaml_implicit_resolvers: ClassVar[dict] = {}

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark
            raise yaml.MarkedYAMLError(problem="aliases (*name) are not allowed", problem_mark=mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen = set()
        for key, _ in node.value:
            if key.value in seen:
                problem = f"the key {key.value!r} stands twice"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


class Dumper(yaml.SafeDumper):
    yaml_implicit_resolvers = (
        Loader.yaml_implicit_resolvers
    )  # so that a text like "1e-3" gets quotes


for tag, pattern, first in [
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?(0|[1-9][0-9]*)", list("-+0123456789")),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+\.[0-9]*|[0-9]+(?=[eE]))([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
]:
    Loader.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(f"^(?:{pattern})$"), first)


def find_config(path: str | Path) -> Path:
    for candidate in (Path(path), CONFIGS / path):
        if candidate.is_file():
            return candidate
    known = sorted(file.name for file in CONFIGS.glob("*.yaml"))
    raise UserError(f"{path}: no such config file; {did_you_mean(str(path), known)}")


def read_text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise UserError(f"{path}: larger than {MAX_BYTES:,} bytes, which no config is")
        return content.decode()
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
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"{source}: not a YAML document: {error}") from None


def key_lines(
    node: yaml.Node | None, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], int]]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield (*path, key.value), key.start_mark.line + 1
            yield from key_lines(value, (*path, key.value))


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
    places[(*sections, last)] = "command line"


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
    kind, message = complaint["type"], complaint["msg"].replace("Input should", "should")
    if kind == "value_error":  # of a validator above, whose message begins with its own key
        message = message.removeprefix("Value error, ")
        key = (*key, message.split()[0])
        message = ".".join(key[:-1]) + "." + message
    elif kind == "extra_forbidden":
        message = f"unknown key {'.'.join(key)!r}; {did_you_mean(key[-1], known_keys(schema, key[:-1], values))}"
    elif kind in ("literal_error", "union_tag_invalid"):
        allowed = complaint["ctx"].get("expected") or complaint["ctx"]["expected_tags"]
        if kind == "union_tag_invalid":
            key, value = (*key, "name"), value["name"]
        message = f"{'.'.join(key)} = {inline(value)} is unknown; "
        message += did_you_mean(str(value), re.findall(r"'([^']*)'", allowed))
    elif kind in ("model_type", "model_attributes_type"):
        message = f"{'.'.join(key)} = {inline(value)}: should be a section, written {{key: value}}"
    else:
        message = f"{'.'.join(key)} = {inline(value)}: {message}"
    return f"{place(key)}: {message}"


def written(location: tuple[int | str, ...], values: Any) -> tuple[tuple[str, ...], Any]:
    """The key as the user wrote it, and its value: pydantic's locations also name types and variants."""
    key: tuple[str, ...] = ()
    for part in location:
        if isinstance(values, dict) and part in values:
            key, values = (*key, str(part)), values[part]
    return key, values


def known_keys(schema: Any, key: tuple[str, ...], values: dict[str, Any]) -> list[str]:
    """The keys that the section `key` takes, given the name that `values` has there."""
    for part in key:
        annotation, values = schema.model_fields[part].annotation, values[part]
        variants = get_args(annotation) or (annotation,)
        named = [
            v
            for v in variants
            if "name" in v.model_fields and v.model_fields["name"].default == values.get("name")
        ]
        schema = (named or variants)[0]
    return list(schema.model_fields)


# writing YAML


def inline(value: Any) -> str:
    """`value` as YAML on one line, cut where it is very long."""
    text = yaml.dump(
        value, Dumper=Dumper, default_flow_style=True, width=1_000_000, sort_keys=False
    )
    text = text.strip().removesuffix("...").strip()
    return text if len(text) <= 80 else text[:77] + "..."


def to_yaml(section: Section, indent: str = "") -> str:
    """Every key of `section` with its value and comment, as YAML that `load_config` reads back."""
    lines = []
    for key, value in section:
        field = type(section).model_fields[key]
        if isinstance(value, Section):
            lines.append(f"{indent}{key}:\n{to_yaml(value, indent + '  ')}")
            continue
        plain = section.model_dump(mode="json")[key]
        line = f"{indent}{key}: {inline(plain)}"
        allowed = (
            " | ".join(get_args(field.annotation))
            if get_origin(field.annotation) is Literal
            else ""
        )
        comment = ": ".join(filter(None, [allowed if allowed != value else "", field.description]))
        lines.append(f"{line:<30}# {comment}\n" if comment else f"{line}\n")
    return "".join(lines)
