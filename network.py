"""The network that a config describes, sized by its data: where configs, data and model.py meet."""

from copy import deepcopy

import torch
from torch import nn

from config import Config
from dataset import Batches, DataInfo
from errors import UserError
from layers import WhiteningConv2d
from model import build_model

WHITENING_IMAGES, WHITENING_BATCH = 5000, 100


def build_network(config: Config, info: DataInfo, trained: bool = False) -> nn.Module:
    """The network on the CPU, in its first weights, or in any where `trained` ones are to be loaded.

    Raises UserError where the config describes no network for these images.
    """
    arguments = config.model.arguments(trained)
    shape, classes = info.image_shape, len(info.classes)
    logistic = config.loss.logistic
    model = build_model(config.model.name, shape, classes, logistic=logistic, **arguments)
    if config.train.batch_size == 1:
        try:
            deepcopy(model).train()(torch.zeros(1, *shape))
        except ValueError:
            raise UserError(
                "train.batch_size = 1: batch normalisation cannot learn from one image where a map has one pixel"
            ) from None
    if config.train.channels_last is True and all(w.ndim != 4 for w in model.parameters()):
        raise UserError(
            f"train.channels_last: cannot act on {config.model.name}, which has no convolution"
        )
    return model


def fit_whitening(model: nn.Module, batches: Batches) -> None:
    """Set the layers that whiten patches by some thousand of the training images, of all classes."""
    count = len(batches.labels)
    chosen = torch.arange(0, count, max(1, count // WHITENING_IMAGES), device=batches.labels.device)
    for layer in model.modules():
        if isinstance(layer, WhiteningConv2d):
            chunks = chosen.split(WHITENING_BATCH)
            layer.fit(batches.normalise(images) for images, _ in batches.read(chunks))
