"""From a YAML file and `key=value` to a checked config.

    config = load_config("mnist.yaml", ["optimizer.lr=0.05", "train.epochs=3"], networks=NETWORKS)

Unknown, repeated or mistyped keys, values out of range and keys that cannot act raise `UserError`,
with the place where they were written. What only the networks know, their names and keys, comes in
as `networks`.
"""

import inspect
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, Union, get_origin

from pydantic import Field, ValidationError, create_model

from nanocnn.config.complaints import describe, shown
from nanocnn.config.hints import newest_run, run_folder_of, seeds_again
from nanocnn.config.schema import Config, Data, Network, is_named
from nanocnn.config.strict_yaml import parse_yaml, read_yaml
from nanocnn.system.errors import UserError, did_you_mean
from nanocnn.system.output import in_shell

PACKAGE = Path(__file__).parent.parent
# in the wheel they lie in the package, in a clone beside it
CONFIGS = next(
    (folder for folder in (PACKAGE / "configs", PACKAGE.parent / "configs") if folder.is_dir()),
    PACKAGE / "configs",
)
NAMED = ["model.init", *(key for key, field in Config.model_fields.items() if is_named(field))]
MISSING = object()
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
    data: Data  # which no network has a say in

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
    values, places = read_values(path, overrides)

    def place(key: tuple[str, ...]) -> str:
        while key and key not in places:
            key = key[:-1]
        return places.get(key, str(path))

    try:
        config = Config.model_validate(values)
    except ValidationError as error:
        raise UserError(describe(error, Config, values, place)) from None
    return Draft(values, place, config.data)


def read_values(
    path: Path, overrides: Sequence[str]
) -> tuple[dict[str, Any], dict[tuple[str, ...], str]]:
    """What the file at `path` and `overrides` say, unchecked, and where each key was written."""
    values, lines = read_yaml(path)
    if not isinstance(values, dict):
        raise UserError(f"{path}: should hold lines of `key: value`, not {shown(values)}")
    places = {key: f"{path}, line {line}" for key, line in lines.items()}
    for override in in_order(overrides):
        apply_override(values, places, override)
    typed = {override.partition("=")[0]: override for override in overrides}
    model, data = (values.get(name) for name in ("model", "data"))
    if "model.weights" in typed and "model.pretrained" not in typed and isinstance(model, dict):
        model.pop("pretrained", None)  # of the file: what is typed takes its place
    dataset = data.get("dataset", "digits") if isinstance(data, dict) else "digits"
    if "data.root" in typed and dataset == "digits":
        print(
            f"warning: {typed['data.root']}: is not read, since digits come with scikit-learn; for "
            f"pictures of your own type --config photos.yaml {in_shell(typed['data.root'])}",
            file=sys.stderr,
        )
    return values, places


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
    except UserError as error:  # of a network that torchvision or timm has not
        raise UserError(f"{place(('model', 'name'))}: {error}") from None


@cache
def full_schema(networks: KnownNetworks, network: str = "") -> type[Config]:
    """`Config` with all `networks`: a network's keys are the arguments of its constructor.

    `network` is the one that the config asks for, since torchvision's and timm's are known by
    asking for them.
    """
    is_published = network.startswith(("torchvision.", "timm."))
    names = [*networks.names, network] if is_published else networks.names
    sections = {name: network_section(name, networks.keys(name)) for name in names}
    model: Any = Annotated[Union[tuple(sections.values())], Field(discriminator="name")]  # noqa: UP007
    usual = sections.get(Config().model.name)  # a model.py of one's own may have no LeNet
    default = usual.model_validate({}) if usual else ...
    return create_model("Config", __base__=Config, model=(model, default))


def network_section(name: str, keys: Sequence[inspect.Parameter]) -> type[Network]:
    """The section `model: {name: ...}` of a network with these keys."""
    fields: dict[str, Any] = {"name": (Literal[name], name)}
    for key in keys:
        if key.name in Network.model_fields:
            raise UserError(
                f"model {name}: its constructor's argument {key.name!r} is a key of every network; "
                "call it otherwise"
            )
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
    published = {"type": "string", "pattern": r"^(torchvision|timm)\."}
    schema["properties"]["model"]["anyOf"].append(
        {"type": "object", "properties": {"name": published}, "required": ["name"]}
    )
    return schema


