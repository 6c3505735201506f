"""Exact rewrites of a trained network: other layers, the same function.

folded = fold_batch_norm(model, image_shape).model  # fewer layers, for inference
scanner = fully_convolutional(model, image_shape)  # larger images, a map of scores
"""

import copy
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.modules.pooling import _AdaptiveAvgPoolNd, _AdaptiveMaxPoolNd
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval
from torch.nn.utils.parametrize import is_parametrized

from nanocnn.networks.table import size_text, trace
from nanocnn.system.errors import UserError

# poolings of the whole map, and what slides over a larger one
WHOLE_MAP: dict[type[nn.Module], Callable[..., nn.Module]] = {
    nn.AdaptiveAvgPool2d: nn.AvgPool2d,
    nn.AdaptiveMaxPool2d: nn.MaxPool2d,
}


class Folding(NamedTuple):
    model: nn.Module  # for inference
    layers: int  # of batch normalisation that became part of others
    exact: bool  # false: some could have, but the network would compute something else


def fold_batch_norm(model: nn.Module, image_shape: tuple[int, ...]) -> Folding:
    """A copy of `model` for inference whose batch normalisation is part of the layers before.

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
            return Folding(original, 0, exact=False)
    return Folding(folded.requires_grad_(False), count, exact=True)


def fuse(layer: nn.Module, norm: Any) -> nn.Module | None:
    """`layer` and `norm` in one; None for what torch's own fusion does not know."""
    # the weights are not its own, as in weight_norm
    if layer._forward_pre_hooks or is_parametrized(layer):
        return None
    if isinstance(layer, nn.Linear):
        return fuse_linear_bn_eval(layer, norm) if layer.out_features == norm.num_features else None
    if isinstance(layer, _ConvTransposeNd):
        return fuse_conv_bn_eval(layer, norm, transpose=True) if layer.groups == 1 else None
    if isinstance(layer, _ConvNd):
        return fuse_conv_bn_eval(layer, norm)
    return None


def fully_convolutional(model: nn.Module, image_shape: tuple[int, int, int]) -> nn.Module:
    """A copy of `model` whose linear layers are convolutions: to scores (B, classes, h, w).

    On images of `image_shape` h = w = 1 and the scores are the logits; a larger image gives the
    scores of its parts, as if the network slid over it (Sermanet et al., OverFeat, 2014, 3.5).
    Raises UserError for a network that flattens its maps otherwise than by nn.Flatten, or does more
    to them than this knows.
    """
    scanner = copy.deepcopy(model).eval().requires_grad_(False)
    calls, _ = trace(scanner, image_shape)
    # the shape before the last flattening, until a linear layer uses it
    flat: tuple[int, ...] | None = None
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
            "this network cannot be made fully convolutional: for images of "
            f"{size_text(image_shape)} it then gives scores of {size_text(scores.shape[1:])}, "
            "or other ones"
        )
    return scanner
