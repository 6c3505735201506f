"""The loss that training lowers and evaluation reports."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nanocnn.config.schema import BCE, MSE, CrossEntropy, Focal, Loss
from nanocnn.images.splits import DataInfo
from nanocnn.system.errors import UserError


def build_loss(config: Loss, info: DataInfo) -> nn.Module:
    """A module (logits (B, classes), labels (B,)) -> mean loss.

    Where the section of the config has `takes_soft_labels`, labels may be shares (B, classes) too.
    With class weights the mean is the weighted one, as everywhere in torch. Raises UserError for
    class weights that do not fit the classes.
    """
    match config:
        case CrossEntropy():
            weights = class_weights(config, info)
            return nn.CrossEntropyLoss(weights, label_smoothing=config.label_smoothing)
        case Focal():
            return FocalLoss(config.gamma, class_weights(config, info))
        case MSE():
            return MeanSquaredError()
        case BCE():
            return BinaryCrossEntropy()
    raise TypeError(f"{type(config).__name__} is no loss")


def class_weights(config: CrossEntropy | Focal, info: DataInfo) -> Tensor | None:
    """Weights (classes,), None where all count alike."""
    if config.class_weights is None:
        return None
    if config.class_weights != "balanced":
        if len(config.class_weights) != len(info.classes):
            raise UserError(
                f"loss.class_weights = {config.class_weights}: should be one for each of the "
                f"{len(info.classes)} classes of {info.dataset}"
            )
        return torch.tensor(config.class_weights)
    for name, count in zip(info.classes, info.class_counts, strict=True):
        if count == 0:
            raise UserError(
                f"loss.class_weights = balanced: no training image is of the class {name!r}"
            )
    counts = torch.tensor(info.class_counts)
    return counts.sum() / (len(counts) * counts)


class MeanSquaredError(nn.Module):
    """J = 1/(2m) * sum over m images of |logits - target|^2, the target being 1 for the label and
    else 0.

    The logits are taken as they are, without softmax, so that the gradient is (logits - target) /
    m.
    """

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        targets = labels if labels.is_floating_point() else F.one_hot(labels, logits.shape[1])
        return (logits.float() - targets).square().sum(1).mean() / 2


class BinaryCrossEntropy(nn.Module):
    """Cross-entropy of the logistic function of one output z, which comes as the logits (0, z)."""

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(logits[:, 1].float(), labels.float())


class FocalLoss(nn.Module):
    """(1 - p)^gamma times the cross-entropy -log p, p being the probability of the label.

    Source: Lin et al., Focal Loss for Dense Object Detection (2017), with softmax for its sigmoid
    and `weight` (classes,) for its alpha.
    """

    def __init__(self, gamma: float, weight: Tensor | None = None):
        super().__init__()
        self.gamma = gamma
        self.weight: Tensor | None
        self.register_buffer("weight", weight)

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        losses = F.cross_entropy(logits, labels, reduction="none")
        # not zero, where the power has no slope if gamma is less than one
        missing = (-torch.expm1(-losses)).clamp(min=1e-12)
        losses = missing**self.gamma * losses
        if self.weight is None:
            return losses.mean()
        weights = self.weight[labels]
        return (weights * losses).sum() / weights.sum()