def config_of(run_dir: Path) -> Path:
    """The config of the run in `run_dir`, to go on with. Raises UserError where there is no run."""
    if (run_dir / "config.yaml").is_file():
        return run_dir / "config.yaml"
    what = "holds no run (no config.yaml)" if run_dir.is_dir() else "no such run folder"
    instead = "allowed is a run folder, or auto"
    if run_dir.is_file() and (folder := run_folder_of(run_dir)):
        what = "a run goes on from its newest checkpoint"
        instead = f"type --resume {in_shell(folder)}"
    elif newest := newest_run(run_dir, "last.pt"):
        what = "is no run, but holds some"
        instead = f"type one of them, such as --resume {in_shell(newest)}"
        if again := seeds_again(run_dir):
            instead += f", or for all, or for more --seeds than these: {again}"
    elif again := seeds_again(run_dir):
        what, instead = "is no run, but holds some", f"type {again}"
    raise UserError(f"--resume {run_dir}: {what}; {instead}")


def find_config(path: str | Path) -> Path:
    if found := locate_config(path):
        return found
    if run := run_folder_of(Path(path)):
        name, config = in_shell(run), in_shell(run / "config.yaml")
        raise UserError(
            f"{path}: no config file; type --config {config} to repeat the run; "
            f"python train.py --resume {name} goes on with it"
        )
    if Path(path).exists():
        raise UserError(f"{path}: no config file; a config is a YAML file, such as mnist.yaml")
    known = sorted(file.stem for file in CONFIGS.glob("*.yaml"))
    raise UserError(f"{path}: no such config file{did_you_mean(Path(path).stem, known)}")


def locate_config(path: str | Path) -> Path | None:
    """The file meant by `path`: itself, or that of this name in configs/, with .yaml or without."""
    try:
        for name in (str(path), f"{path}.yaml"):
            for candidate in (Path(name), CONFIGS / name):
                if candidate.is_file() and candidate.suffix != ".pt":
                    return candidate
    except (OSError, ValueError) as error:  # such as a name that is too long
        raise UserError(f"{path}: {getattr(error, 'strerror', None) or error}") from None
    return None


def in_order(overrides: Sequence[str]) -> list[str]:
    """Whole sections first, then keys in them, so that model.dropout=0.1 model=convnet sets both.

    Raises UserError where a section would undo a key given before it.
    """
    split = [(override.partition("=")[0].split("."), override) for override in overrides]
    for later, (section, override) in enumerate(split):
        for key, earlier in split[:later]:
            if section != key[: len(section)] or section == key:
                continue
            value = parse_yaml(override.partition("=")[2], f"command line, {'.'.join(section)}")[0]
            for part in key[len(section) :]:
                value = value.get(part, MISSING) if isinstance(value, dict) else MISSING
            if value is not MISSING:
                raise UserError(f"{earlier!r}: {override!r} says it too; one of them should go")
    return [override for _, override in sorted(split, key=lambda each: len(each[0]))]


def apply_override(
    values: dict[str, Any], places: dict[tuple[str, ...], str], override: str
) -> None:
    """Set one `key=value` of the command line in nested `values`, and its place in `places`.

    The name of a section alone, as in optimizer=adam, stands for the section.
    """
    name, equals, text = override.partition("=")
    *sections, last = name.split(".")
    if not equals or not all([*sections, last]):
        raise UserError(f"{override!r}: an override is written key=value, such as train.epochs=3")
    target = values
    for depth, section in enumerate(sections, start=1):
        target = target.setdefault(section, {})
        if not isinstance(target, dict):
            raise UserError(f"{override!r}: {'.'.join(sections[:depth])} is a value, not a section")
    value, _ = parse_yaml(text, f"command line, {name}")
    target[last] = {"name": value} if name in NAMED and isinstance(value, str) else value
    key = (*sections, last)
    for depth in range(1, len(key)):
        places.setdefault(key[:depth], "command line")
    for replaced in [other for other in places if other[: len(key)] == key]:
        del places[replaced]
    places[key] = "command line"
