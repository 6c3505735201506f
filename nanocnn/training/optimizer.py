"""The optimizer, and which layers it changes."""

from collections import defaultdict
from collections.abc import Callable
from fnmatch import fnmatchcase
from inspect import unwrap
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from nanocnn.config.schema import Group, Muon, Optimizer
from nanocnn.networks.pretrained import output_layers
from nanocnn.networks.sizes import ImageShape
from nanocnn.networks.table import trace
from nanocnn.system.errors import UserError


def without_compiler(kind: type[torch.optim.Optimizer]) -> Any:
    """An optimizer of torch.optim that does not import torch.compile, which takes two seconds.

    torch wraps the methods of its optimizers so that torch.compile leaves them alone; here it never
    sees them.
    """
    wrapped = ("add_param_group", "zero_grad", "state_dict", "load_state_dict", "step")
    methods = {name: unwrap(getattr(kind, name)) for name in wrapped}
    return type(kind.__name__, (kind,), methods | {"step": torch.no_grad()(methods["step"])})


OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": without_compiler(torch.optim.SGD),
    "adagrad": without_compiler(torch.optim.Adagrad),
    "adadelta": without_compiler(torch.optim.Adadelta),
    "rmsprop": without_compiler(torch.optim.RMSprop),
    "adam": without_compiler(torch.optim.Adam),
    "adamw": without_compiler(torch.optim.AdamW),
}

ADAMW_DECAY = 0.01  # the default of torch.optim.AdamW

# where torch changes all weights in one kernel
FUSED = {
    "sgd": {"cpu", "cuda", "mps"},
    "adagrad": {"cpu", "cuda"},
    "adam": {"cpu", "cuda", "mps"},
    "adamw": {"cpu", "cuda", "mps"},
}


def build_optimizer(
    config: Optimizer, model: nn.Module, image_shape: ImageShape
) -> torch.optim.Optimizer:
    """The optimizer of all parameters of a network for images (C, H, W).

    Those of a group with `lr_mult: 0` are frozen. Raises UserError for a group that no parameter is
    left for, and for Muon without a hidden layer.
    """
    groups = parameter_groups(config, model, image_shape)
    if not groups:
        raise UserError(
            "optimizer.groups: lr_mult = 0 for every parameter: nothing is left to train"
        )
    freeze_frozen_statistics(model)
    arguments = config.model_dump(
        exclude={"name", "groups", "decay_norm_and_bias", "backbone_lr_mult"}
    )
    if isinstance(config, Muon):
        return MuonAndAdamW(groups, hidden_weights(model, image_shape), arguments)
    for group in groups:
        group["weight_decay"] = config.weight_decay * group.pop("decay_mult")
    if groups[0]["params"][0].device.type in FUSED.get(config.name, ()):
        arguments["fused"] = True
    return OPTIMIZERS[config.name](groups, **arguments)


def parameter_groups(
    config: Optimizer, model: nn.Module, image_shape: ImageShape
) -> list[dict[str, Any]]:
    """Parameters of one lr_mult and decay_mult each, in the order of `config.groups`.

    The first group that matches counts, and then the backbone. Frozen parameters are in none.
    """
    rest = {name: p for name, p in model.named_parameters() if p.requires_grad}
    chosen: list[tuple[Group, list[nn.Parameter]]] = []
    for group in config.groups:
        names = [name for name in rest if fnmatchcase(name, group.match)]
        if not names:
            layers = dict.fromkeys(name.rpartition(".")[0] for name in rest)
            raise UserError(
                f"optimizer.groups: {group.match!r} matches no parameter that an earlier group "
                f"has left; the layers left are {', '.join(layers)}, each with .weight or .bias"
            )
        chosen.append((group, [rest.pop(name) for name in names]))
    if config.backbone_lr_mult != 1:
        heads = tuple(f"{name}." for name in output_layers(model, image_shape))
        backbone = [rest.pop(name) for name in [*rest] if not name.startswith(heads)]
        if not backbone:
            raise UserError(
                "optimizer.backbone_lr_mult: cannot act, since optimizer.groups leave no "
                "parameter before the last layer"
            )
        chosen.append((Group(match="*", lr_mult=config.backbone_lr_mult), backbone))
    chosen.append((Group(match="*"), list(rest.values())))

    groups: list[dict[str, Any]] = []
    for group, parameters in chosen:
        if group.lr_mult == 0:
            for parameter in parameters:
                parameter.requires_grad_(False)
            continue
        by_decay: dict[float, list[nn.Parameter]] = {}
        for parameter in parameters:
            spared = parameter.ndim <= 1 and not config.decay_norm_and_bias
            by_decay.setdefault(0.0 if spared else group.decay_mult, []).append(parameter)
        for decay_mult, parameters in by_decay.items():
            groups.append(
                {"params": parameters, "lr_mult": group.lr_mult, "decay_mult": decay_mult}
            )
    return groups


