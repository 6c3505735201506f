"""The network that is computed: the same function as that of model.py, faster on this machine."""

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nanocnn.networks.exchange import exchanged
from nanocnn.networks.fused import OWN, reordered
from nanocnn.networks.linear import OneDNNLinear, is_zen_5
from nanocnn.networks.norm_pool import NormPool
from nanocnn.networks.small_maps import SmallMapConv2d
from nanocnn.networks.tiny_maps import TinyMapConv2d, keeps_size

LARGEST_SIDE = 64  # of images that become tiny maps, or whose linear layers take much of the time
# what a `forward` raises that misses a layer where it was
BREAKS = (RuntimeError, ValueError, TypeError, LookupError, AttributeError, AssertionError)

View = Callable[[nn.Module], nn.Module]


def fast_view(model: nn.Module, image_shape: Sequence[int]) -> nn.Module:
    """A network with the very parameters and buffers of `model`, and the same function up to
    rounding of images (C, H, W): see `reordered` and `class_for`.

    Its containers have a mode of training or evaluation of their own. Where a trial finds another
    function, in training or in evaluation, or a network that cannot learn, `model` itself comes
    back, as it does where nothing is gained.
    """
    views: list[View] = []
    if max(image_shape[1:]) <= LARGEST_SIDE:
        views.append(lambda network: exchanged(network, class_for))
    if any(isinstance(layer, nn.MaxPool2d) for layer in model.modules()):
        rest = views[0] if views else lambda network: network
        views.insert(0, lambda network: rest(reordered(network)))
    keeps_more = any(
        type(layer).get_extra_state is not nn.Module.get_extra_state for layer in model.modules()
    )
    for view in () if keeps_more else views:
        if is_same_function(model, view, image_shape):
            return view(model)
    return model


def class_for(layer: nn.Module) -> type[nn.Module]:
    """That of a layer which computes the same as `layer`, and faster here."""
    if type(layer) is nn.Flatten:
        return LaidOutFlatten
    if type(layer) is nn.Linear and is_zen_5():
        return OneDNNLinear
    if type(layer) is nn.Conv2d and OWN.isdisjoint(vars(layer)):
        return TinyMapConv2d if keeps_size(layer) else SmallMapConv2d
    return type(layer)


class LaidOutFlatten(nn.Flatten):
    """A flattening whose gradient lies in memory as the maps do.

    It would come as (B, C, H, W), and layers whose map and gradient lie differently are slow.
    """

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim == 4 and x.requires_grad and x.is_contiguous(memory_format=torch.channels_last):
            x.register_hook(lambda grad: grad.contiguous(memory_format=torch.channels_last))
        return super().forward(x)


def is_same_function(model: nn.Module, view: View, image_shape: Sequence[int]) -> bool:
    """Whether a copy of `model` and the `view` of it give the same, and that one can learn."""
    device = next((parameter.device for parameter in model.parameters()), None)
    count = max(2, min(16, 2**20 // math.prod(image_shape)))
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        images = torch.rand(count, *image_shape).to(device, memory_format=torch.channels_last)
        try:
            trial = copy.deepcopy(model)
            # first weights of zero would hide everything before them
            for parameter in trial.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape).to(parameter))
            for training in (True, False):
                torch.manual_seed(1)  # of dropout
                expected = tensors_of(trial.train(training)(images))
                trial.train(not training)  # which shows where the view reaches into `model`
                torch.manual_seed(1)
                outputs = learnt_from(view(trial).train(training), images, training)
                if len(outputs) != len(expected) or not all(map(is_close, outputs, expected)):
                    return False
        except BREAKS:
            return False  # its parts do not even fit together any more
        fast = view(trial)
        if not (is_zen_5() and any(isinstance(each, SmallMapConv2d) for each in fast.modules())):
            return True
        # what is computed otherwise in bf16 alone is only seen to work
        return learns_in_bf16(fast, images) or not learns_in_bf16(trial, images)


def learns_in_bf16(network: nn.Module, images: Tensor) -> bool:
    """Whether it makes a step back in bf16 without an error."""
    try:
        with torch.autocast("cpu", torch.bfloat16):
            learnt_from(network.train(), images, training=True)
    except BREAKS:
        return False
    return True


def learnt_from(network: nn.Module, images: Tensor, training: bool) -> list[Tensor]:
    """Its outputs, after a step back where it trains."""
    for layer in network.modules():
        if isinstance(layer, NormPool):
            layer.least = 0
        if isinstance(layer, SmallMapConv2d):
            layer.least = layer.least_strided = 0
    with torch.set_grad_enabled(training):
        outputs = tensors_of(network(images))
        learning = [output.sum() for output in outputs if output.requires_grad]
        if learning:  # what follows may change in place what is needed for gradients
            torch.stack(learning).sum().backward()
    return outputs


def tensors_of(outputs: Any) -> list[Tensor]:
    """The tensors in what a network returns: logits, and perhaps those of auxiliary heads with
    their weights.
    """
    if isinstance(outputs, tuple):
        return [tensor for output in outputs for tensor in tensors_of(output)]
    return [torch.as_tensor(outputs)]


def is_close(one: Tensor, other: Tensor) -> bool:
    return torch.allclose(one, other, rtol=1e-3, atol=1e-3 * float(one.abs().max()))
