"""Batch normalisation over the images of all processes.

torch's own SyncBatchNorm computes on GPUs alone; for CPUs there is a layer here. Both stand in a
network that shares its parameters and statistics with the one that is kept: a checkpoint, and
evaluation, know nothing of them.
"""

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from nanocnn.config.schema import Config, Train
from nanocnn.images.sharing import Share, parts_of
from nanocnn.images.splits import DataInfo
from nanocnn.networks import norm_pool
from nanocnn.networks.norm_pool import NormPool
from nanocnn.system.errors import UserError
from nanocnn.training.device import Computing
from nanocnn.training.processes import Group, first_line


class Joining:
    """The statistics of all processes' images, from those of each.

    Added up are counts, sums and sums of squares, in float64: each process has its mean and
    variance exactly, and their differences would else be lost.
    """

    def __init__(self, processes: Group):
        self.processes = processes

    def statistics(self, mean: Tensor, var: Tensor, pixels: int) -> tuple[Tensor, Tensor, int]:
        """Mean and biased variance (C,) of all, and their pixels, given those of this process."""
        mean, var, kind = mean.double(), var.double(), mean.dtype
        sums = torch.cat([pixels * mean, pixels * (var + mean.square()), mean.new_tensor([pixels])])
        self.processes.sum(sums)
        all_pixels = sums[-1]
        means, squares = sums[:-1].view(2, -1) / all_pixels
        variance = (squares - means.square()).clamp(min=0)
        return means.to(kind), variance.to(kind), int(all_pixels)

    def sums(self, one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
        """Those of (C,) over all processes."""
        both = torch.cat([one, other]).double()
        self.processes.sum(both)
        first, second = both.to(one.dtype).view(2, -1)
        return first, second


class SyncedBatchNorm(_BatchNorm):
    """A batch normalisation that takes its statistics in training from all processes' images."""

    joining: Joining

    def _check_input_dim(self, x: Tensor) -> None:
        """Whatever the layer that it stands for takes."""

    def forward(self, x: Tensor) -> Tensor:
        uses_own = self.running_mean is not None and not self.training
        if uses_own:
            return super().forward(x)
        y, mean, var, pixels = JoinedBatchNorm.apply(
            x, self.weight, self.bias, self.eps, self.joining
        )
        if self.training and self.track_running_stats:
            self._note(mean, var, pixels)
        return y

    def _note(self, mean: Tensor, var: Tensor, pixels: int) -> None:
        """As torch does it: the running variance is unbiased."""
        assert self.running_mean is not None and self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        momentum = self.momentum
        if momentum is None:
            momentum = 1.0 / float(self.num_batches_tracked)
        unbiased = var * (pixels / max(1, pixels - 1))
        # to the bit as NormPool does it: which of them a process takes, its images say
        self.running_mean.lerp_(mean, momentum)
        self.running_var.lerp_(unbiased, momentum)


class JoinedBatchNorm(torch.autograd.Function):
    """A batch (B, C, ...) normalised by the mean and biased variance (C,) of all processes' images,
    these, and how many pixels a channel they have.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, join: Joining
    ) -> tuple[Tensor, Tensor, Tensor, int]:
        mean, var = mean_and_var(x)
        mean, var, pixels = join.statistics(mean, var, x.numel() // x.shape[1])
        y = F.batch_norm(x, mean, var, weight, bias, False, 0.0, eps) if x.numel() else x.clone()
        ctx.eps, ctx.join, ctx.pixels = eps, join, pixels
        ctx.save_for_backward(x, weight, mean, var)
        ctx.mark_non_differentiable(mean, var)
        return y, mean, var, pixels

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        x, weight, mean, var = ctx.saved_tensors
        if x.numel():
            grad_x, own_weight, own_bias = torch.ops.aten.native_batch_norm_backward(
                grad, x, weight, mean, var, None, None, False, ctx.eps, [True, True, True]
            )
        else:  # it has no images of this step
            grad_x, own_weight, own_bias = x, torch.zeros_like(mean), torch.zeros_like(mean)
        grad_weight, grad_bias = ctx.join.sums(own_weight, own_bias)
        inverse_std = (var + ctx.eps).rsqrt()
        slope = inverse_std if weight is None else weight * inverse_std
        by_x = -slope * inverse_std * grad_weight / ctx.pixels
        constant = -slope * grad_bias / ctx.pixels - by_x * mean
        shape = [1, -1] + [1] * (x.ndim - 2)
        wide = grad_x.to(mean.dtype)  # which a mixed precision would round too soon
        grad_x = wide.addcmul(x.to(wide), by_x.view(shape)).add_(constant.view(shape)).to(x.dtype)
        if weight is None:
            return grad_x, None, None, None, None
        return grad_x, own_weight, own_bias, None, None


def mean_and_var(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance (C,) of maps (B, C, ...), at least in float32; 0 without any."""
    wide = x if x.dtype == torch.float64 else x.float()
    if not x.numel():
        return wide.new_zeros(x.shape[1]), wide.new_zeros(x.shape[1])
    if x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last):
        return norm_pool.mean_and_var(x)  # to the bit as NormPool has them
    mean, var = torch.batch_norm_update_stats(wide, None, None, 0.0)
    return mean, var


