"""The two loops, side by side."""

import math
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from config import Train

# logits (B, classes), labels (B,) or shares (B, classes) -> mean loss
Loss = Callable[[Tensor, Tensor], Tensor]


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
    options: Train = Train(),  # noqa: B008  it is frozen
    scaler: torch.amp.GradScaler | None = None,
) -> Iterator[Update]:
    """Train `model` on `batches` of (step, images, labels), and yield after each step.

    With `options.accumulate` the images of a step are worked off in that many parts, each of which counts
    by its own size. Labels are (B,) int64, or shares (B, classes), of which the largest counts as correct.
    `scaler` keeps the small gradients of float16 from vanishing.
    """
    scaler = scaler or torch.amp.GradScaler(enabled=False)
    model.train()
    for step, images, labels in batches:
        lr = lr_at(step)
        for group in optimizer.param_groups:
            group["lr"] = lr * group["lr_mult"]

        optimizer.zero_grad()
        loss = correct = torch.zeros((), device=images.device)
        # as in Batches, no single image is left over
        leftover = 1 if options.batch_size > 1 else 0
        full = math.ceil((len(labels) - leftover) / options.batch_size)
        parts = max(1, min(options.accumulate, full))
        for part, truth in zip(images.tensor_split(parts), labels.tensor_split(parts), strict=True):
            with torch.autocast(images.device.type, precision, enabled=precision != torch.float32):
                outputs = model(part)
                logits, *auxiliary = outputs if isinstance(outputs, tuple) else (outputs,)
                part_loss = loss_fn(logits, truth)
                for weight, extra_logits in auxiliary:
                    part_loss = part_loss + weight * loss_fn(extra_logits, truth)
            part_loss = part_loss * (len(truth) / len(labels))
            scaler.scale(part_loss).backward()
            loss = loss + part_loss.detach()
            true = truth.argmax(1) if truth.ndim == 2 else truth
            correct = correct + (logits.detach().argmax(1) == true).sum()
        if options.clip_norm is not None:
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), options.clip_norm)
        scaler.step(optimizer)
        scaler.update()
        yield Update(step + 1, lr, loss, correct, len(labels))


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
