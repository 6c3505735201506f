"""Rounded weights shift the mean of what a layer computes; its bias takes that back.

Source: M. Nagel et al., Data-Free Quantization Through Weight Equalization and Bias Correction
(2019), section 4.2, with means of images in the place of those that batch normalisation implies.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np

from nanocnn.deploy.export import INPUT, session_of

CORRECTED = ("Conv", "Gemm")  # the layers that have a bias


def correct_biases(quantized: Any, proto: Any, pictures: Iterable[np.ndarray]) -> None:
    """Change the biases of `quantized`, in QDQ form, by what the rounded weights add to each
    channel's mean, where the layers read what they read in `proto`: with `pictures`, each
    (1, height, width, C).

    What is padded with zeros at the borders is counted as if it were within.
    """
    from onnx import numpy_helper

    before, after = (
        {each.name: each for each in model.graph.initializer} for model in (proto, quantized)
    )
    layers = {node.name: node for node in proto.graph.node}
    made_by = {output: node for node in quantized.graph.node for output in node.output}
    rounded = [
        node
        for node in quantized.graph.node
        if node.op_type in CORRECTED
        and len(node.input) > 2
        and all(each in made_by and made_by[each].input[0] in after for each in node.input[1:])
    ]
    means = means_of(proto, sorted({layers[node.name].input[0] for node in rounded}), pictures)
    for node in rounded:
        layer = layers[node.name]
        weight, bias = (made_by[name] for name in node.input[1:])
        error = of_integers(weight, after) - numpy_helper.to_array(before[layer.input[1]])
        shift = shift_of(layer, error, means[layer.input[0]])
        values, scale = (numpy_helper.to_array(after[name]) for name in bias.input[:2])
        # a channel whose weights are all zero is not rounded, and may have a scale of zero
        steps = np.divide(shift, scale, out=np.zeros_like(shift), where=shift != 0)
        corrected = np.rint(values - steps).astype(values.dtype)
        stored = after[bias.input[0]]
        stored.CopyFrom(numpy_helper.from_array(corrected, stored.name))


def of_integers(node: Any, stored: dict[str, Any]) -> np.ndarray:
    """What a DequantizeLinear of `stored` integers makes of them, float64."""
    from onnx import numpy_helper

    values, scale, zero = (numpy_helper.to_array(stored[name]) for name in node.input[:3])
    axis = next((each.i for each in node.attribute if each.name == "axis"), 1)
    sides = [-1 if place == axis and scale.size > 1 else 1 for place in range(values.ndim)]
    return (values.astype(np.float64) - zero.reshape(sides)) * scale.reshape(sides)


def shift_of(layer: Any, error: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """(out channels,): what `error` in the weights adds to the mean of each output, if `mean`
    (in channels,) is that of the input.
    """
    found = {each.name: each.i for each in layer.attribute}
    if layer.op_type == "Gemm":
        return (error if found.get("transB") else error.T) @ mean
    groups = found.get("group", 1)
    by_channel = error.sum(axis=tuple(range(2, error.ndim)))  # (out, in of a group)
    of_group = np.repeat(mean.reshape(groups, -1), len(error) // groups, axis=0)
    return (by_channel * of_group).sum(1)


def means_of(proto: Any, names: list[str], pictures: Iterable[np.ndarray]) -> dict[str, np.ndarray]:
    """Of what is passed on under each of these names the mean of each channel, over pictures."""
    import onnx

    watched = onnx.ModelProto()
    watched.CopyFrom(proto)
    known = {each.name for each in watched.graph.output}
    watched.graph.output.extend(
        onnx.ValueInfoProto(name=name) for name in names if name not in known
    )
    session = session_of(watched.SerializeToString())
    sums: list[np.ndarray] = [np.zeros(())] * len(names)
    count = 0
    for picture in pictures:
        found = session.run(names, {INPUT: picture})
        for place, values in enumerate(found):
            within = tuple(range(2, values.ndim))
            sums[place] = sums[place] + values[0].mean(tuple(each - 1 for each in within))
        count += 1
    return {name: total / count for name, total in zip(names, sums, strict=True)}
