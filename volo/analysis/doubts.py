"""Labels that may be wrong: of images that, to two judges together, look hardly like their class and more like another.

The model is one judge. The other is a logistic regression on the model's features: it learns from the other images of
the split, with their labels, and so knows what the model, trained on others, does not. Together they put more of the
wrong labels first than the model's loss does (EXPERIMENTS.md).

After Northcutt et al., Confident learning, arXiv 1911.00068: probabilities are of images that were not trained on, and
are judged by a class's threshold, the mean that its own images get for it, so that a class of which the judges are
never sure does not fill the list. Differs from it in what is compared with the thresholds.
"""

from typing import NamedTuple

import numpy as np

from volo.analysis.evaluate import Predictions
from volo.console import Progress

LEAST = 1 / 15  # of its class's threshold: what a label gets that is not doubted
LIKELY = 1 / 2  # of its threshold: what the other class gets
FOLDS = 5
REGULARIZATION = 0.1  # scikit-learn's C: smaller is stronger
SMALLEST = 1e-30  # in place of a sum of probabilities that is 0
MOST = 3e8  # images x features x classes, half a minute on two cores; with more, the model judges alone


class Doubts(NamedTuple):
    """`places` (k,) int64 of the images in the split, the most doubtful first; `suggested` (k,) int64, the class that
    each seems to be, and `probabilities` (k,) float64 of that, to both judges."""

    places: np.ndarray
    suggested: np.ndarray
    probabilities: np.ndarray


NO_DOUBTS = Doubts(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))


def doubtful_labels(predictions: Predictions) -> Doubts:
    """Images that get less than LEAST of its threshold for their class, and LIKELY of its threshold for the likeliest
    other one.

    Without features in the predictions, the model judges alone.
    """
    labels, everyone = predictions.labels, np.arange(predictions.num_samples)
    probabilities = (predictions.probabilities + second_opinion(predictions)) / 2
    own = probabilities[everyone, labels]  # (N,)
    counts, sums = (np.bincount(labels, weights, predictions.num_classes) for weights in (None, own))
    thresholds = np.where(counts > 0, np.maximum(sums, SMALLEST) / np.maximum(counts, 1), np.inf)  # (num_classes,)
    probabilities[everyone, labels] = 0
    suggested, rest = probabilities.argmax(axis=1), own / thresholds[labels]
    likeliest = probabilities[everyone, suggested]
    found = np.flatnonzero((rest < LEAST) & (likeliest >= LIKELY * thresholds[suggested]))
    places = found[np.argsort(rest[found], kind="stable")]
    return Doubts(places, suggested[places], likeliest[places])


def second_opinion(predictions: Predictions) -> np.ndarray:
    """(N, num_classes) float64, probabilities by the logistic regression, each image's from one that has not seen it;
    the model's own for images of classes with fewer than FOLDS, and for all if they are too many."""
    probabilities, features, labels = predictions.probabilities, predictions.features, predictions.labels
    counts = np.bincount(labels, minlength=predictions.num_classes)
    places, classes = np.flatnonzero(counts[labels] >= FOLDS), np.flatnonzero(counts >= FOLDS)
    if features is None or len(classes) < 2 or len(places) * features.shape[1] * len(classes) > MOST:
        return probabilities
    from sklearn.linear_model import LogisticRegression  # takes a second
    from sklearn.model_selection import StratifiedKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    found = probabilities.copy()
    found[places] = 0
    done = 0
    with Progress("asking for a second opinion on labels", len(places), "images") as progress:
        for seen, unseen in StratifiedKFold(FOLDS, shuffle=True, random_state=0).split(places, labels[places]):
            judge = make_pipeline(StandardScaler(), LogisticRegression(C=REGULARIZATION, max_iter=1000))
            judge.fit(features[places[seen]], labels[places[seen]])
            found[np.ix_(places[unseen], classes)] = judge.predict_proba(features[places[unseen]])
            progress.update(done := done + len(unseen))
    return found
