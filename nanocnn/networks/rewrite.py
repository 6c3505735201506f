"""Exact rewrites of a trained network: other layers, the same function.

folded, count = fold_batch_norm(model, image_shape)  # fewer layers, for inference
scanner = fully_convolutional(model, image_shape)  # larger images, a map of scores
"""

import copy
import time
from collections import Counter
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.modules.pooling import _AdaptiveAvgPoolNd, _AdaptiveMaxPoolNd
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval
from torch.nn.utils.parametrize import is_parametrized

from nanocnn.networks.table import by, trace
from nanocnn.system.errors import UserError

# poolings of the whole map, and what slides over a larger one
WHOLE_MAP: dict[type[nn.Module], Callable[..., nn.Module]] = {
    nn.AdaptiveAvgPool2d: nn.AvgPool2d,
    nn.AdaptiveMaxPool2d: nn.MaxPool2d,
}


def fold_batch_norm(model: nn.Module, image_shape: tuple[int, ...]) -> tuple[nn.Module, int]:
    """A copy of `model` for inference whose batch normalisation is part of the layers before; how
    many were folded.

    In inference it multiplies each channel by a constant and adds another, which the weights and
    the bias of a convolution or linear layer can do as well (Jacob et al., Quantization and
    Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference, 2018, 3.2). It is
    folded where it alone uses what such a layer computes, as the graph of one forward pass tells.
    The graph does not tell every use: a copy that computes something else on random images is given
    up, and none is folded.
    """
    folded = copy.deepcopy(model).eval().requires_grad_(True)  # without gradients there is no graph
    outputs: dict[Any, tuple[str, nn.Module]] = {}  # the layer by the node of what it computed
    calls: Counter[nn.Module] = Counter()

    def note(name: str, layer: nn.Module, output: Tensor) -> None:
        calls[layer] += 1
        outputs[output.grad_fn] = (name, layer)

    hooks = [
        layer.register_forward_hook(lambda layer, _, output, name=name: note(name, layer, output))
        for name, layer in folded.named_modules()
        if isinstance(layer, _ConvNd | nn.Linear | _BatchNorm)
    ]
    device = next((parameter.device for parameter in folded.parameters()), None)
    with torch.enable_grad():
        logits = folded(torch.zeros(1, *image_shape, device=device))
    for hook in hooks:
        hook.remove()

    uses: Counter[Any] = Counter()
    waiting, met = [logits.grad_fn], {None}
    while waiting:
        node = waiting.pop()
        if node not in met:
            met.add(node)
            sources = [source for source, _ in node.next_functions]
            uses.update(sources)
            waiting += sources

    count = 0
    for node, (norm_name, norm) in outputs.items():
        if not isinstance(norm, _BatchNorm) or norm.running_mean is None:
            continue
        source = node.next_functions[0][0]
        name, layer = outputs.get(source, ("", norm))
        if uses[source] == calls[layer] == calls[norm] == 1 and (fused := fuse(layer, norm)):
            folded.set_submodule(name, fused)
            folded.set_submodule(norm_name, nn.Identity())
            count += 1

    generator = torch.Generator().manual_seed(0)
    images = torch.randn(4, *image_shape, generator=generator).to(device)
    original = copy.deepcopy(model).eval()
    with torch.no_grad():
        expected = original(images)
        if not torch.allclose(
            folded(images), expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max())
        ):
            return original, 0
    return folded.requires_grad_(False), count


def fuse(layer: nn.Module, norm: Any) -> nn.Module | None:
    """`layer` and `norm` in one; None for what torch's own fusion does not know."""
    if layer._forward_pre_hooks or is_parametrized(
        layer
    ):  # the weights are not its own, as in weight_norm
        return None
    if isinstance(layer, nn.Linear):
        return fuse_linear_bn_eval(layer, norm) if layer.out_features == norm.num_features else None
    if isinstance(layer, _ConvTransposeNd):
        return fuse_conv_bn_eval(layer, norm, transpose=True) if layer.groups == 1 else None
    if isinstance(layer, _ConvNd):
        return fuse_conv_bn_eval(layer, norm)
    return None


@torch.inference_mode()
def gain(model: nn.Module, rewritten: nn.Module, images: Tensor) -> float:
    """How many times as fast as `model` the rewritten one is on `images`.

    Raises RuntimeError if a prediction differs and the two best logits are not equal up to
    rounding.
    """
    model.eval()
    seconds = []
    before, after = model(images), rewritten(images)  # and warm up
    for network in (model, rewritten) * 5:
        start = time.perf_counter()
        network(images)
        if images.is_cuda:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    rounding = 1e-4 * before.abs().max()
    best = before.max(1).values
    chosen = before.gather(1, after.argmax(1, keepdim=True)).squeeze(1)
    if (best - chosen > rounding).any():
        raise RuntimeError("the rewritten network predicts something else")
    return median(seconds[::2]) / median(seconds[1::2])


def fully_convolutional(model: nn.Module, image_shape: tuple[int, int, int]) -> nn.Module:
    """A copy of `model` for inference whose linear layers are convolutions: (B, C, H, W) -> (B,
    classes, h, w).

    On images of `image_shape` h = w = 1 and the scores are the logits; a larger image gives the
    scores of its parts, as if the network slid over it (Sermanet et al., OverFeat, 2014, 3.5).
    Raises UserError for a network that flattens its maps otherwise than by nn.Flatten, or does more
    to them than this knows.
    """
    scanner = copy.deepcopy(model).eval().requires_grad_(False)
    calls, _ = trace(scanner, image_shape)
    flat: tuple[int, ...] | None = (
        None  # the shape before the last flattening, until a linear layer uses it
    )
    for call in calls:
        layer = call.layer
        replacement: nn.Module | None = None
        if isinstance(layer, nn.Flatten) and len(call.input_shape) == 3:
            flat, replacement = call.input_shape, nn.Identity()
        elif type(layer) in WHOLE_MAP and call.output_shape[1:] == (1, 1):
            replacement = WHOLE_MAP[type(layer)](call.input_shape[1:], stride=1)
        elif isinstance(layer, nn.BatchNorm1d):
            replacement = nn.BatchNorm2d(layer.num_features, layer.eps, affine=layer.affine)
            replacement.load_state_dict(layer.state_dict())
        elif isinstance(layer, nn.Linear):
            channels, height, width = flat or (layer.in_features, 1, 1)
            flat = None
            replacement = nn.Conv2d(channels, layer.out_features, (height, width))
            replacement.weight.data = layer.weight.data.view_as(replacement.weight)
            replacement.bias = layer.bias
        elif isinstance(layer, _AdaptiveAvgPoolNd | _AdaptiveMaxPoolNd):
            raise UserError(f"layer {call.name} = {layer} gives larger images no larger map")
        if replacement is not None:
            scanner.set_submodule(call.name, replacement.eval().requires_grad_(False))

    device = next(model.parameters()).device
    images = torch.rand(2, *image_shape, device=device)
    was_training = model.training
    try:
        with torch.no_grad():
            logits, scores = model.eval()(images), scanner(images)
    except RuntimeError as error:
        raise UserError(f"this network cannot be made fully convolutional: {error}") from None
    finally:
        model.train(was_training)
    if scores.shape != (*logits.shape, 1, 1) or not torch.allclose(
        scores[..., 0, 0], logits, 1e-4, 1e-5
    ):
        raise UserError(
            f"this network cannot be made fully convolutional: for {by(image_shape)} images it "
            "then "
            f"gives scores of {by(scores.shape[1:])}, or other ones"
        )
    return scanner
