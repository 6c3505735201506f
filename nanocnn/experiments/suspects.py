"""Labels that may be wrong: those which a classifier that has not seen them finds least likely."""

import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from nanocnn.images.overview import Overview, Section
from nanocnn.training.head import Features

FOLDS = 5
STRENGTH = 0.001  # scikit-learn's C, by benchmarks.suspects: features are of variance 1
SHOWN = 100  # suspects on a page


class Suspect(NamedTuple):
    place: int  # among all images
    suggested: int  # the class that is likeliest
    confidence: float  # the probability of the label that it has


def rank(found: Features, groups: Sequence[str] | None = None) -> list[Suspect]:
    """Every image, the most suspicious first, but for those alone in their class.

    The measure is the self-confidence of C. Northcutt, L. Jiang and I. Chuang, Confident Learning:
    Estimating Uncertainty in Dataset Labels (2021): the probability that a logistic regression on
    the other folds gives to the label. A group is in one fold, and alone where no other has its
    class: else a picture would vouch for the wrong label of the next one.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    labels = found.labels.numpy()
    units = np.arange(len(labels)) if groups is None else np.unique(groups, return_inverse=True)[1]
    pairs = np.unique(np.stack([labels, units]), axis=1)  # of classes and the groups that have them
    several = np.bincount(pairs[0])[labels] > 1  # of others nothing is known
    places = np.flatnonzero(several)
    values, labels, units = found.values.numpy()[several], labels[several], units[several]
    classes = np.unique(labels)
    if len(classes) < 2:
        return []
    folds = folds_of(labels, units)
    classifier = make_pipeline(StandardScaler(), LogisticRegression(C=STRENGTH, max_iter=1000))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of a class that one fold has all of
        predicted = cross_val_predict(classifier, values, labels, cv=folds, method="predict_proba")
    confidence = predicted[np.arange(len(labels)), np.searchsorted(classes, labels)]
    known = np.zeros(len(labels), bool)
    for others, fold in folds:
        known[fold] = np.isin(labels[fold], labels[others])
    order = np.argsort(confidence, kind="stable")
    likeliest = classes[predicted.argmax(1)]
    return [
        Suspect(int(places[i]), int(likeliest[i]), float(confidence[i])) for i in order if known[i]
    ]


def folds_of(labels: np.ndarray, units: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Indices of (all others, a fold), FOLDS of them at most, in which all of a unit is together
    and, as far as that allows, each class has its share.
    """
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    if len(np.unique(units)) == len(units):
        # of a rare class too each fold has one, and the others another
        count = min(FOLDS, int(np.unique(labels, return_counts=True)[1].min()))
        return [*StratifiedKFold(count, shuffle=True, random_state=0).split(labels, labels)]
    count = min(FOLDS, len(np.unique(units)))
    folds = StratifiedGroupKFold(count, shuffle=True, random_state=0)
    return [*folds.split(labels, labels, units)]


def suspect_section(overview: Overview, suspects: Sequence[Suspect]) -> Section:
    """The first of them for a page."""
    classes = overview.info.classes
    odd = [each for each in suspects if classes[each.suggested] != overview.label(each.place)]
    tiles = [
        overview.tile(
            place,
            note=f"{overview.label(place)} ({confidence:.1%}), or {classes[suggested]}?",
        )
        for place, suggested, confidence in odd[:SHOWN]
    ]
    text = (
        f"{len(odd):,} of {len(suspects):,} train and val labels are not the likeliest; "
        f"the {len(tiles)} least likely of them are shown, and many are right"
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
