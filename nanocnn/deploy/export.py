"""From a network that can leave to the files in which it does."""

import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any

import numpy as np
import torch
from torch.export import Dim, ExportedProgram

from nanocnn.deploy.graph import compute_one
from nanocnn.deploy.portable import Portable
from nanocnn.system.errors import UserError

INPUT, OUTPUTS = "images", ("probabilities", "map")
KEY = "nanocnn"  # of what an ONNX file says of itself
FACTS = "nanocnn.json"  # the same within a file of torch.export
EXPORT = 'pip install "nanocnn[export]", or pip install -e ".[export]" in a clone'
MOST_BYTES = 2**31 - 2**20  # that one ONNX file can hold

# pictures (N, H, W, C) uint8 -> probabilities (N, classes)
Judge = Callable[[np.ndarray], np.ndarray]


def check_packages() -> None:
    """Raises UserError where a package that ONNX needs is not installed."""
    from importlib.util import find_spec

    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if find_spec(name) is None]
    if missing:
        raise UserError(f"--onnx needs the package {missing[0]}: {EXPORT}")


@contextmanager
def silent() -> Iterator[None]:
    """What the exporter tells of itself is not shown."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(),
            redirect_stdout(io.StringIO()),
            redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def program_of(model: Portable) -> ExportedProgram:
    """`model` for any number of pictures of any size.

    Raises UserError for a network that torch cannot follow.
    """
    channels, height, width = model.resizing.form.shape
    images = torch.zeros(2, height + 3, width + 5, channels, dtype=torch.uint8)
    sizes = {axis: Dim(name, min=1) for axis, name in enumerate("NHW")}
    try:
        with silent(), torch.no_grad():
            return torch.export.export(model, (images,), dynamic_shapes=(sizes,))
    except Exception as error:  # noqa: BLE001  whatever torch stumbles on
        raise UserError(f"this network cannot be exported: {first_line(error)}") from None


def onnx_of(program: ExportedProgram, outputs: int) -> Any:
    """The same as a model of ONNX. Raises UserError for what ONNX has no words for."""
    try:
        with silent():
            made = torch.onnx.export(
                program,
                dynamo=True,
                verbose=False,
                input_names=[INPUT],
                output_names=list(OUTPUTS[:outputs]),
            )
            assert made is not None
            proto = made.model_proto
    except Exception as error:  # noqa: BLE001  whatever torch stumbles on
        raise UserError(
            f"this network cannot be exported to ONNX: {first_line(error)}; --torch FILE may do"
        ) from None
    if proto.ByteSize() > MOST_BYTES:
        raise UserError("this network is too large for one ONNX file; --torch FILE has no limit")
    compute_one(proto.graph)
    name_axes(proto.graph)
    return proto


def first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def name_axes(graph: Any) -> None:
    """Give the sizes that a call chooses their names."""
    axes = {INPUT: ["N", "H", "W"], OUTPUTS[0]: ["N"], OUTPUTS[1]: ["N"]}
    for value in (*graph.input, *graph.output):
        for dim, name in zip(value.type.tensor_type.shape.dim, axes[value.name], strict=False):
            dim.dim_param = name
    del graph.value_info[:]  # they have the exporter's names of the same sizes


def onnx_bytes(proto: Any, facts: Mapping[str, Any]) -> bytes:
    """The content of a file, which says the `facts` of itself."""
    from onnx import helper

    helper.set_model_props(proto, {KEY: json.dumps(facts)})
    content: bytes = proto.SerializeToString()
    return content


def program_bytes(program: ExportedProgram, facts: Mapping[str, Any]) -> bytes:
    """The content of a file for torch.export.load."""
    buffer = io.BytesIO()
    with silent():
        torch.export.save(program, buffer, extra_files={FACTS: json.dumps(facts)})
    return buffer.getvalue()


def session_of(content: bytes, threads: int = 0) -> Any:
    """ONNX Runtime with a file's content, on the CPU; 0 threads are as many as it likes."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def by_onnxruntime(content: bytes) -> Judge:
    session = session_of(content)

    def judge(pictures: np.ndarray) -> np.ndarray:
        found: np.ndarray = session.run([OUTPUTS[0]], {INPUT: pictures})[0]
        return found

    return judge


def by_torch(content: bytes) -> Judge:
    model = torch.export.load(io.BytesIO(content)).module()

    def judge(pictures: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            found: np.ndarray = model(torch.from_numpy(pictures))[0].numpy()
        return found

    return judge
