"""The linear layer that a network ends in, and what reaches it: the features of an image."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import local

import torch
from torch import Tensor, nn

from nanocnn.networks.build import two_logits
from nanocnn.networks.pretrained import last_layer
from nanocnn.networks.sizes import ImageShape


def linear_head(model: nn.Module, image_shape: ImageShape) -> nn.Linear | None:
    """The layer whose outputs are the logits; None where a network ends in something else."""
    layer = model.get_submodule(last_layer(model, image_shape))
    if not isinstance(layer, nn.Linear):
        return None
    left: list[Tensor] = []
    hook = layer.register_forward_hook(lambda _, __, output: left.append(output))
    was_training = model.training
    try:
        with torch.inference_mode(), torch.random.fork_rng(devices=[]):
            values = torch.linspace(-1, 1, 2 * math.prod(image_shape)).to(layer.weight)
            images = values.view(2, *image_shape)
            logits = model.eval()(images)
    finally:
        hook.remove()
        model.train(was_training)
    if len(left) != 1 or left[0].ndim != 2:
        return None
    outputs = two_logits(model, images, left[0]) if left[0].shape[1] == 1 else left[0]
    return layer if torch.equal(outputs, logits) else None


class Tap:
    """Keeps what reaches a layer, `size` values an image, of each thread by itself."""

    def __init__(self, layer: nn.Linear):
        self.size = layer.in_features
        self._kept = local()
        self.hook = layer.register_forward_pre_hook(self)

    def __getstate__(self) -> dict[str, int]:
        return {"size": self.size}  # a copied layer has the copy as its hook

    def __setstate__(self, state: dict[str, int]) -> None:
        self.size, self._kept = state["size"], local()

    def __call__(self, layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        """A forward pre-hook."""
        self._kept.__dict__.setdefault("inputs", []).append(inputs[0].detach())

    def take(self) -> Tensor:
        """What has reached the layer since, (B, F) float32; of several passes over a batch, as of
        images and their mirror images, the mean.
        """
        inputs = self._kept.__dict__.pop("inputs")
        return torch.stack([each.float() for each in inputs]).mean(0)


@contextmanager
def tapped(layer: nn.Linear) -> Iterator[Callable[[], Tensor]]:
    """What takes the inputs of `layer`, while this lasts: see Tap.take."""
    tap = Tap(layer)
    try:
        yield tap.take
    finally:
        tap.hook.remove()
