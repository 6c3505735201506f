"""What a run begins from: weights of a file, of another run, or published ones."""

from pathlib import Path
from typing import Any

from nanocnn.config.preprocessing import Preprocessing
from nanocnn.config.schema import Config
from nanocnn.networks import timm, torchvision
from nanocnn.networks.pretrained import Weights, read_weights
from nanocnn.run.checkpoint import load_checkpoint
from nanocnn.run.restore import find_checkpoint
from nanocnn.system.errors import UserError
from nanocnn.system.files import is_sealed


def first_weights(
    config: Config, checkpoint: dict[str, Any] | None
) -> tuple[Weights | None, Preprocessing | None]:
    """The weights that a run begins with, and how they expect images to be prepared.

    A run that goes on from its `checkpoint` needs them no more, and prepares images as before.
    """
    if checkpoint:
        return None, Preprocessing.of_run(checkpoint["data"])
    weights = find_weights(config)
    return weights, weights.preprocessing if weights else None


def find_weights(config: Config) -> Weights | None:
    """The weights that `config.model` asks for, None where it begins anew.

    `weights` is a file, a run folder or a name of published ones, looked for in this order;
    `pretrained` means torchvision's or timm's default. Raises UserError where there are none.
    """
    typed = getattr(config.model, "weights", None)
    family, _, architecture = config.model.name.partition(".")
    if not typed:
        if not getattr(config.model, "pretrained", False):
            return None
        if family not in ("timm", "torchvision"):
            return None  # a key of the user's own network
        return (timm if family == "timm" else torchvision).published(architecture)
    path = Path(typed).expanduser()
    if path.is_dir() or (path.is_file() and is_sealed(path)):
        return weights_of_run(path)
    if path.exists():
        tensors, digest = read_weights(path)
        source = f"{path} (sha256 {digest})"
        expected = Preprocessing(source, [], [])
        if family == "timm":
            expected = timm.preprocessing(architecture, source)
        elif family == "torchvision":
            expected = torchvision.preprocessing(architecture, source, digest)
        return Weights(tensors, expected)
    if family == "timm" and len(path.parts) == 1:
        return timm.published(architecture, typed)
    if family == "torchvision" and len(path.parts) == 1:
        return torchvision.published(architecture, typed)
    raise UserError(f"model.weights = {typed}: no such file or run folder")


def weights_of_run(path: Path) -> Weights:
    """What another run has learned, as its validation judged it, and how it saw its images."""
    try:
        file = find_checkpoint(path)
        checkpoint = load_checkpoint(file)
    except UserError as error:
        raise UserError(f"model.weights: {error}") from None
    data, options = checkpoint["data"], checkpoint["config"].get("train")
    is_mean = isinstance(options, dict) and options.get("ema")
    expected = Preprocessing(
        f"{file}, epoch {checkpoint['epoch']}",
        data["mean"],
        data["std"],
        data.get("interpolation", "bilinear"),
        data.get("crop_fraction", 1.0),
    )
    return Weights(checkpoint["ema" if is_mean else "model"], expected, of_run=True)
