"""Judging a network: all images together, divided once."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn

# logits (B, classes), labels (B,) or shares (B, classes) -> mean loss
Loss = Callable[[Tensor, Tensor], Tensor]


class Evaluation(NamedTuple):
    loss: float  # mean over all images
    accuracy: float  # a fraction
    predictions: Tensor  # (N,) int64, on the CPU


class AverageFlips(nn.Module):
    """The mean of what `model` makes of images (B, C, H, W) and of their mirror images."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return (self.model(images) + self.model(images.flip(3))) / 2


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    loss_fn: Loss,
    precision: torch.dtype,
) -> Evaluation:
    """Judge `model` on `batches` of (images, labels), all of them together."""
    model.eval()
    all_logits, all_labels = [], []
    for images, labels in batches:
        with torch.autocast(images.device.type, precision, enabled=precision != torch.float32):
            all_logits.append(model(images))
        all_labels.append(labels)

    # at once, since with class weights the loss of all images is no mean over batches
    logits, labels = torch.cat(all_logits).float(), torch.cat(all_labels)
    predictions = logits.argmax(1)
    return Evaluation(
        loss=loss_fn(logits, labels).item(),
        accuracy=(predictions == labels).sum().item() / len(labels),
        predictions=predictions.cpu(),
    )
