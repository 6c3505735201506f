"""The loss that training lowers and evaluation reports."""

from torch import nn

from config import CrossEntropy


def build_loss(config: CrossEntropy) -> nn.Module:
    """A module (logits (B, classes), labels (B,)) -> mean loss."""
    return nn.CrossEntropyLoss(label_smoothing=config.label_smoothing)
