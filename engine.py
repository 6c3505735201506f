"""The two loops, side by side."""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

Loss = Callable[
    [Tensor, Tensor], Tensor
]  # logits (B, classes), labels (B,) or shares (B, classes) -> mean loss


class Update(NamedTuple):
    """One step of training: what it was made with, and what it found before its own change."""

    step: int  # counted from 1, over the whole run
    lr: float
    loss: Tensor  # (), mean over the batch, on the device
    correct: Tensor  # (), images, on the device
    images: int


class Evaluation(NamedTuple):
    loss: float  # mean over all images
    accuracy: float  # a fraction
    predictions: Tensor  # (N,) int64, on the CPU


def train_one_epoch(
    model: nn.Module,
    batches: Iterable[tuple[int, Tensor, Tensor]],
    loss_fn: Loss,
    optimizer: torch.optim.Optimizer,
    lr_at: Callable[[int], float],
    precision: torch.dtype,
) -> Iterator[Update]:
    """Train `model` on `batches` of (step, images, labels), and yield after each step.

    Labels are (B,) int64, or shares (B, classes), of which the largest counts as correct.
    """
    model.train()
    for step, images, labels in batches:
        lr = lr_at(step)
        for group in optimizer.param_groups:
            group["lr"] = lr * group["lr_mult"]

        with torch.autocast(images.device.type, precision, enabled=precision != torch.float32):
            outputs = model(images)
            logits, *auxiliary = outputs if isinstance(outputs, tuple) else (outputs,)
            loss = loss_fn(logits, labels)
            for weight, extra_logits in auxiliary:
                loss = loss + weight * loss_fn(extra_logits, labels)

        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

        true = labels.argmax(1) if labels.ndim == 2 else labels
        correct = (logits.detach().argmax(1) == true).sum()
        yield Update(step + 1, lr, loss.detach(), correct, len(labels))


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    loss_fn: Loss,
    precision: torch.dtype,
) -> Evaluation:
    """Judge `model` on `batches` of (images, labels): sums over all images, divided once."""
    model.eval()
    losses, correct, predictions = [], [], []
    for images, labels in batches:
        with torch.autocast(images.device.type, precision, enabled=precision != torch.float32):
            logits = model(images)
            loss = loss_fn(logits, labels)
        losses.append(loss * len(labels))
        predictions.append(logits.argmax(1))
        correct.append((predictions[-1] == labels).sum())

    n = sum(map(len, predictions))
    return Evaluation(
        loss=torch.stack(losses).cpu().double().sum().item() / n,
        accuracy=torch.stack(correct).sum().item() / n,
        predictions=torch.cat(predictions).cpu(),
    )