class MuonAndAdamW(without_compiler(torch.optim.Optimizer)):  # type: ignore[misc]
    """torch's Muon for the `hidden` weights and torch's AdamW for the rest, with one state for
    both.

    Sources: K. Jordan et al., Muon: An Optimizer for Hidden Layers in Neural Networks (2024), which
    takes a convolution's weights (C_out, C_in, H, W) as the matrix (C_out, C_in * H * W); Liu et
    al., Muon Is Scalable for LLM Training (2025), whose `match_rms_adamw` lets both have one
    learning rate. AdamW has its defaults, but no weight decay where Muon has none. Raises UserError
    where no `hidden` weight is to be trained.
    """

    def __init__(
        self, groups: list[dict[str, Any]], hidden: set[Tensor], arguments: dict[str, Any]
    ):
        for_muon, for_adamw = (
            [
                {
                    "params": [p for p in group["params"] if (p in hidden) == is_hidden],
                    "lr_mult": group["lr_mult"],
                    "weight_decay": decay * group["decay_mult"],
                }
                for group in groups
            ]
            for is_hidden, decay in (
                (True, arguments["weight_decay"]),
                (False, ADAMW_DECAY if arguments["weight_decay"] else 0.0),
            )
        )
        if not any(group["params"] for group in for_muon):
            raise UserError(
                "optimizer.name = muon: has nothing to train; it takes the weights of "
                "convolutions and linear layers but those of the output layer"
            )
        matrices = [group | {"params": list(map(as_matrix, group["params"]))} for group in for_muon]
        self.muon = without_compiler(torch.optim.Muon)(matrices, **arguments)
        for_muon = [
            filled | {"params": group["params"]}
            for filled, group in zip(self.muon.param_groups, for_muon, strict=True)
        ]
        self.adamw = OPTIMIZERS["adamw"](for_adamw, lr=arguments["lr"], fused=True)
        super().__init__(for_muon + self.adamw.param_groups, {})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Lend both their groups and state, of which this optimizer alone is the owner."""
        count = len(self.muon.param_groups)
        for_muon, for_adamw = self.param_groups[:count], self.param_groups[count:]
        matrices: dict[nn.Parameter, Tensor] = {}
        for parameter in (p for group in for_muon for p in group["params"] if p.grad is not None):
            matrices[parameter] = as_matrix(parameter)
            matrices[parameter].grad = as_matrix(parameter.grad)
        self.muon.param_groups = [
            group | {"params": [matrices[p] for p in group["params"] if p in matrices]}
            for group in for_muon
        ]
        self.muon.state = defaultdict(dict, {matrices[p]: self.state[p] for p in matrices})
        self.muon.step()
        for parameter, matrix in matrices.items():
            if matrix.data_ptr() != parameter.data_ptr():  # flattening had to copy
                parameter.copy_(matrix.view_as(parameter))

        self.adamw.param_groups, self.adamw.state = for_adamw, self.state
        self.adamw.step()


def as_matrix(weight: Tensor) -> Tensor:
    return weight.detach().flatten(1)


def hidden_weights(model: nn.Module, image_shape: ImageShape) -> set[Tensor]:
    """The weights of all convolutions and linear layers but of the output layers.

    These are as wide as the last one that works on an image (C, H, W); auxiliary heads have some.
    """
    kinds = (_ConvNd, nn.Linear)
    calls, _ = trace(model, image_shape)
    last = [call.layer for call in calls if isinstance(call.layer, kinds)][-1:]
    layers = [layer for layer in model.modules() if isinstance(layer, kinds)]
    return {layer.weight for layer in layers if last and len(layer.weight) != len(last[0].weight)}


def freeze_all_statistics(model: nn.Module) -> None:
    """Keep every batch normalisation as it is in evaluation. Raises UserError where there is none.

    A head that was fitted would else meet features of other means and variances at the first step.
    """
    layers = [layer for layer in model.modules() if isinstance(layer, _BatchNorm)]
    if not layers:
        raise UserError(
            "train.freeze_statistics: cannot act on a network without batch normalisation"
        )
    for layer in layers:
        pin(layer.eval())


def freeze_frozen_statistics(model: nn.Module) -> None:
    """Keep each batch normalisation with frozen parameters as it is in evaluation: its means freeze
    too.
    """
    for layer in model.modules():
        frozen = [not parameter.requires_grad for parameter in layer.parameters()]
        if isinstance(layer, _BatchNorm) and frozen and all(frozen):
            pin(layer.eval())


def pin(layer: nn.Module) -> None:
    """Let `layer` stay in its mode whatever mode the network takes."""
    layer.train = lambda mode=True: layer  # type: ignore[method-assign]
