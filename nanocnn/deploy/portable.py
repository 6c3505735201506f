"""A trained network with all that stands before and behind it, as one module that can leave."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nanocnn.deploy.resizing import Resizing
from nanocnn.images.decode import Form
from nanocnn.images.new_pictures import form_for
from nanocnn.networks.head import linear_head
from nanocnn.networks.rewrite import fold_batch_norm
from nanocnn.networks.sizes import ImageShape
from nanocnn.run.restore import Restored, temperature_of


class Head(NamedTuple):
    """Names of layers: the maps whose means over all pixels the last layer makes logits of."""

    maps: str
    linear: str


class Portable(nn.Module):
    """Pictures (N, H, W, C) uint8 of any one size to probabilities (N, classes) float32.

    They are resized as `form` says, normalised, and judged by `network`, whose logits are divided
    by `temperature`. Where it has a `head` there is a second output, the class activation map (N,
    classes, h, w) of B. Zhou et al., Learning Deep Features for Discriminative Localization (2016):
    the softmax of its means over h and w is the probabilities.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, form: Form, head: Head | None, temperature: float):
        super().__init__()
        self.resizing, self.network, self.head = Resizing(form), network, head
        self.temperature, self.flips = temperature, False
        self.register_buffer("mean", torch.zeros(1, form.shape[0], 1, 1))
        self.register_buffer("std", torch.ones(1, form.shape[0], 1, 1))

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        resized = self.resizing(images.permute(0, 3, 1, 2))
        normalised = (resized - self.mean) / self.std
        logits, *maps = self.judge(normalised)
        if self.flips:
            others, *mirrored = self.judge(normalised.flip(3))
            logits = (logits + others) / 2
            maps = [(one + other.flip(3)) / 2 for one, other in zip(maps, mirrored, strict=True)]
        return (logits / self.temperature).softmax(1), *(each / self.temperature for each in maps)

    def judge(self, images: Tensor) -> tuple[Tensor, ...]:
        """The logits, and with a head the map of each class, whose mean they are."""
        if self.head is None:
            return (self.network(images),)
        found: list[Tensor] = []
        layer = self.network.get_submodule(self.head.maps)
        hook = layer.register_forward_hook(lambda _, __, output: found.append(output))
        try:
            logits = self.network(images)
        finally:
            hook.remove()
        linear = self.network.get_submodule(self.head.linear)
        assert isinstance(linear, nn.Linear)
        scores = F.conv2d(found[0], linear.weight[:, :, None, None], linear.bias)
        if scores.shape[1] < logits.shape[1]:  # see build.two_logits
            scores = torch.cat([torch.zeros_like(scores), scores], 1)
        return logits, scores


def portable(restored: Restored) -> Portable:
    """What the run has learned, on the CPU and in float32, with fewer layers where it can be."""
    info = restored.info
    network = fold_batch_norm(restored.model.cpu().float(), info.image_shape).model
    head = pooled_head(network, info.image_shape)
    form = form_for(restored.config.data, info)
    model = Portable(network, form, head, temperature_of(restored.checkpoint) or 1.0)
    for kept, value in zip((model.mean, model.std), info.moments(), strict=True):
        kept.copy_(value)
    model.flips = restored.config.data.average_flips
    return model.eval().requires_grad_(False)


def pooled_head(network: nn.Module, image_shape: ImageShape) -> Head | None:
    """The end of a network that is the mean over all pixels and one linear layer, else None.

    It is found by what a pass computes: of the maps whose means reach the last layer the largest,
    and of those the last.
    """
    linear = linear_head(network, image_shape)
    if linear is None:
        return None
    outputs: list[tuple[str, Tensor]] = []
    entered: list[Tensor] = []

    def note(name: str, output: object) -> None:
        if isinstance(output, Tensor) and output.ndim == 4:
            outputs.append((name, output))

    hooks = [
        layer.register_forward_hook(lambda _, __, output, name=name: note(name, output))
        for name, layer in network.named_modules()
        if name
    ]
    hooks.append(linear.register_forward_pre_hook(lambda _, inputs: entered.append(inputs[0])))
    generator = torch.Generator().manual_seed(0)
    try:
        with torch.inference_mode():
            network.eval()(torch.randn(2, *image_shape, generator=generator))
    finally:
        for hook in hooks:
            hook.remove()
    calls = [name for name, _ in outputs]
    found = [
        (output[0, 0].numel(), place, name)
        for place, (name, output) in enumerate(outputs)
        if output.shape[1] == entered[0].shape[1]
        and calls.count(name) == 1
        and torch.allclose(output.mean((2, 3)), entered[0], rtol=1e-4, atol=1e-5)
    ]
    pixels, _, maps = max(found, default=(1, 0, ""))
    names = {layer: name for name, layer in network.named_modules()}
    return Head(maps, names[linear]) if pixels > 1 else None
