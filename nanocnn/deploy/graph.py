"""The graph of an ONNX file, put to rights."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

RANK = 4  # of pictures


def compute_one(graph: Any) -> None:
    """Let `graph` compute only what it takes, where a condition chooses between two pictures.

    What an exporter makes of torch.where(condition, one, other) computes both. Here it becomes an
    If, and what only one of them needs goes into that branch.
    """
    ranks = {value.name: len(value.type.tensor_type.shape.dim) for value in graph.value_info}
    nodes = with_branches(list(graph.node), {output.name for output in graph.output}, ranks)
    del graph.node[:]
    graph.node.extend(nodes)
    made = {name for node in nodes for name in node.output}
    used = uses(nodes)
    for kept, names in ((graph.value_info, made), (graph.initializer, used)):
        there = [each for each in kept if each.name in names]
        del kept[:]
        kept.extend(there)


def with_branches(nodes: list[Any], wanted: set[str], ranks: dict[str, int]) -> list[Any]:
    """`nodes`, which give the values `wanted`, with an If for each choice between pictures."""
    from onnx import ValueInfoProto, helper

    for place in reversed(range(len(nodes))):
        node = nodes[place]
        if node.op_type != "Where" or ranks.get(node.input[0]) != 0:
            continue
        if any(ranks.get(name) != RANK for name in node.input[1:]):
            continue
        graphs: list[Any] = []
        moved: set[int] = set()
        for name in node.input[1:]:
            own = only_for(name, nodes, wanted)
            moved |= {id(each) for each in own}
            inner = with_branches(own, {name}, ranks)
            output = f"{node.output[0]}_{len(graphs)}"
            inner.append(helper.make_node("Identity", [name], [output]))
            graphs.append(helper.make_graph(inner, output, [], [ValueInfoProto(name=output)]))
        choice = helper.make_node(
            "If",
            [node.input[0]],
            list(node.output),
            name=node.name,
            then_branch=graphs[0],
            else_branch=graphs[1],
        )
        rest = [*nodes[:place], choice, *nodes[place + 1 :]]
        return with_branches([each for each in rest if id(each) not in moved], wanted, ranks)
    return nodes


def only_for(name: str, nodes: Sequence[Any], wanted: set[str]) -> list[Any]:
    """Those of `nodes` that nothing needs but what makes the value `name`, in their order."""
    left = uses(nodes)
    left.update(wanted)
    left[name] -= 1
    found = []
    for node in reversed(nodes):
        if not any(left[output] for output in node.output):
            found.append(node)
            left.subtract(uses([node]))
    return found[::-1]


def uses(nodes: Iterable[Any]) -> Counter[str]:
    """How often each value is an input, in branches too."""
    found: Counter[str] = Counter()
    for node in nodes:
        found.update(node.input)
        for attribute in node.attribute:
            if attribute.HasField("g"):
                found.update(uses(attribute.g.node))
                found.update(output.name for output in attribute.g.output)
    return found
