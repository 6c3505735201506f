"""What learns: a network with its loss and optimizer, and one step of training."""

from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from copy import deepcopy
from functools import cached_property
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from nanocnn.config.schema import Config
from nanocnn.evaluation.evaluate import AverageFlips, Evaluation, evaluate
from nanocnn.evaluation.unlike import Watched
from nanocnn.images.sharing import parts_of
from nanocnn.images.splits import DataInfo
from nanocnn.networks.fast_view import fast_view
from nanocnn.networks.head import linear_head, tapped
from nanocnn.networks.pretrained import last_layer
from nanocnn.networks.weights import check_like, load_weights
from nanocnn.system.errors import UserError
from nanocnn.training.batch_norm import shared
from nanocnn.training.device import Computing
from nanocnn.training.head import Features, fit, logits_of
from nanocnn.training.loss import build_loss
from nanocnn.training.optimizer import build_optimizer, freeze_all_statistics
from nanocnn.training.optimizer_state import load_optimizer


class StepResult(NamedTuple):
    """What one step found before its own change, as sums over its images."""

    total: Tensor  # (), of the losses, each times the weight of its image, on the device
    weight: Tensor | float  # of all its images: total / weight is the loss that was lowered
    correct: Tensor  # (), images, on the device
    images: int


class Learner:
    """`model` with the loss, the optimizer and the options of `config`, for data as `info` says.

    The model moves to the device of `computing`. `parts` are its parts that a checkpoint keeps, by
    name. Raises UserError for options that do not suit the model or the data.
    """

    def __init__(self, model: nn.Module, config: Config, info: DataInfo, computing: Computing):
        refuse_single_image(model, config, info)
        self.computing = computing = computing.suited_to(model)
        if config.train.channels_last is True and not computing.is_channels_last:
            raise UserError(
                "train.channels_last = true: cannot act, since PyTorch corrupts memory in a 1x1 "
                "convolution with a stride and fewer than 8 channels; allowed are auto and false"
            )
        self.model = computing.place(model)
        computing.processes.copy_first([*model.state_dict().values()])
        self.loss = build_loss(config.loss, info).to(computing.device)
        self.optimizer = build_optimizer(config.optimizer, model, info.image_shape)
        if config.train.freeze_statistics:
            freeze_all_statistics(model)
        is_fp16 = computing.precision == torch.float16
        # keeps the small gradients of float16 from vanishing
        self.scaler = torch.amp.GradScaler(computing.device.type, enabled=is_fp16)
        self.parts: dict[str, Any] = {
            "model": model,
            "optimizer": self.optimizer,
            "scaler": self.scaler,
        }
        self._options, self._info = config.train, info
        self._is_balanced = config.data.sampling == "balanced"
        self._ema = None
        if config.train.ema:
            from torch.optim.swa_utils import AveragedModel

            self._ema = AveragedModel(model, multi_avg_fn=self._average, use_buffers=True)
            self.parts["ema"] = self._ema.module
        # the same weights, computed faster
        self._trained = self._judged = fast_view(model, info.image_shape)
        if self._ema:
            self._judged = fast_view(self._ema.module, info.image_shape)
        if config.data.average_flips:
            self._judged = AverageFlips(self._judged)
        if config.train.compile:
            self._trained = cast(nn.Module, torch.compile(model))
        self._trained = shared(self._trained, config, info, computing)
        self._trained.train()

    def step(self, images: Tensor, labels: Tensor, lr: float) -> StepResult:
        """Train once on images (B, C, H, W) at the learning rate `lr`.

        Labels are (B,) int64, or shares (B, classes), of which the largest counts as correct. With
        train.accumulate the images are worked off in that many parts, to the same gradient. Of
        several processes each has the images of its slices, and the labels of the whole step.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group["lr_mult"]
        self.optimizer.zero_grad()
        total = correct = torch.zeros((), device=images.device)
        weight = self.loss.weight(labels)
        options = self._options
        parts = parts_of(len(labels), options.batch_size, options.accumulate)
        slices = self.computing.processes.share.slices(len(labels), parts)
        for part, own in zip(images.split([*map(len, slices)]), slices, strict=True):
            truth = labels[own.start : own.stop]
            with self.computing.autocast():
                outputs = self._trained(part)
                logits, *auxiliary = outputs if isinstance(outputs, tuple) else (outputs,)
                part_total, _ = self.loss(logits, truth)
                for share, extra_logits in auxiliary:
                    part_total = part_total + share * self.loss(extra_logits, truth)[0]
            self.scaler.scale(part_total / weight).backward()
            total = total + part_total.detach()
            true = truth.argmax(1) if truth.ndim == 2 else truth
            correct = correct + (logits.detach().argmax(1) == true).sum()
        add_up = self.computing.processes.add_up
        total, correct = add_up(self.model.parameters(), total, correct)
        if self._options.clip_norm is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), self._options.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self._ema:
            self._ema.update_parameters(self.model)
        return StepResult(total, weight, correct, len(labels))

    def fit_head(
        self,
        train: Iterable[tuple[Tensor, Tensor]],
        val: Iterable[tuple[Tensor, Tensor]] | None = None,
        until_stopped: Callable[[Iterable[Any]], Iterable[Any]] = iter,
    ) -> StepResult:
        """Fit the last layer to `train`, all before it staying as it is, chosen on `val`.

        Images are taken as they are. Raises UserError where a network does not end in a linear
        layer.
        """
        joined = self.computing.processes.joined
        found = self.features(until_stopped(train), joined)
        chosen_on = self.features(until_stopped(val), joined) if val else None
        loss = deepcopy(self.loss).cpu()
        name, layer = self._last_layer()
        rows = layer.out_features
        head = fit(found, chosen_on, rows, loss, self._is_balanced, until_stopped)
        print(f"head: {name} fitted to {len(found.labels):,} images; decay {head.decay:g}")
        models = [self.model, self._ema.module] if self._ema else [self.model]
        with torch.no_grad():
            for model in models:
                fitted = model.get_submodule(name)
                assert isinstance(fitted, nn.Linear)
                fitted.weight.copy_(head.weight)
                fitted.bias.copy_(head.bias)
        logits = head.logits(found.values)
        total, weight = loss(logits, found.labels)
        correct = (logits.argmax(1) == found.labels).sum()
        return StepResult(total, weight, correct, len(found.labels))

    def _last_layer(self) -> tuple[str, nn.Linear]:
        name = last_layer(self.model, self._info.image_shape)
        layer = self.model.get_submodule(name)
        if not isinstance(layer, nn.Linear):
            raise UserError("train.fit_head: cannot act, since the network ends in no linear layer")
        return name, layer

    @torch.no_grad()
    def features(
        self,
        batches: Iterable[tuple[Tensor, Tensor]],
        joined: Callable[[list[Any]], list[Any]] = list,
    ) -> Features:
        """What reaches the last layer, of images as they are; `joined` as in `evaluate`.

        Raises UserError where that is no linear one, or its output are no logits.
        """
        _, layer = self._last_layer()
        entered: list[Tensor] = []
        left: list[Tensor] = []
        hooks = [
            layer.register_forward_pre_hook(lambda _, inputs: entered.append(inputs[0])),
            layer.register_forward_hook(lambda _, __, output: left.append(output)),
        ]
        found = []
        self.model.eval()
        try:
            for images, truth in batches:
                entered.clear()
                left.clear()
                with self.computing.autocast():
                    logits = self.model(images)
                if len(left) != 1 or not torch.equal(logits_of(left[0]), logits):
                    raise UserError(
                        "train.fit_head: cannot act, since the network computes something after "
                        "its last linear layer"
                    )
                found.append((entered[0].float().cpu(), truth.cpu()))
        finally:
            for hook in hooks:
                hook.remove()
            self.model.train()
            self._trained.train()
        return Features(*map(torch.cat, zip(*joined(found), strict=True)))

    def judge(self, batches: Iterable[tuple[Tensor, Tensor]]) -> Evaluation:
        """Judge the network, or with train.ema the mean of its weights, on all `batches`."""
        mean, std = self._info.moments(self.computing.device)
        head, processes = self._judged_head, self.computing.processes
        processes.copy_first([*self._judged.buffers()])  # statistics that each has of its own
        joined = processes.joined if processes.share.size > 1 else None
        try:
            with tapped(head) if head else nullcontext() as taken:
                watched = Watched(batches, mean, std, taken)
                found = evaluate(self._judged, watched, self.loss, self.computing.precision, joined)
            watched.noted = processes.joined(watched.noted)
            return found._replace(traits=watched.traits)
        finally:
            self._trained.train()

    @cached_property
    def _judged_head(self) -> nn.Linear | None:
        """The layer that the network which is judged ends in, whose inputs are its features."""
        judged = self._ema.module if self._ema else self.model
        return linear_head(judged, self._info.image_shape)

    def load(self, states: Mapping[str, Any]) -> None:
        """Go on from what a checkpoint kept of `parts`, and the `step` that it was made after.

        Raises an error where it does not fit.
        """
        load_optimizer(states["optimizer"], self.optimizer, states["step"])
        if self.scaler.is_enabled():
            check_like(states["scaler"], self.scaler.state_dict(), "the checkpoint's scaler")
            self.scaler.load_state_dict(states["scaler"])
        for name, part in self.parts.items():
            if isinstance(part, nn.Module):
                load_weights(states[name], part)
        if self._ema:
            self._ema.n_averaged.fill_(states["step"])

    def _average(self, means: Any, values: Any, averaged: Any) -> None:
        """Move the mean of the weights towards `values`, the weights after one more step.

        Its memory is short at first, as in TensorFlow's ExponentialMovingAverage with num_updates:
        a share near one would else keep the first weights for longer than a short run lasts.
        """
        from torch.optim.swa_utils import get_ema_multi_avg_fn

        assert self._ema and self._options.ema
        steps = int(self._ema.n_averaged)  # on the CPU: nothing waits for the device
        kept = min(self._options.ema, (1 + steps) / (10 + steps))
        get_ema_multi_avg_fn(kept)(means, values, averaged)


def refuse_single_image(model: nn.Module, config: Config, info: DataInfo) -> None:
    """Raises UserError where a step has one image and `model` cannot learn from one."""
    batch_size, images = config.train.batch_size, sum(info.class_counts)
    if batch_size > 1 and images != 1:
        return
    what = "train.batch_size = 1" if batch_size == 1 else "a single training image"
    try:
        with torch.random.fork_rng(devices=[]):  # of dropout
            deepcopy(model).cpu().train()(torch.zeros(1, *info.image_shape))
    except ValueError:
        raise UserError(
            f"{what}: batch normalisation cannot learn from one image where a map has one pixel"
        ) from None
