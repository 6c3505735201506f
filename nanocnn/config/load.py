"""From a YAML file and `key=value` to a checked config.

    config = load_config("mnist.yaml", ["optimizer.lr=0.05", "train.epochs=3"], networks=NETWORKS)

Unknown, repeated or mistyped keys, values out of range and keys that cannot act raise `UserError`,
with the place where they were written. What only the networks know, their names and keys, comes in
as `networks`.
"""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, Union, get_origin

from pydantic import Field, ValidationError, create_model

from nanocnn.config.complaints import describe, shown
from nanocnn.config.schema import Config, Network
from nanocnn.config.strict_yaml import parse_yaml, read_yaml
from nanocnn.system.errors import UserError, did_you_mean

PACKAGE = Path(__file__).parent.parent
# in the wheel they lie in the package, in a clone beside it
CONFIGS = next(
    (folder for folder in (PACKAGE / "configs", PACKAGE.parent / "configs") if folder.is_dir()),
    PACKAGE / "configs",
)
Written = Callable[[tuple[str, ...]], str]  # where the value of a key was written, in words


class KnownNetworks(Protocol):
    """What a config must know of the networks: their names, and the keys that each takes."""

    def __hash__(self) -> int: ...

    @property
    def names(self) -> list[str]: ...

    def keys(self, name: str) -> list[inspect.Parameter]: ...


@dataclass(frozen=True)
class Draft:
    """A config as it is written, its form checked but not yet the keys of its network."""

    values: dict[str, Any]
    place: Written

    def check(self, networks: KnownNetworks) -> Config:
        """The config. Raises UserError for whatever in it cannot be."""
        return config_from_dict(self.values, networks, self.place)


def load_config(
    path: str | Path, overrides: Sequence[str] = (), *, networks: KnownNetworks
) -> Config:
    """Read the YAML file at `path`, or of that name in configs/, and apply `overrides`."""
    return read_draft(path, overrides).check(networks)


def read_draft(path: str | Path, overrides: Sequence[str] = ()) -> Draft:
    """What `load_config` can tell before it has the networks, which come with torch."""
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

    try:
        Config.model_validate(values)
    except ValidationError as error:
        raise UserError(describe(error, Config, values, place)) from None
    return Draft(values, place)


def config_from_dict(
    values: dict[str, Any], networks: KnownNetworks, place: Written = lambda key: "config"
) -> Config:
    """Check nested `values` against the whole schema; `place` says where a key was written."""
    schema = Config
    try:
        schema.model_validate(values)  # a model that is no section, before its name is looked up
        schema = full_schema(networks, values.get("model", {}).get("name", ""))
        return schema.model_validate(values)
    except ValidationError as error:
        raise UserError(describe(error, schema, values, place)) from None
    except UserError as error:  # of a network that torchvision has not
        raise UserError(f"{place(('model', 'name'))}: {error}") from None


@cache
def full_schema(networks: KnownNetworks, network: str = "") -> type[Config]:
    """`Config` with all `networks`: a network's keys are the arguments of its constructor.

    `network` is the one that the config asks for, since torchvision's are known by asking for them.
    """
    names = [*networks.names, network] if network.startswith("torchvision.") else networks.names
    sections = {name: network_section(name, networks.keys(name)) for name in names}
    model: Any = Annotated[Union[tuple(sections.values())], Field(discriminator="name")]  # noqa: UP007
    usual = sections.get(Config().model.name)  # a model.py of one's own may have no LeNet
    default = usual.model_validate({}) if usual else ...
    return create_model("Config", __base__=Config, model=(model, default))


def network_section(name: str, keys: Sequence[inspect.Parameter]) -> type[Network]:
    """The section `model: {name: ...}` of a network with these keys."""
    fields: dict[str, Any] = {"name": (Literal[name], name)}
    for key in keys:
        required = key.default is key.empty
        annotation = key.annotation
        if annotation is key.empty:
            untyped = required or key.default is None
            annotation = Any if untyped else type(key.default)
        if tuple in (annotation, get_origin(annotation)):  # YAML has lists only
            annotation = Annotated[annotation, Field(strict=False)]
        fields[key.name] = (annotation, ... if required else key.default)
    return create_model(name, __base__=Network, **fields)


def json_schema(networks: KnownNetworks) -> dict[str, Any]:
    """The JSON Schema of a config, by which editors complete and check YAML files."""
    schema = full_schema(networks).model_json_schema()
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


def config_of(run_dir: Path) -> Path:
    """The config of the run in `run_dir`, to go on with. Raises UserError where there is no run."""
    if not (run_dir / "config.yaml").is_file():
        what = "holds no run (no config.yaml)" if run_dir.is_dir() else "no such run folder"
        raise UserError(f"--resume {run_dir}: {what}; allowed is a run folder, or auto")
    return run_dir / "config.yaml"


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
