"""Finding the model.py whose networks a command should have."""

import ast
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

from nanocnn.networks.build import Networks, catalogue
from nanocnn.system.errors import MODEL_MODULES, UserError

PACKAGE = Path(__file__).parent.parent


def find_networks(file: Path | None = None) -> Networks:
    """The networks of `file`, or of the model.py meant without one; says which that is.

    Raises UserError where it is no model.py.
    """
    path = file or find_model_file()
    print(f"networks: {path}", file=sys.stderr)
    return load_networks(path)


def find_model_file() -> Path:
    """./model.py, if the folder is a copy of this project, else the one of this package.

    That it is one is told without running it: it defines MODELS and stands beside a train.py.
    """
    here = Path("model.py")
    if here.is_file() and Path("train.py").is_file() and defines_models(here):
        return here.absolute()
    return shipped_model_file()


def shipped_model_file() -> Path:
    """The model.py of the clone that this package lies in, or the copy in the wheel."""
    beside = PACKAGE.parent / "model.py"
    return beside if beside.is_file() and defines_models(beside) else PACKAGE / "_model.py"


def defines_models(path: Path) -> bool:
    """Whether the top level of the file gives the name MODELS a value; the file is not run."""
    try:
        body = ast.parse(path.read_bytes()).body
    except (OSError, SyntaxError, ValueError):
        return False
    names: list[ast.expr] = []
    for node in body:
        if isinstance(node, ast.Assign):
            names += node.targets
        elif isinstance(node, ast.AnnAssign):
            names.append(node.target)
    return any(isinstance(name, ast.Name) and name.id == "MODELS" for name in names)


def load_networks(path: Path) -> Networks:
    """Run the file at `path` and take its MODELS. Raises UserError where it has none."""
    if not path.is_file():
        raise UserError(f"{path}: no such file; a model.py defines MODELS, the networks by name")
    if not defines_models(path):
        raise UserError(f"{path}: defines no MODELS, a dict of networks by name")
    spec = spec_from_file_location(MODEL_MODULES[1], path)
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[spec.name] = module
    sys.path.insert(0, str(path.absolute().parent))  # as for a script: it may import its neighbours
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.pop(0)
    return catalogue(module.MODELS)
