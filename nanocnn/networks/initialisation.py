"""The weights that training starts from, where the config does not leave them to the network."""

import math

from torch import nn
from torch.nn.modules.conv import _ConvNd

from nanocnn.networks.table import trace

GAINS: dict[type[nn.Module], str] = {
    nn.ReLU: "relu",
    nn.ReLU6: "relu",
    nn.GELU: "relu",  # nearly, as the next two
    nn.SiLU: "relu",
    nn.Hardswish: "relu",
    nn.LeakyReLU: "leaky_relu",
    nn.Tanh: "tanh",
    nn.Sigmoid: "sigmoid",
}


def initialise(
    model: nn.Module,
    image_shape: tuple[int, ...],
    name: str,
    bias: float,
    std: float = 0.01,
) -> None:
    """Draw the weights of all convolutions and linear layers anew, and set their biases to `bias`.

    `kaiming` (He et al., Delving Deep into Rectifiers, 2015) and `xavier` (Glorot and Bengio,
    Understanding the Difficulty of Training Deep Feedforward Neural Networks, 2010) draw from
    normal distributions whose width suits the activation that follows the layer, as far as it is a
    module; `normal` has the width `std`.
    """
    calls, _ = trace(model, image_shape)
    following: dict[nn.Module, nn.Module] = {}
    last = None
    for call in calls:
        if isinstance(call.layer, _ConvNd | nn.Linear):
            last = call.layer
        elif last is not None and type(call.layer) in GAINS:
            following.setdefault(last, call.layer)
            last = None

    for layer in model.modules():
        if not isinstance(layer, _ConvNd | nn.Linear):
            continue
        activation = following.get(layer)
        kind = GAINS[type(activation)] if activation is not None else "linear"
        gain = nn.init.calculate_gain(kind, getattr(activation, "negative_slope", None))  # type: ignore[arg-type]
        if name == "kaiming":
            fan_in = layer.weight[0].numel()
            nn.init.normal_(layer.weight, std=gain / math.sqrt(fan_in))
        elif name == "xavier":
            nn.init.xavier_normal_(layer.weight, gain)
        else:
            nn.init.normal_(layer.weight, std=std)
        if layer.bias is not None:
            nn.init.constant_(layer.bias, bias)
