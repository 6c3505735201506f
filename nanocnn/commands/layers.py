"""Print the layer table of a config's network: output sizes, parameters, multiply-accumulates.

nanocnn layers --config mnist.yaml
nanocnn layers --config vgg11.yaml model.width=0.5
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from nanocnn.config.command_line import add_config, add_networks, script_parser
from nanocnn.system.output import deliver
from nanocnn.system.startup import check_memory_limits


def main(arguments: Sequence[str], models: Mapping[str, Callable[..., Any]] | None = None) -> None:
    """`models` are those of the model.py that calls this; else the command finds one."""
    parser = script_parser("nanocnn layers" if models is None else "model.py", __doc__)
    add_config(parser)
    if models is None:
        add_networks(parser)
    args = parser.read(arguments)

    from nanocnn.config.load import read_draft

    draft = read_draft(args.config, args.overrides)
    check_memory_limits()
    from nanocnn.images.splits import class_names, image_shape
    from nanocnn.networks.build import build_network, catalogue
    from nanocnn.networks.model_file import find_networks
    from nanocnn.networks.table import layer_table

    networks = find_networks(args.model) if models is None else catalogue(models)
    config = draft.check(networks)
    shape, classes = image_shape(config.data), len(class_names(config.data))
    deliver(
        f"{layer_table(build_network(config, networks, shape, classes), shape)}\n"
        "F, S, P, G: side of the window (with a dilation from its first pixel to its last), "
        "stride,\n"
        "padding, groups; multiply-accumulates are those of convolutions and linear layers\n"
    )
