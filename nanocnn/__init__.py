"""Train convolutional networks for image classification from one YAML file, and trust the number.

    from nanocnn import NETWORKS, Learner, Run, TrainingData, evaluate, load_config, restore

Each name is imported when it is first used, so that `import nanocnn` itself takes no time.
"""

from __future__ import annotations

from importlib import import_module

from nanocnn.system.version import __version__

TYPE_CHECKING = False  # of typing, which takes longer to import than all of this
if TYPE_CHECKING:
    from typing import Any

    from nanocnn.config.load import load_config
    from nanocnn.deploy.classifier import load
    from nanocnn.evaluation.evaluate import evaluate
    from nanocnn.images.training_data import TrainingData
    from nanocnn.networks.build import Networks
    from nanocnn.run.restore import restore
    from nanocnn.run.run import Run
    from nanocnn.system.errors import UserError
    from nanocnn.training.learner import Learner

    NETWORKS: Networks

__all__ = [
    "NETWORKS",
    "Learner",
    "Run",
    "TrainingData",
    "UserError",
    "__version__",
    "evaluate",
    "load",
    "load_config",
    "restore",
]

HOMES = {
    "load_config": "config.load",
    "TrainingData": "images.training_data",
    "Learner": "training.learner",
    "Run": "run.run",
    "restore": "run.restore",
    "evaluate": "evaluation.evaluate",
    "load": "deploy.classifier",
    "UserError": "system.errors",
}


def __getattr__(name: str) -> Any:
    if name == "NETWORKS":  # of the model.py that came with this package
        from nanocnn.networks.model_file import load_networks, shipped_model_file

        value: Any = load_networks(shipped_model_file())
    elif name in HOMES:
        value = getattr(import_module(f"nanocnn.{HOMES[name]}"), name)
    else:
        raise AttributeError(f"module 'nanocnn' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
