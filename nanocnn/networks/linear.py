"""Linear layers in float32 by oneDNN instead of MKL, on processors where that is faster.

PyTorch gives products of float32 to MKL, which takes no AVX-512 instructions on AMD, and
convolutions and bf16 to oneDNN, which does: on Zen 5 it multiplies at twice the rate.
"""

import copy
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LEAST_IMAGES, LEAST_PRODUCTS = 8, 2**23  # with fewer, laying out the weights costs more


class OneDNNLinear(nn.Linear):
    """A linear layer of (B, in), large ones in float32 computed by oneDNN; so are the gradients."""

    def forward(self, x: Tensor) -> Tensor:
        is_full = x.dtype == self.weight.dtype == torch.float32
        is_full = is_full and x.device.type == "cpu" and not torch.is_autocast_enabled("cpu")
        is_large = x.ndim == 2 and len(x) >= max(LEAST_IMAGES, LEAST_PRODUCTS / self.weight.numel())
        if not (is_full and is_large):
            return super().forward(x)
        return F.linear(x.to_mkldnn(), self.weight, self.bias).to_dense()


def with_onednn(model: nn.Module) -> nn.Module:
    """A network with the very parameters of `model`; `model` itself where there is nothing to gain.

    Rounding is that of oneDNN: twice the error in the output, and less in the gradients.
    """
    if is_faster() and any(type(layer) is nn.Linear for layer in model.modules()):
        return replaced(model)
    return model


@cache
def is_faster() -> bool:
    """Whether this is an AMD processor from Zen 5 on, the only ones on which it was measured."""
    found = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    # Zen 4 has AVX-512 of half the width, and no AVX-VNNI
    is_zen_5 = found.get("avx512_f") and found.get("avx_vnni")
    is_amd = str(found.get("cpu_name")).startswith("AMD")
    return bool(is_amd and is_zen_5 and torch.backends.mkldnn.is_available())


def replaced(layer: nn.Module) -> nn.Module:
    if type(layer) is nn.Linear:
        linear = OneDNNLinear.__new__(OneDNNLinear)
        linear.__dict__ = layer.__dict__  # whatever is set of one is set of the other
        return linear
    children = {name: child and replaced(child) for name, child in layer._modules.items()}
    if all(child is layer._modules[name] for name, child in children.items()):
        return layer
    other = copy.copy(layer)
    other._modules = dict(children)
    return other
