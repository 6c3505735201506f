"""Labels that may be wrong: those which a classifier that has not seen them finds least likely."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from torch import Tensor

from nanocnn.images.overview import Overview, Section
from nanocnn.training.head import Features
from nanocnn.training.learner import Learner

FOLDS = 5
STRENGTH = 0.001  # scikit-learn's C, by benchmarks.suspects: features are of variance 1
SHOWN = 100  # suspects on a page


class Suspect(NamedTuple):
    place: int  # among all images
    suggested: int  # the class that is likeliest
    confidence: float  # the probability of the label that it has


def suspects_among(learner: Learner, batches: Iterable[tuple[Tensor, Tensor]]) -> list[Suspect]:
    """All images of the `batches` as `rank` has them, by what the network makes of them."""
    return rank(learner.features(batches))


def rank(found: Features) -> list[Suspect]:
    """Every image, the most suspicious first, but for those alone in their class.

    The measure is the self-confidence of C. Northcutt, L. Jiang and I. Chuang, Confident Learning:
    Estimating Uncertainty in Dataset Labels (2021): the probability that a logistic regression on
    the other folds gives to the label.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    labels = found.labels.numpy()
    several = np.bincount(labels)[labels] > 1  # of others nothing is known
    places = np.flatnonzero(several)
    values, labels = found.values.numpy()[several], labels[several]
    classes, counts = np.unique(labels, return_counts=True)
    if len(classes) < 2:
        return []
    # of a rare class too each fold has one, and the others another
    folds = StratifiedKFold(min(FOLDS, int(counts.min())), shuffle=True, random_state=0)
    classifier = make_pipeline(StandardScaler(), LogisticRegression(C=STRENGTH, max_iter=1000))
    predicted = cross_val_predict(classifier, values, labels, cv=folds, method="predict_proba")
    confidence = predicted[np.arange(len(labels)), np.searchsorted(classes, labels)]
    order = np.argsort(confidence, kind="stable")
    likeliest = classes[predicted.argmax(1)]
    return [Suspect(int(places[i]), int(likeliest[i]), float(confidence[i])) for i in order]


def suspect_section(overview: Overview, suspects: Sequence[Suspect]) -> Section:
    """The first of them for a page."""
    classes = overview.info.classes
    tiles = [
        overview.tile(
            place, note=f"{classes[suggested]}? ({confidence:.1%} {overview.label(place)})"
        )
        for place, suggested, confidence in suspects[:SHOWN]
    ]
    odd = sum(classes[suggested] != overview.label(place) for place, suggested, _ in suspects)
    text = (
        f"{odd:,} of {len(suspects):,} train and val labels are not the likeliest; "
        f"the {len(tiles)} least likely are shown, and many of them are right"
    )
    return Section("Labels to look at", text, tiles)


def correction_rows(overview: Overview, suspects: Sequence[Suspect]) -> list[tuple[str, ...]]:
    """The lines of a list of corrections: those whose label is not the likeliest."""
    classes = overview.info.classes
    return [
        (
            overview.names[place],
            overview.split(place),
            overview.label(place),
            classes[suggested],
            f"{confidence:.4f}",
        )
        for place, suggested, confidence in suspects
        if classes[suggested] != overview.label(place)
    ]
