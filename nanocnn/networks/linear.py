"""Linear layers in float32 by oneDNN instead of MKL, on processors where that is faster.

PyTorch gives products of float32 to MKL, which takes no AVX-512 instructions on AMD, and
convolutions and bf16 to oneDNN, which does: on Zen 5 it multiplies at twice the rate. Rounding is
that of oneDNN: twice the error in the output, and less in the gradients.
"""

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LEAST_IMAGES, LEAST_PRODUCTS = 8, 2**23  # with fewer, laying out the weights costs more


class OneDNNLinear(nn.Linear):
    """A linear layer computed by `linear`."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """F.linear of (B, in), and its gradients: large ones in float32 by oneDNN, if that is faster
    here.
    """
    is_full = x.dtype == weight.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    is_full = is_full and x.ndim == 2 and x.shape[1] == weight.shape[1]
    is_large = is_full and len(x) >= max(LEAST_IMAGES, LEAST_PRODUCTS / max(1, weight.numel()))
    if not (is_large and x.device.type == "cpu" and is_zen_5()):
        return F.linear(x, weight, bias)
    return F.linear(x.to_mkldnn(), weight, bias).to_dense()


@cache
def is_zen_5() -> bool:
    """Whether this is an AMD processor from Zen 5 on, on which alone it was measured what pays."""
    found = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    # Zen 4 has AVX-512 of half the width, and no AVX-VNNI
    has_both = found.get("avx512_f") and found.get("avx_vnni")
    is_amd = str(found.get("cpu_name")).startswith("AMD")
    return bool(is_amd and has_both and torch.backends.mkldnn.is_available())
