"""The network of an ONNX file in integers of 8 bits, what stands before and behind it as it was."""

import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np

from nanocnn.deploy.agreement import Examples, judged_by
from nanocnn.deploy.export import INPUT, OUTPUTS, by_onnxruntime, session_of, silent
from nanocnn.system.errors import UserError

CALIBRATED_ON = 200  # images
MOST_JUDGED = 2000  # images
TIMED = 30  # calls
LOST = 0.005  # of the accuracy, beyond which it is said
SCOPES = "pkg.torch.onnx.name_scopes"  # of the modules that a node comes from
COMPUTED = ["Conv", "Gemm", "MatMul", "Add", "MaxPool", "AveragePool", "GlobalAveragePool"]


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


def quantized(proto: Any, examples: Examples) -> Any:
    """`proto` with its network in int8: weights by channel, maps calibrated on `examples`.

    Numbers are rounded between layers (QDQ), which ONNX Runtime and others compute in integers.
    Weights use 7 of the 8 bits: on processors without VNNI instructions sums of 8 bits overflow.
    Source: B. Jacob et al., Quantization and Training of Neural Networks for Efficient
    Integer-Arithmetic-Only Inference (2018).
    """
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

    of_network = [
        node.name
        for node in proto.graph.node
        if any(each.key == SCOPES and "'network" in each.value for each in node.metadata_props)
    ]
    if not of_network:
        raise UserError("--quantize int8: this network has no layer that it could act on")
    with TemporaryDirectory() as folder, silent():
        path = Path(folder, "int8.onnx")
        quantize_static(
            proto,
            path,
            Reader(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=COMPUTED,
            nodes_to_quantize=of_network,
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
        )
        import onnx

        return onnx.load(path)


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
