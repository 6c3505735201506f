"""Back to the pixels: what in an image a unit responded to.

Source: M. Zeiler, R. Fergus, Visualizing and Understanding Convolutional Networks (2014), section
2.1: one unit is kept, and the network run backwards, by unpooling to where each maximum was, ReLU
and transposed convolution.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from nanocnn.evaluation.receptive import output_of
from nanocnn.networks.layers import ZeroPadToFit
from nanocnn.networks.table import Shape, trace

# what is undone, and what changes nothing in evaluation
UNDONE = (nn.Conv2d, nn.ReLU, nn.MaxPool2d, ZeroPadToFit)
NEUTRAL = (nn.Identity, nn.Dropout, nn.Dropout2d, nn.Sequential)  # the last of nothing


class NotPlainError(ValueError):
    """Between the image and a layer there is more than convolution, ReLU and max pooling."""


class Rectified(torch.autograd.Function):
    """ReLU, forwards and backwards."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clamp(min=0)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad.clamp(min=0)


@torch.no_grad()
def layers_up_to(model: nn.Module, name: str, image_shape: Shape) -> list[nn.Module]:
    """The layers from the image to the convolution `name` of `model`, each of which takes what the
    one before makes.

    Raises NotPlainError where there are others, or where they are not all that happens.
    """
    model = copy.deepcopy(model).eval()
    layers: list[nn.Module] = []
    for call in trace(model, image_shape)[0]:
        if not isinstance(call.layer, UNDONE + NEUTRAL):
            raise NotPlainError(f"{call.name} is {type(call.layer).__name__}")
        if not isinstance(call.layer, NEUTRAL):
            layers.append(call.layer)
        if call.name == name:
            break
    for layer in layers:
        if isinstance(layer, nn.ReLU):
            layer.inplace = False
    device = next(model.parameters()).device
    images = torch.randn(2, *image_shape, generator=torch.Generator().manual_seed(0)).to(device)
    expected = output_of(model, model.get_submodule(name), images)
    try:
        is_all = torch.allclose(nn.Sequential(*layers)(images), expected, rtol=1e-3, atol=1e-4)
    except RuntimeError:  # they do not even fit together
        is_all = False
    if not is_all:
        raise NotPlainError("its layers do not follow each other in a single line")
    return layers


def project(layers: list[nn.Module], images: Tensor, filters: Tensor, units: Tensor) -> Tensor:
    """What of each image (B, C, H, W), normalised, a unit of the last of `layers` responded to.

    The unit is that of one of the `filters` (B,) at `units` (B,), row * width + column, of its map.
    Returns (B, C, H, W), which is zero where the unit's response is not above zero. Backwards
    through a convolution the gradient is the transposed one, and through max pooling it is
    unpooling.
    """
    with torch.inference_mode(False), torch.enable_grad():
        pixels = images.clone().requires_grad_()
        maps = pixels
        for layer in layers:
            maps = Rectified.apply(maps) if isinstance(layer, nn.ReLU) else layer(maps)
        kept = torch.zeros_like(maps).flatten(2)
        place = torch.arange(len(images), device=maps.device)
        kept[place, filters, units] = maps.detach().flatten(2)[place, filters, units].clamp(min=0)
        (found,) = torch.autograd.grad(maps, pixels, kept.view_as(maps))
    return found
