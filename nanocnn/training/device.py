"""Where a run computes, in which precision and layout of memory."""

import sys
from typing import NamedTuple

import torch
from torch import nn

from nanocnn.config.schema import Config
from nanocnn.system.errors import UserError
from nanocnn.training.processes import Group, Processes, current

UNSAFE_CHANNELS = 8
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Computing(NamedTuple):
    device: torch.device
    precision: torch.dtype  # but for float32, autocast to it
    memory_format: torch.memory_format  # of maps (B, C, H, W) and of the weights that make them
    processes: Processes = Processes()  # that train together
    is_auto: bool = False  # whether the precision may be another one where a network asks for it

    @property
    def is_channels_last(self) -> bool:
        return self.memory_format == torch.channels_last

    def suited_to(self, model: nn.Module) -> "Computing":
        """The same, but for a layout in which PyTorch would overwrite memory that is not its own,
        and a precision of `auto` that would be slow.

        On a CPU the gradient of a 1x1 convolution with a stride and fewer than 8 channels does so
        where maps are laid out as (N, H, W, C): found with torch 2.14.1 on AVX-512. Processes then
        crash at some later moment. Networks with depthwise convolutions take 1.3 to 1.7 times as
        long in bf16 there: EfficientNet and MobileNet, by `python -m benchmarks.networks`.
        """
        if self.device.type != "cpu":
            return self
        layers = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d)]
        is_unsafe = any(
            layer.kernel_size == (1, 1)
            and max(layer.stride) > 1
            and layer.in_channels < UNSAFE_CHANNELS
            for layer in layers
        )
        is_depthwise = any(1 < layer.groups == layer.in_channels for layer in layers)
        return self._replace(
            memory_format=torch.contiguous_format if is_unsafe else self.memory_format,
            precision=torch.float32 if self.is_auto and is_depthwise else self.precision,
        )

    def place(self, model: nn.Module) -> nn.Module:
        """`model` itself, moved there and laid out so, or as it is safe."""
        memory_format = self.suited_to(model).memory_format
        return model.to(self.device, memory_format=memory_format)  # type: ignore[call-overload]

    def recorded_in(self, config: Config) -> Config:
        """`config` with this precision, where it may have `auto`.

        The layout follows from that and the device.
        """
        name = next(name for name, dtype in DTYPES.items() if dtype == self.precision)
        return config.model_copy(update={"precision": name})

    def autocast(self) -> torch.autocast:
        """The context in which a network computes in this precision."""
        is_mixed = self.precision != torch.float32
        return torch.autocast(self.device.type, self.precision, enabled=is_mixed)


def pick_computing(
    config: Config, device_name: str | None = None, typed: str = "device="
) -> Computing:
    """What `config` asks for, with `auto` as it means here; `device_name` replaces its device.

    Raises UserError for what there is not here; `typed` is how the command takes another device.
    """
    device, processes = pick_device(device_name or config.device, typed), current()
    if isinstance(processes, Group):
        refuse_shared(device, processes.launch.local_size)
    precision = pick_precision(config.precision, device)
    memory_format = pick_memory_format(config.train.channels_last, device, precision)
    return Computing(device, precision, memory_format, processes, config.precision == "auto")


def refuse_shared(device: torch.device, processes: int) -> None:
    """Raises UserError where the `processes` of this machine cannot have a `device` each."""
    if device.type == "mps":
        raise UserError("device = mps: cannot be shared by several processes; allowed is cpu")
    if device.type == "cuda" and processes > torch.cuda.device_count():
        raise UserError(
            f"device = cuda: {processes} processes of this machine have "
            f"{torch.cuda.device_count()} GPUs; start as many as there are, or type device=cpu"
        )


def pick_device(name: str, typed: str = "device=") -> torch.device:
    """The device that `name` (auto, cpu, cuda, mps) means here. Raises UserError."""
    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":
        name = next(device for device, is_available in available.items() if is_available)
    if not available[name]:
        here = ", ".join(device for device, is_available in available.items() if is_available)
        raise UserError(
            f"device = {name}: not available here (available: auto, {here}); type {typed}cpu"
        )
    return torch.device(name)


def pick_precision(name: str, device: torch.device) -> torch.dtype:
    """The type that `name` (auto, fp32, bf16, fp16) means on `device`."""
    if name == "auto":
        return torch.bfloat16 if multiplies_bf16(device) else torch.float32
    if name == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise UserError(
            "precision = bf16: this GPU does not support it (allowed here: auto, fp32, fp16)"
        )
    is_slow = {
        "fp16": not torch.cpu._is_amx_fp16_supported(),
        "bf16": not multiplies_bf16(device),
    }
    if device.type == "cpu" and is_slow.get(name):
        print(
            f"warning: precision = {name}: slow on this CPU, which has no instructions for it; "
            "precision=auto takes what is fast",
            file=sys.stderr,
        )
    return DTYPES[name]


def multiplies_bf16(device: torch.device) -> bool:
    """Whether `device` has instructions for bfloat16, without which it is slower."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu":
        return False
    return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()


def pick_memory_format(
    channels_last: str | bool, device: torch.device, precision: torch.dtype
) -> torch.memory_format:
    """How maps lie in memory, by `python -m benchmarks.step`; on MPS as torch has it."""
    if channels_last == "auto":
        channels_last = device.type == "cpu" or (
            device.type == "cuda" and precision != torch.float32
        )
    return torch.channels_last if channels_last else torch.contiguous_format
