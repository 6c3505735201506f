"""A trained network with all that stands before and behind it, as one file."""

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from nanocnn.deploy.resizing import Resizing
from nanocnn.evaluation.evaluate import AverageFlips
from nanocnn.images.decode import Form
from nanocnn.networks.rewrite import fold_batch_norm
from nanocnn.run.restore import Restored
from nanocnn.system.errors import UserError

INPUT, OUTPUTS = "images", ("probabilities", "map")


class Portable(nn.Module):
    """Pictures (N, H, W, C) uint8 of any one size to probabilities (N, classes) float32.

    They are resized as `form` says, normalised, and judged by `network`, whose logits are divided
    by a temperature.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        network: nn.Module,
        form: Form,
        mean: list[float],
        std: list[float],
        temperature: float,
    ):
        super().__init__()
        self.resizing, self.network, self.temperature = Resizing(form), network, temperature
        for name, values in (("mean", mean), ("std", std)):
            scaled = 255 * torch.tensor(values).view(1, -1, 1, 1)
            self.register_buffer(name, scaled)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        resized = self.resizing(images.permute(0, 3, 1, 2))
        logits = self.network((resized - self.mean) / self.std)
        return ((logits / self.temperature).softmax(1),)


def portable(restored: Restored, form: Form) -> Portable:
    info, config = restored.info, restored.config
    network = fold_batch_norm(restored.model.cpu().float(), info.image_shape).model
    if config.data.average_flips:
        network = AverageFlips(network)
    return Portable(network, form, info.mean, info.std, temperature_of(restored)).eval()


def temperature_of(restored: Restored) -> float:
    """That of the weights, 1 where none was fitted to them."""
    checkpoint = restored.checkpoint
    validation = checkpoint["validation"] if checkpoint["partial"] is None else None
    return (validation or {}).get("temperature") or 1.0


def form_of(restored: Restored) -> Form:
    """What pictures are made into before the network sees them."""
    info, data = restored.info, restored.config.data
    return Form(
        info.image_shape,
        data.resize,
        info.background,
        interpolation=info.interpolation,
        crop_fraction=info.crop_fraction,
        shrink=info.shrink,
    )


@contextmanager
def silent() -> Iterator[None]:
    """What the exporter tells of itself is not shown."""
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        disabled = logging.root.manager.disable
        logging.disable(logging.CRITICAL)
        try:
            yield
        finally:
            logging.disable(disabled)


def program_of(model: Portable) -> ExportedProgram:
    """The graph of `model`, for any number of pictures of any size. Raises UserError."""
    channels, height, width = model.resizing.form.shape
    images = torch.zeros(2, height + 3, width + 5, channels, dtype=torch.uint8)
    sizes = {0: Dim("N"), 1: Dim("H"), 2: Dim("W")}
    try:
        with silent(), torch.no_grad():
            return torch.export.export(model, (images,), dynamic_shapes=(sizes,))
    except Exception as error:  # noqa: BLE001  whatever torch stumbles on
        said = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise UserError(f"this network cannot be exported: torch.export: {said}") from None


def onnx_of(program: ExportedProgram, outputs: int) -> Any:
    """The ONNX model of a program."""
    with silent():
        made = torch.onnx.export(
            program,
            dynamo=True,
            verbose=False,
            input_names=[INPUT],
            output_names=list(OUTPUTS[:outputs]),
        )
        assert made is not None
        return made.model_proto
