"""The loss that training lowers and evaluation reports.

A loss gives (sum, weight): the sum of the images' losses, each times the weight of its image, and
the sum of these weights. Whoever has all images of a step, an epoch or an evaluation together
divides once, so that it makes no difference in which parts they came.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nanocnn.config.schema import BCE, MSE, CrossEntropy, Focal, Loss
from nanocnn.images.splits import DataInfo
from nanocnn.system.errors import UserError

# of class weights: between the inverse of SUMMED and SUMMED float32 adds up the losses of any
# epoch; with up to MOST_TIMES from the smallest to the largest those of the smallest are not lost
SUMMED = 1e18
MOST_TIMES = 1e30


def build_loss(config: Loss, info: DataInfo) -> "ImageLoss":
    """The loss that `config` asks for.

    Where the section of the config has `takes_soft_labels`, labels may be shares (B, classes) too.
    Raises UserError for class weights that do not fit the classes.
    """
    match config:
        case CrossEntropy():
            return CrossEntropyLoss(config.label_smoothing, class_weights(config, info))
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
        return torch.tensor(scaled(config.class_weights))
    for name, count in zip(info.classes, info.class_counts, strict=True):
        if count == 0:
            raise UserError(
                f"loss.class_weights = balanced: no training image is of the class {name!r}"
            )
    counts = torch.tensor(info.class_counts)
    return counts.sum() / (len(counts) * counts)


def scaled(weights: list[float]) -> list[float]:
    """`weights`, all times the same power of two where float32 could not add them up.

    They count by their ratios alone, and a power of two rounds nothing. Raises UserError where the
    ratios themselves are too large.
    """
    least, largest = min(weights), max(weights)
    if least < largest / MOST_TIMES:
        raise UserError(
            f"loss.class_weights = {weights}: {largest:g} is more than {MOST_TIMES:g} times "
            f"{least:g}, beyond what float32 can hold; take weights that are nearer to each other"
        )
    if 1 / SUMMED < largest < SUMMED:
        return weights
    exponent = math.frexp(largest)[1]
    return [math.ldexp(weight, -exponent) for weight in weights]


class ImageLoss(nn.Module):
    """A loss image by image, and the weight that its class gives an image."""

    class_weights: Tensor | None

    def __init__(self, class_weights: Tensor | None = None):
        super().__init__()
        self.register_buffer("class_weights", class_weights)

    def forward(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor | float]:
        """(sum, weight) of logits (B, classes) and labels, (B,) int64 or shares (B, classes)."""
        if logits.dtype != torch.float64:
            logits = logits.float()
        losses = self.losses(logits, labels)
        if self.class_weights is None:
            return losses.sum(), float(len(labels))
        weights = self.weights(labels)
        return (weights * losses).sum(), weights.sum()

    def weight(self, labels: Tensor) -> Tensor | float:
        """The weight of images with these labels, which `forward` gives too."""
        return float(len(labels)) if self.class_weights is None else self.weights(labels).sum()

    def weights(self, labels: Tensor) -> Tensor:
        """(B,): an image's is the sum over the classes of its share times the class's weight."""
        assert self.class_weights is not None
        if labels.is_floating_point():
            with torch.autocast(labels.device.type, enabled=False):  # which would round the weights
                return labels @ self.class_weights
        return self.class_weights[labels]

    def losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """(B,), without any weights."""
        raise NotImplementedError


class CrossEntropyLoss(ImageLoss):
    """-log p of the label, with a share of `smoothing` spread evenly over all classes.

    Weights are those of the labels before smoothing, which would else be weighted by the classes
    that it falls on, as torch does.
    """

    def __init__(self, smoothing: float = 0.0, class_weights: Tensor | None = None):
        super().__init__(class_weights)
        self.smoothing = smoothing

    def losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits, labels, reduction="none", label_smoothing=self.smoothing)


class MeanSquaredError(ImageLoss):
    """|logits - target|^2 / 2, the target being 1 for the label and else 0.

    The mean over m images is J = 1/(2m) * sum of |logits - target|^2. The logits are taken as they
    are, without softmax, so that its gradient is (logits - target) / m.
    """

    def losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        targets = labels if labels.is_floating_point() else F.one_hot(labels, logits.shape[1])
        return (logits - targets).square().sum(1) / 2


class BinaryCrossEntropy(ImageLoss):
    """Cross-entropy of the logistic function of one output z, which comes as the logits (0, z)."""

    def losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(
            logits[:, 1], labels.to(logits.dtype), reduction="none"
        )


class FocalLoss(ImageLoss):
    """(1 - p)^gamma times the cross-entropy -log p, p being the probability of the label.

    Source: Lin et al., Focal Loss for Dense Object Detection (2017), with softmax for its sigmoid
    and class weights for its alpha.
    """

    def __init__(self, gamma: float, class_weights: Tensor | None = None):
        super().__init__(class_weights)
        self.gamma = gamma

    def losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        losses = F.cross_entropy(logits, labels, reduction="none")
        # not zero, where the power has no slope if gamma is less than one
        missing = (-torch.expm1(-losses)).clamp(min=1e-12)
        return missing**self.gamma * losses
