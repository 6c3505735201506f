"""Rounded weights leave the mean of each output where it was."""

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper

from nanocnn.deploy import quantize
from nanocnn.deploy.agreement import Examples, in_parts
from nanocnn.deploy.export import session_of

GROUPS, WIDTH, CLASSES = 4, 8, 5


@pytest.fixture
def examples():
    random = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (60, 4, 9, 11), generator=random, dtype=torch.uint8)
    return Examples("val", images, torch.zeros(60, dtype=torch.long), in_parts(images))


def linear_network(transposed):
    """Convolutions in groups and without, and a Gemm, of weights that are all above zero: what is
    rounded of them adds up.
    """
    random = np.random.default_rng(0)
    last = random.random((CLASSES, WIDTH)) if transposed else random.random((WIDTH, CLASSES))
    weights = {
        "grouped": random.random((WIDTH, 4 // GROUPS, 3, 3)) / 9 / 255,
        "dense": random.random((WIDTH, WIDTH, 3, 3)) / 9 / WIDTH,
        "last": last / WIDTH,
    }
    for name in ("grouped", "dense"):  # one large weight makes the steps of the others coarse
        weights[name][:, 0, 0, 0] *= 20
    biases = {f"{name}_bias": random.random(WIDTH) for name in ("grouped", "dense")}
    biases["last_bias"] = random.random(CLASSES)
    nodes = [
        helper.make_node("Cast", ["images"], ["float"], to=onnx.TensorProto.FLOAT),
        helper.make_node("Transpose", ["float"], ["x"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["x", "grouped", "grouped_bias"], ["a"], group=GROUPS),
        helper.make_node("Conv", ["a", "dense", "dense_bias"], ["b"]),
        helper.make_node("GlobalAveragePool", ["b"], ["c"]),
        helper.make_node("Flatten", ["c"], ["d"]),
        helper.make_node(
            "Gemm", ["d", "last", "last_bias"], ["probabilities"], transB=int(transposed)
        ),
    ]
    for place, node in enumerate(nodes):
        node.name = f"node{place}"
        if node.op_type in ("Conv", "Gemm"):
            node.metadata_props.add(key=quantize.SCOPES, value="['', 'network']")
    stored = [
        numpy_helper.from_array(values.astype(np.float32), name)
        for name, values in (weights | biases).items()
    ]
    shape = [None, None, None, 4]
    pictures = helper.make_tensor_value_info("images", onnx.TensorProto.UINT8, shape)
    logits = helper.make_tensor_value_info("probabilities", onnx.TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "network", [pictures], [logits], stored)
    opset = [helper.make_opsetid("", 20)]
    return helper.make_model(graph, opset_imports=opset, ir_version=10)


def means(proto, examples):
    session = session_of(proto.SerializeToString())
    pictures = np.concatenate(examples.pictures)
    return session.run(["probabilities"], {"images": pictures})[0].mean(0)


@pytest.mark.parametrize("transposed", [True, False])
def test_means_stay_where_they_were(transposed, examples, monkeypatch):
    monkeypatch.setattr(quantize, "left_whole", lambda *_: set())
    proto = linear_network(transposed)
    exact = means(proto, examples)
    corrected = np.abs(means(quantize.quantized(proto, examples), examples) - exact).max()
    monkeypatch.setattr(quantize, "correct_biases", lambda *_: None)
    plain = np.abs(means(quantize.quantized(proto, examples), examples) - exact).max()
    assert corrected < plain / 3, (corrected, plain)
    assert (means(proto, examples) == exact).all()  # the network that was given is not changed
