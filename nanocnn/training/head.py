"""The last layer of a network, fitted in one go to what reaches it: a few numbers an image.

That is a convex problem, so the optimum is found and no learning rate is needed. S. Kornblith et
al., Do Better ImageNet Models Transfer Better? (2019), fit logistic regressions to features so.
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from nanocnn.images.randomness import stratified_split
from nanocnn.training.loss import ImageLoss

# of the weights' squares against the mean loss, on features of variance 1; the strongest first,
# where the next search then begins
DECAYS = (30.0, 10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 0.003)
MOST_STEPS = 300
HELD_OUT = 5  # one in so many training images, where there are no validation images


class Features(NamedTuple):
    """What reaches the last layer, (N, F) float32, and the labels (N,), both on the CPU."""

    values: Tensor
    labels: Tensor


class Head(NamedTuple):
    weight: Tensor  # (rows, F) float64
    bias: Tensor  # (rows,)
    decay: float

    def logits(self, features: Tensor) -> Tensor:
        return logits_of(features.double() @ self.weight.T + self.bias)


def logits_of(outputs: Tensor) -> Tensor:
    """One output z stands for the logits (0, z) of two classes: see networks.build.two_logits."""
    return torch.cat([torch.zeros_like(outputs), outputs], 1) if outputs.shape[1] == 1 else outputs


class Problem:
    """Loss and gradient of a linear layer with `rows` outputs on standardised features.

    With `balanced` each class counts alike, as data.sampling has it.
    """

    def __init__(self, features: Features, rows: int, loss: ImageLoss, balanced: bool):
        values, self.labels = features.values.double(), features.labels
        self.mean, self.std = values.mean(0), values.std(0, correction=0)
        self.std[self.std == 0] = 1.0
        self.inputs = (values - self.mean) / self.std
        self.loss, self.shape = loss, (rows, values.shape[1] + 1)  # the bias comes last
        self.weights = torch.ones(len(values), dtype=torch.float64)
        if loss.class_weights is not None:
            self.weights = loss.weights(self.labels).double()
        if balanced:
            self.weights = self.weights / torch.bincount(self.labels)[self.labels]
        self.weights = self.weights / self.weights.sum()

    def solve(self, decay: float, start: np.ndarray | None = None) -> np.ndarray:
        """The best layer for this `decay`, searched for from `start` on."""
        from scipy.optimize import minimize

        if start is None:
            start = np.zeros(self.shape[0] * self.shape[1])
        options = {"maxiter": MOST_STEPS, "maxcor": 20}
        found = minimize(self.value, start, (decay,), method="L-BFGS-B", jac=True, options=options)
        return found.x

    def value(self, layer: np.ndarray, decay: float) -> tuple[float, np.ndarray]:
        """What is lowered, and its gradient."""
        both = torch.from_numpy(layer).reshape(self.shape).clone().requires_grad_(True)
        weight, bias = both[:, :-1], both[:, -1]
        losses = self.loss.losses(logits_of(self.inputs @ weight.T + bias), self.labels)
        total = self.weights @ losses + decay / 2 * weight.square().sum()
        (gradient,) = torch.autograd.grad(total, both)
        return float(total.detach()), gradient.numpy().ravel()

    def head(self, layer: np.ndarray, decay: float) -> Head:
        """The layer for features as they are: what standardises them becomes part of it."""
        both = torch.from_numpy(layer).reshape(self.shape)
        weight = both[:, :-1] / self.std
        return Head(weight, both[:, -1] - weight @ self.mean, decay)


def fit(
    train: Features,
    val: Features | None,
    rows: int,
    loss: ImageLoss,
    balanced: bool = False,
    until_stopped: Callable[[Iterable[float]], Iterable[float]] = iter,
) -> Head:
    """The head of `rows` outputs with the lowest `loss` on `train`.

    Of DECAYS it has the one with the lowest loss on `val`, without that on a fifth of `train` held
    out for the choice. The same features give the same bits.
    """
    chosen_on = val
    part = train
    if val is None and len(train.labels) > HELD_OUT:
        rest, held_out = stratified_split(train.labels, len(train.labels) // HELD_OUT, seed=0)
        part, chosen_on = (
            Features(train.values[some], train.labels[some]) for some in (rest, held_out)
        )
    problem = Problem(part, rows, loss, balanced)
    layer: np.ndarray | None = None
    best: tuple[float, Head] | None = None
    worse = 0
    for decay in until_stopped(DECAYS):
        layer = problem.solve(decay, layer)
        head = problem.head(layer, decay)
        score = mean_loss(head, chosen_on or part, loss)
        if best is None or score < best[0]:
            best, worse = (score, head), 0
        elif (worse := worse + 1) == 2:  # weaker ones fit ever closer
            break
    assert best is not None
    decay = best[1].decay
    if part is train:
        return best[1]
    problem = Problem(train, rows, loss, balanced)
    return problem.head(problem.solve(decay), decay)


def mean_loss(head: Head, features: Features, loss: ImageLoss) -> float:
    total, weight = loss(head.logits(features.values), features.labels)
    return float(total) / float(weight)
