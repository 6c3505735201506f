"""Judging a network: all images together, divided once."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nanocnn.evaluation.unlike import Traits

# logits (B, classes), labels (B,) -> the sum of the images' losses, and what they weigh together
LossFunction = Callable[[Tensor, Tensor], tuple[Tensor, Tensor | float]]


class Evaluation(NamedTuple):
    loss: float  # the weighted mean over all images
    accuracy: float  # a fraction
    predictions: Tensor  # (N,) int64, on the CPU
    logits: Tensor  # (N, classes) float32, on the CPU
    labels: Tensor  # (N,) int64, on the CPU
    traits: Traits | None = None  # by which other pictures are told from these, if it was asked for


class AverageFlips(nn.Module):
    """The mean of what `model` makes of images (B, C, H, W) and of their mirror images."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return (self.model(images) + self.model(images.flip(3))) / 2


def cross_entropy(logits: Tensor, labels: Tensor) -> tuple[Tensor, float]:
    """Plain cross-entropy, all images alike."""
    return F.cross_entropy(logits, labels, reduction="sum"), float(len(labels))


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    loss: LossFunction = cross_entropy,
    precision: torch.dtype = torch.float32,
    joined: Callable[[list[Any]], list[Any]] | None = None,
) -> Evaluation:
    """Judge `model` on `batches` of images (B, C, H, W) and labels (B,) int64, all together.

    The model is left in evaluation mode. With a `precision` other than float32 it computes in that.
    Where several processes have some of the batches each, `joined` gives what was found in all of
    them, in their order, given that of this process.
    """
    model.eval()
    found: list[tuple[Any, ...]] = []
    for images, labels in batches:
        with torch.autocast(images.device.type, precision, enabled=precision != torch.float32):
            logits = model(images).float()
        kept = logits.to("cpu", non_blocking=True)  # of many images they are large
        predictions = logits.argmax(1)
        hits = (predictions == labels).sum()
        found.append((*loss(logits, labels), kept, labels, predictions, hits))

    # only here is the device waited for, and in double precision, since these are many
    if joined:
        found = joined([tuple(torch.as_tensor(each).cpu() for each in batch) for batch in found])
    totals, weights, all_logits, truth, guesses, all_hits = zip(*found, strict=True)
    total, weight = (sum(map(float, values)) for values in (totals, weights))
    predictions = torch.cat(guesses).cpu()
    return Evaluation(
        loss=total / weight,
        accuracy=sum(int(hit) for hit in all_hits) / len(predictions),
        predictions=predictions,
        logits=torch.cat(all_logits),
        labels=torch.cat(truth).cpu(),
    )
