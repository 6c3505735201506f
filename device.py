"""Where a run computes, and in which precision."""

import torch

from errors import UserError


def pick_device(name: str) -> torch.device:
    """The device that `name` (auto, cpu, cuda, mps) means here; UserError where there is none such."""
    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":
        name = next(device for device, is_available in available.items() if is_available)
    if not available[name]:
        here = ", ".join(device for device, is_available in available.items() if is_available)
        raise UserError(f"device = {name}: not available here (available: auto, {here})")
    return torch.device(name)


def pick_precision(name: str, device: torch.device) -> torch.dtype:
    """The type that `name` (auto, fp32, bf16, fp16) means on `device`: but for float32, autocast to it."""
    if name == "auto":
        return torch.bfloat16 if multiplies_bf16(device) else torch.float32
    if name == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise UserError(
            "precision = bf16: this GPU does not support it (allowed here: auto, fp32, fp16)"
        )
    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[name]


def multiplies_bf16(device: torch.device) -> bool:
    """Whether `device` has matrix instructions for bfloat16; without them autocast costs more than it saves."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and torch.cpu._is_amx_tile_supported()
