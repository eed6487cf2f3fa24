"""Labels that may be wrong: images that look like another class as much as its own images do, and unlike their own.

After Northcutt et al., Confident learning, arXiv 1911.00068, section 3.1: a class's threshold is the mean probability
that its own images get for it. Differs from it: probabilities are counted in thresholds, so that a class of which the
model is never sure does not fill the list, and the other class must lead by ODDS. Needs probabilities of images that
the model was not trained on.
"""

import math
from typing import NamedTuple

import numpy as np

from volo.analysis.evaluate import Predictions

ODDS = 7.0  # by these fewer right labels are listed than among as many of the largest losses (EXPERIMENTS.md)


class Doubts(NamedTuple):
    """`places` (k,) int64 of the images in the split, the most doubtful first; `suggested` (k,) int64, the class that
    each seems to be."""

    places: np.ndarray
    suggested: np.ndarray


def doubtful_labels(predictions: Predictions) -> Doubts:
    """Images whose most likely other class reaches its threshold, and leads the label's class by ODDS, both counted in
    thresholds."""
    probabilities, labels, everyone = predictions.probabilities, predictions.labels, np.arange(predictions.num_samples)
    own = probabilities[everyone, labels]  # (N,)
    counts, sums = (np.bincount(labels, weights, predictions.num_classes) for weights in (None, own))
    thresholds = np.where(counts > 0, sums / np.maximum(counts, 1), np.inf)  # (num_classes,)
    others = probabilities.copy()
    others[everyone, labels] = 0
    suggested = others.argmax(axis=1)
    in_thresholds = others[everyone, suggested] / thresholds[suggested]
    with np.errstate(divide="ignore"):
        lead = np.log(in_thresholds) - np.log(own / thresholds[labels])
    found = np.flatnonzero((in_thresholds >= 1) & (lead >= math.log(ODDS)))
    places = found[np.argsort(-lead[found], kind="stable")]
    return Doubts(places, suggested[places])
