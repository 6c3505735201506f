"""Whether a picture is unlike those that a network was trained on, as its validation images tell.

Each class is a Gaussian with a covariance that all share, and a picture is as far as the nearest
class is, by Mahalanobis' distance (K. Lee et al., A Simple Unified Framework for Detecting
Out-of-Distribution Samples and Adversarial Attacks, 2018). They add up the distances in several
layers; here it is what reaches the last one, and the picture itself in 8 x 8 means. What reaches
the last one alone does not tell photographs from digits: see benchmarks/predict.py.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

FEWEST = 200  # validation images that are judged by
MOST = 10_000  # of more, some evenly spaced
DIMENSIONS = 256  # of features, of which more are projected to so many
SIDE = 8  # means in a row of what is seen of a picture
FALSE_ALARMS = 0.01  # of validation images
FOLDS = 10
SHRINKAGE = 0.1  # share of the mean variance in the covariance
BORDER, MEAN, SPREAD = 0, 1, 2  # columns of brightness
LEAST_SPREAD = 12.0  # of 255, by which border and mean of images differ at least
ONE_SIDED = 0.001  # share of images that may be likelier the other way round
FAR_LIKELIER = 20.0  # twice the logarithm of how much
STILL_LIKELY = 64.0  # squared distance of the inverse from the mean, in deviations: of grey paper
MARGIN, LEAST_MARGIN = 0.1, 8.0  # beyond the range of brightness: a share of it, and of 255


class Traits(NamedTuple):
    """What is judged of N images."""

    features: Tensor | None  # (N, at most DIMENSIONS); None where there is no linear head
    view: Tensor  # (N, C * SIDE * SIDE), the images in means
    brightness: Tensor  # (N, 3) of 255: of the border, of all, and its standard deviation

    def on_cpu(self) -> "Traits":
        features = None if self.features is None else self.features.cpu()
        return Traits(features, self.view.cpu(), self.brightness.cpu())

    def every(self, step: int) -> "Traits":
        """Those of each image at a multiple of `step`."""
        features = None if self.features is None else self.features[::step]
        return Traits(features, self.view[::step], self.brightness[::step])

    def parts(self) -> list[Tensor]:
        """What has a distance each."""
        return [] if self.features is None else [self.features, self.view]


def view_of(images: Tensor) -> Tensor:
    """(B, C * SIDE * SIDE) of images (B, C, H, W), normalised."""
    return F.adaptive_avg_pool2d(images, SIDE).flatten(1).float()


def brightness_of(images: Tensor) -> Tensor:
    """(B, 3) of images (B, C, H, W) from 0 to 255: see Traits."""
    grey = images.mean(1) if images.shape[1] > 1 else images[:, 0]
    edges = [grey[:, 0], grey[:, -1], grey[:, :, 0], grey[:, :, -1]]
    border = torch.cat(edges, 1).mean(1)
    mean = grey.mean((1, 2))
    variance = grey.square().mean((1, 2)) - mean.square()  # faster than torch's own
    return torch.stack([border, mean, variance.clamp(min=0).sqrt()], 1)


def projected(features: Tensor) -> Tensor:
    """(B, F) as (B, at most DIMENSIONS) float32: by a fixed matrix with orthonormal columns."""
    features = features.float()
    if features.shape[1] <= DIMENSIONS:
        return features
    return features @ projection(features.shape[1]).to(features.device)


@cache
def projection(size: int) -> Tensor:
    random = torch.randn(size, DIMENSIONS, generator=torch.Generator().manual_seed(0))
    return torch.linalg.qr(random)[0]


class Watched:
    """Batches of normalised images, of whose `traits` a note is kept as they go by.

    What reaches the last layer, `taken` from there, is that of the batch that was given last.
    """

    def __init__(
        self,
        batches: Iterable[tuple[Tensor, Tensor]],
        mean: Tensor,
        std: Tensor,
        taken: Callable[[], Tensor] | None,
    ):
        self.batches, self.mean, self.std, self.taken = batches, mean, std, taken
        self.noted: list[Traits] = []

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for images, labels in self.batches:
            yield images, labels
            features = projected(self.taken()) if self.taken else None
            brightness = brightness_of(images * self.std + self.mean)
            self.noted.append(Traits(features, view_of(images), brightness).on_cpu())

    @property
    def traits(self) -> Traits:
        features, views, brightness = zip(*self.noted, strict=True)
        joined = torch.cat(features) if self.taken else None
        return Traits(joined, torch.cat(views), torch.cat(brightness))


class Gaussians(NamedTuple):
    """A class each, in D dimensions."""

    means: Tensor  # (classes, D); a class without images is infinitely far
    whitening: Tensor  # (D, D), with which the covariance becomes the identity

    def distances(self, values: Tensor) -> Tensor:
        """(N, classes): the squares of those by Mahalanobis of values (N, D)."""
        means, values = (each.to(self.whitening) @ self.whitening for each in (self.means, values))
        squares = values.square().sum(1, keepdim=True) + means.square().sum(1)
        found = squares - 2 * values @ means.T
        return torch.where(self.means[:, 0].isfinite(), found, math.inf)


class Sums(NamedTuple):
    """What Gaussians are fitted to: added up over images, in float64."""

    counts: Tensor  # (classes,)
    sums: Tensor  # (classes, D)
    squares: Tensor  # (D, D)

    @classmethod
    def of(cls, values: Tensor, labels: Tensor, classes: int) -> "Sums":
        of_class = F.one_hot(labels, classes).double()
        values = values.double()
        return cls(of_class.sum(0), of_class.T @ values, values.T @ values)

    def without(self, other: "Sums") -> "Sums":
        return Sums(*(mine - theirs for mine, theirs in zip(self, other, strict=True)))

    def fit(self) -> Gaussians:
        means = self.sums / self.counts[:, None].clamp(min=1)
        within = (self.squares - means.T @ (means * self.counts[:, None])) / self.counts.sum()
        size = len(within)
        variance = within.trace() / size
        identity = torch.eye(size, dtype=within.dtype)
        # the last is for what is the same in all images
        shrunk = (1 - SHRINKAGE) * within + (SHRINKAGE * variance + 1e-9) * identity
        triangle = torch.linalg.cholesky(shrunk)
        whitening = torch.linalg.solve_triangular(triangle, identity, upper=False).T.contiguous()
        means = torch.where(self.counts[:, None] > 0, means, math.inf)
        return Gaussians(means, whitening)


def score(gaussians: Sequence[Gaussians], parts: Sequence[Tensor]) -> Tensor:
    """(N,): how far the nearest class is, of N images in several `parts` (N, D)."""
    found = [each.distances(part) for each, part in zip(gaussians, parts, strict=True)]
    return torch.stack(found).sum(0).amin(1)


def fit_unlike(traits: Traits, labels: Tensor, classes: int) -> dict[str, Any] | None:
    """What tells unlike pictures, as a checkpoint keeps it; None for fewer than FEWEST images.

    A score is beyond the `threshold` for FALSE_ALARMS of images that the Gaussians were not fitted
    to: each tenth of them is judged by the others.
    """
    every = math.ceil(len(labels) / MOST)
    labels = labels[::every]
    if len(labels) < FEWEST:
        return None
    traits = traits.every(every)
    found: dict[str, Any] = {"brightness": fit_brightness(traits.brightness), "gaussians": []}
    parts = traits.parts()
    if not parts or not all(bool(part.isfinite().all()) for part in parts):
        return found
    fold = torch.empty_like(labels)
    fold[labels.argsort(stable=True)] = torch.arange(len(labels)) % FOLDS
    masks = [fold == number for number in range(FOLDS)]
    sums = [[Sums.of(part[mask], labels[mask], classes) for mask in masks] for part in parts]
    totals = [Sums.of(part, labels, classes) for part in parts]
    scores = []
    for number, mask in enumerate(masks):
        others = [
            total.without(folds[number]).fit() for total, folds in zip(totals, sums, strict=True)
        ]
        scores.append(score(others, [part[mask].double() for part in parts]))
    # as in conformal prediction: one more image is as likely to be at each place among them
    rank = min(len(labels), math.ceil((len(labels) + 1) * (1 - FALSE_ALARMS)))
    threshold = float(torch.cat(scores).kthvalue(rank).values)
    if math.isfinite(threshold):
        fitted = [total.fit() for total in totals]
        found["gaussians"] = [
            {name: tensor.float() for name, tensor in each._asdict().items()} for each in fitted
        ]
        found["threshold"] = threshold
    return found


def fit_brightness(values: Tensor) -> dict[str, Any]:
    """Of brightness (N, 3): the range of each, and whether the images are of one polarity."""
    mean, deviation = values.mean(0), values.std(0, correction=0).clamp(min=LEAST_SPREAD)
    here, there = distances(values, mean, deviation)
    return {
        "mean": mean.tolist(),
        "deviation": deviation.tolist(),
        "low": values.amin(0).tolist(),
        "high": values.amax(0).tolist(),
        "one_sided": bool((there <= here).float().mean() <= ONE_SIDED),
    }


def distances(values: Tensor, mean: Tensor, deviation: Tensor) -> tuple[Tensor, Tensor]:
    """(N,) twice: the squared distances of images of brightness (N, 3) from the training images, in
    border and mean, as they are and with light and dark exchanged.
    """
    columns = [BORDER, MEAN]
    found = [
        ((each[:, columns] - mean[columns]) / deviation[columns]).square().sum(1)
        for each in (values, 255 - values)
    ]
    return found[0], found[1]


class Judgement:
    """What `fit_unlike` has found, applied to new pictures. It does not change."""

    def __init__(self, found: dict[str, Any]):
        self.brightness = found["brightness"]
        self.gaussians = [Gaussians(**each) for each in found["gaussians"]]
        self.threshold = found.get("threshold", math.inf)

    def is_inverse(self, brightness: Tensor) -> list[bool]:
        """Whether pictures of brightness (N, 3) show the training images with light and dark
        exchanged; never where those were not clearly of one kind.
        """
        about = self.brightness
        if not about["one_sided"]:
            return [False] * len(brightness)
        mean, deviation = (torch.tensor(about[name]) for name in ("mean", "deviation"))
        here, there = distances(brightness, mean, deviation)
        return ((here - there > FAR_LIKELIER) & (there < STILL_LIKELY)).tolist()

    def is_of_other_contrast(self, brightness: Tensor) -> list[bool]:
        """Whether (N, 3) is beyond what any validation image has, by some margin."""
        low, high = (torch.tensor(self.brightness[name]) for name in ("low", "high"))
        margin = (MARGIN * (high - low)).clamp(min=LEAST_MARGIN)
        lowest = low - torch.minimum(margin, low / 2)  # so that 0 may be too little
        return ((brightness < lowest) | (brightness > high + margin)).any(1).tolist()

    def scores(self, traits: Traits) -> Tensor | None:
        """(N,): how far each is from the training images; None where that is not known."""
        parts = traits.parts()
        return score(self.gaussians, parts) if self.gaussians and parts else None

    def is_far(self, traits: Traits) -> list[bool] | None:
        """Whether each is farther than FALSE_ALARMS of the validation images; None as in scores."""
        found = self.scores(traits)
        return None if found is None else (found > self.threshold).tolist()
