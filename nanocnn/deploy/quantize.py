"""The network of an ONNX file in integers of 8 bits, what stands before and behind it as it was."""

import time
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np

from nanocnn.deploy.agreement import Examples, judged_by
from nanocnn.deploy.bias_correction import correct_biases
from nanocnn.deploy.export import INPUT, OUTPUTS, by_onnxruntime, session_of, silent
from nanocnn.system.errors import UserError

CALIBRATED_ON = 200  # images
MOST_JUDGED = 2000  # images
TIMED = 30  # calls
LOST = 0.005  # of the accuracy, beyond which it is said
FEW_IMAGES = 3  # lost on a small validation set are chance, and say nothing of 7 or 8 bits
FIRST, LAST = 0.001, 0.02  # of all weights, up to which the first and last layers stay as they are
WEIGHTED = ("Conv", "Gemm", "MatMul")
SCOPES = "pkg.torch.onnx.name_scopes"  # of the modules that a node comes from
COMPUTED = [
    *(*WEIGHTED, "Add", "Relu", "Clip"),
    *("MaxPool", "AveragePool", "GlobalAveragePool"),
]


class Figures(NamedTuple):
    """Of a file."""

    size: int  # bytes
    accuracy: float  # on the validation images
    milliseconds: float  # an image, one at a time

    def __str__(self) -> str:
        return (
            f"{self.size / 1e6:.2f} MB, {self.milliseconds:.2f} ms an image, accuracy "
            f"{self.accuracy:.2%}"
        )


def quantized(proto: Any, examples: Examples, full: bool = False) -> Any:
    """`proto` with its network in int8: weights by channel, maps calibrated on `examples`.

    Numbers are rounded between layers (QDQ), which ONNX Runtime and others compute in integers.
    The first layers and the last, where they have few weights, stay as they are: every later layer
    passes on what is rounded there, and they take no room. Where a processor has no VNNI
    instructions, its sums of two products of 8 bits overflow: but for depthwise convolutions,
    which are computed otherwise, weights have 7 bits. With `full` they have 8, without a sign,
    which overflows nowhere and takes longer. Biases take back what that shifts. Source: B. Jacob
    et al., Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
    Inference (2018).
    """
    import onnx
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.pictures: Iterator[np.ndarray] = iter(one_by_one(examples, CALIBRATED_ON))

        def get_next(self) -> dict[str, np.ndarray] | None:
            picture = next(self.pictures, None)
            return None if picture is None else {INPUT: picture}

    of_network = [node for node in proto.graph.node if is_of_network(node)]
    whole = left_whole(proto.graph, of_network)
    of_network = [node for node in of_network if node.name not in whole]
    if not any(node.op_type in WEIGHTED for node in of_network):
        raise UserError("--quantize int8: this network has no layer that it could act on")
    wide = {"quant_type": QuantType.QInt8, "reduce_range": False, "axis": 0}
    overrides = {name: [wide] for name in depthwise(proto.graph, of_network)}
    with TemporaryDirectory() as folder, silent():
        path = Path(folder, "int8.onnx")
        copied = onnx.ModelProto()
        copied.CopyFrom(proto)  # the weights of what it is given go elsewhere
        quantize_static(
            copied,
            path,
            Reader(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=COMPUTED,
            nodes_to_quantize=[node.name for node in of_network],
            per_channel=True,
            reduce_range=not full,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QUInt8 if full else QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
            extra_options={} if full else {"TensorQuantOverrides": overrides},
        )
        found = onnx.load(path)
    correct_biases(found, proto, one_by_one(examples, CALIBRATED_ON))
    return found


def is_of_network(node: Any) -> bool:
    return any(each.key == SCOPES and "'network" in each.value for each in node.metadata_props)


def left_whole(graph: Any, nodes: Iterable[Any]) -> set[str]:
    """The names of the `nodes` that are not rounded: the first layers that together have hardly any
    weights, and the last if it has few.
    """
    sizes = {each.name: int(np.prod(each.dims)) for each in graph.initializer}
    layers = [
        (node.name, sizes[node.input[1]])
        for node in nodes
        if node.op_type in WEIGHTED and node.input[1] in sizes
    ]
    total = sum(size for _, size in layers)
    found = {name for name, size in layers[-1:] if size <= LAST * total}
    so_far = 0
    for name, size in layers:
        so_far += size
        if so_far > FIRST * total:
            break
        found.add(name)
    return found


def depthwise(graph: Any, nodes: Iterable[Any]) -> set[str]:
    """The weights of convolutions that have a channel each, of these `nodes`."""
    shapes = {each.name: list(each.dims) for each in graph.initializer}
    weights = {node.input[1] for node in nodes if node.op_type == "Conv"}
    return {name for name in weights if name in shapes and shapes[name][1] == 1 < shapes[name][0]}


def one_by_one(examples: Examples, most: int) -> Iterator[np.ndarray]:
    """Of the pictures at most so many, evenly spaced, each (1, height, width, C)."""
    every = max(1, len(examples.labels) // most)
    pictures = (part[place : place + 1] for part in examples.pictures for place in range(len(part)))
    return islice(pictures, 0, most * every, every)


def figures_of(contents: list[bytes], examples: Examples) -> list[Figures]:
    """Size, accuracy and time of several files; the time in turns, as the machine may be busy."""
    sessions = [session_of(content) for content in contents]
    pictures = list(one_by_one(examples, TIMED))
    times: list[list[float]] = [[] for _ in sessions]
    for picture in (pictures[0], *pictures):
        for session, seconds in zip(sessions, times, strict=True):
            start = time.perf_counter()
            session.run([OUTPUTS[0]], {INPUT: picture})
            seconds.append(time.perf_counter() - start)
    labels = examples.labels.numpy()
    return [
        Figures(
            len(content),
            float((judged_by(by_onnxruntime(content), examples).argmax(1) == labels).mean()),
            1e3 * float(np.median(seconds[1:])),
        )
        for content, seconds in zip(contents, times, strict=True)
    ]