def synchronised(model: nn.Module, processes: Group, device: torch.device) -> nn.Module:
    """A network with the parameters and statistics of `model` and its layers but for these.

    Layers that stay as in evaluation (see optimizer.pin) remain as they are.
    """
    joining, made = Joining(processes), dict[int, nn.Module]()

    def replaced(layer: nn.Module) -> nn.Module:
        if id(layer) not in made:
            made[id(layer)] = renewed(layer)
        return made[id(layer)]

    def renewed(layer: nn.Module) -> nn.Module:
        is_pinned = "train" in vars(layer)
        if isinstance(layer, _BatchNorm) and not is_pinned:
            return standing_for(layer, joining, device)
        if not list(layer.children()):
            return layer
        other = copy.copy(layer)
        other._modules = {name: child and replaced(child) for name, child in layer._modules.items()}
        if isinstance(other, NormPool) and isinstance(other.norm, SyncedBatchNorm):
            other.joining = joining
        return other

    return replaced(model)


def standing_for(layer: _BatchNorm, joining: Joining, device: torch.device) -> nn.Module:
    kind = nn.SyncBatchNorm if device.type == "cuda" else SyncedBatchNorm
    synced = kind(1)
    synced.__dict__.update(vars(layer))  # the very dictionaries of parameters and buffers
    if isinstance(synced, SyncedBatchNorm):
        synced.joining = joining
    else:
        synced.process_group = None
    return synced


def learns_statistics(model: nn.Module) -> bool:
    """Whether a layer takes its statistics from the batch in training."""
    return any(
        isinstance(layer, _BatchNorm) and "train" not in vars(layer) for layer in model.modules()
    )


def shared(model: nn.Module, config: Config, info: DataInfo, computing: Computing) -> nn.Module:
    """`model`, whose layers several processes can train together.

    Raises UserError for what they cannot.
    """
    processes, options = computing.processes, config.train
    is_synchronised = options.sync_batch_norm is not False
    if not isinstance(processes, Group):
        return model
    if options.compile:
        raise UserError("train.compile = true: cannot act in several processes")
    least = smallest_slice(options, sum(info.class_counts), processes.size)
    if learns_statistics(model) and not is_synchronised and least < 2:
        raise UserError(
            f"train.sync_batch_norm = false: a process would have {least} images of a step, of "
            f"which batch normalisation learns nothing; allowed are auto and true, or a "
            f"train.batch_size that gives each of {processes.size} processes two"
        )
    if least == 0:
        refuse_no_image(model, info, computing)
    if not learns_statistics(model) or not is_synchronised:
        return model
    found = synchronised(model, processes, computing.device)
    refuse_others(model, found, torch.zeros(2, *info.image_shape, device=computing.device))
    return found


def refuse_others(model: nn.Module, synced: nn.Module, images: Tensor) -> None:
    """Raises UserError where a batch normalisation computes more than torch's own, or `synced`
    still takes one of `model`, as where a list or a method of the network's own holds it.
    """
    names = {
        layer: name
        for name, layer in model.named_modules()
        if isinstance(layer, _BatchNorm) and "train" not in vars(layer)
    }
    known = (_BatchNorm.forward, nn.SyncBatchNorm.forward)
    wrong = [(layer, "computes") for layer in names if type(layer).forward not in known]
    handles = [
        layer.register_forward_pre_hook(
            lambda layer, _: wrong.append((layer, "is reached")) if layer in names else None
        )
        for layer in names
    ]
    training = synced.training
    try:
        with torch.no_grad():  # in evaluation nothing is exchanged, and no statistic moves
            synced.eval()(images)
    finally:
        synced.train(training)
        for handle in handles:
            handle.remove()
    if wrong:
        layer, what = wrong[0]
        raise UserError(
            f"train.sync_batch_norm: {names[layer]} = {type(layer).__name__} {what} in a way of "
            "its own, which cannot be synchronised; allowed is false, where each process has "
            "statistics of its own, or nn.BatchNorm2d within nn.Sequential or as an attribute"
        )


def smallest_slice(options: Train, images: int, size: int) -> int:
    """The fewest images that one of `size` processes has of a part of a step."""
    step = options.batch_size * options.accumulate
    leftover = 1 if step > 1 else 0
    steps = max(1, -(-(images - leftover) // step))
    counts = {step, images - (steps - 1) * step} if steps > 1 else {images}
    last = Share(size - 1, size)
    return min(
        len(each)
        for count in counts
        for each in last.slices(count, parts_of(count, options.batch_size, options.accumulate))
    )


def refuse_no_image(model: nn.Module, info: DataInfo, computing: Computing) -> None:
    """Raises UserError where a process has no image of a step and `model` cannot take none."""
    trial = copy.deepcopy(model).eval()
    with torch.no_grad():
        try:
            trial(torch.zeros(0, *info.image_shape, device=computing.device))
        except RuntimeError as error:
            raise UserError(
                "the last step of an epoch has no image for one of the "
                f"{computing.processes.share.size} processes, and the network cannot take none "
                f"({first_line(error)}): "
                "x.flatten(1) can, x.view(len(x), -1) cannot"
            ) from None
