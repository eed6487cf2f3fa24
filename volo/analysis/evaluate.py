"""What a model said about a split, and the numbers that sum it up. Arrays in, plain numbers out."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

ANSWERED = (1.0, 0.95, 0.9, 0.8, 0.7, 0.5)


@dataclass(frozen=True, eq=False)
class Predictions:
    """Logits of a model for every image of a split, in the order of the split.

    Attributes:
        split: name of the split, as in `test`.
        class_names: one name for each class, all different.
        labels: (N,) int64, the true classes, in [0, num_classes).
        logits: (N, num_classes) float32, finite.
        features: (N, num_features) float32, what the model's head reads; None if they are not at hand.

    Raises:
        ValueError: no images, shapes that do not fit each other, labels out of range, logits that are not finite.
    """

    split: str
    class_names: tuple[str, ...]
    labels: np.ndarray
    logits: np.ndarray
    features: np.ndarray | None = None

    def __post_init__(self):
        labels, logits = np.asarray(self.labels), np.asarray(self.logits)
        _check_shapes(self.class_names, labels, logits)
        if self.features is not None and (self.features.ndim, len(self.features)) != (2, len(labels)):
            raise ValueError(
                f"features must be (images, features), got {self.features.shape} for {len(labels)} images; take them "
                "from the same split"
            )
        _check_values(self.class_names, labels, logits)
        object.__setattr__(self, "class_names", tuple(self.class_names))
        object.__setattr__(self, "labels", labels.astype(np.int64, copy=False))
        object.__setattr__(self, "logits", logits.astype(np.float32, copy=False))

    @property
    def num_samples(self) -> int:
        return len(self.labels)

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @cached_property
    def probabilities(self) -> np.ndarray:
        """(N, num_classes) float64, softmax of the logits."""
        return softmax(self.logits)

    @cached_property
    def predicted(self) -> np.ndarray:
        """(N,) int64, the class with the largest logit; among equals the first."""
        return self.logits.argmax(axis=1)

    @cached_property
    def confidence(self) -> np.ndarray:
        """(N,) float64, probability of the predicted class, in [1 / num_classes, 1]."""
        return self.probabilities.max(axis=1)

    @property
    def correct(self) -> np.ndarray:
        """(N,) bool."""
        return self.predicted == self.labels

    @cached_property
    def losses(self) -> np.ndarray:
        """(N,) float64, cross entropy of each sample in nats, exact even where a probability underflows."""
        shifted = _shifted(self.logits)
        return np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(self.num_samples), self.labels]


def classification_metrics(predictions: Predictions) -> dict[str, str | int | float]:
    """split, num_samples, loss (mean cross entropy, nats), acc1 and acc5 (fractions; of fewer than five classes all).

    Plain Python values, ready for JSON.
    """
    rank = _rank_of_truth(predictions)
    return {
        "split": predictions.split,
        "num_samples": predictions.num_samples,
        "loss": float(predictions.losses.mean()),
        "acc1": float((rank < 1).mean()),
        "acc5": float((rank < 5).mean()),
    }


class ClassScore(NamedTuple):
    """How many images a class has (`num_images`), how many of them are predicted right (`num_right`), and how many
    images of any class are predicted as it (`num_predicted`)."""

    num_images: int
    num_right: int
    num_predicted: int

    @property
    def accuracy(self) -> float | None:
        """In [0, 1]; None if there are no images."""
        return self.num_right / self.num_images if self.num_images else None

    @property
    def precision(self) -> float | None:
        """Of the images predicted as this class, the share that it is right for; None if there are none."""
        return self.num_right / self.num_predicted if self.num_predicted else None

    @property
    def f1(self) -> float | None:
        """Harmonic mean of accuracy and precision, 0 if one of them is 0; None without an image and a prediction."""
        total = self.num_images + self.num_predicted
        return 2 * self.num_right / total if total else None


def class_scores(predictions: Predictions) -> dict[str, ClassScore]:
    """Counts for every class, in order, including classes without an image here."""
    total = np.bincount(predictions.labels, minlength=predictions.num_classes).tolist()
    right = np.bincount(predictions.labels[predictions.correct], minlength=predictions.num_classes).tolist()
    predicted = np.bincount(predictions.predicted, minlength=predictions.num_classes).tolist()
    counts = zip(predictions.class_names, total, right, predicted, strict=True)
    return {name: ClassScore(*score) for name, *score in counts}


def balanced_accuracy(classes: Mapping[str, ClassScore]) -> float:
    """Mean of the accuracies of all classes that have an image, in [0, 1]: a rare class counts as much as a common
    one."""
    return float(np.mean([score.accuracy for score in classes.values() if score.accuracy is not None]))


@dataclass(frozen=True)
class Coverage:
    """The share of the images whose confidence is at least `threshold`, and the accuracy among them."""

    answered: float
    threshold: float
    acc1: float


def coverages(predictions: Predictions) -> list[Coverage]:
    """How accurate the surest ANSWERED shares of the predictions are. Equal confidences are answered together."""
    falling = np.sort(predictions.confidence)[::-1]
    found = []
    for share in ANSWERED:
        threshold = falling[max(1, round(share * len(falling))) - 1]
        is_answered = predictions.confidence >= threshold
        found.append(
            Coverage(float(is_answered.mean()), float(threshold), float(predictions.correct[is_answered].mean()))
        )
    return found


def coarse_accuracy(predictions: Predictions, of_class: np.ndarray) -> float:
    """Share of the images whose predicted class has the true superclass, in [0, 1]; of_class (num_classes,)."""
    return float((of_class[predictions.predicted] == of_class[predictions.labels]).mean())


def softmax(logits: np.ndarray) -> np.ndarray:
    """(N, num_classes) float64 over each row, whatever the dtype of the logits."""
    exponentials = np.exp(_shifted(logits))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def _shifted(logits: np.ndarray) -> np.ndarray:
    """(N, num_classes) float64 with a largest value of 0 in each row, so that no exponential overflows."""
    exact = logits.astype(np.float64)
    return exact - exact.max(axis=1, keepdims=True)


def _rank_of_truth(predictions: Predictions) -> np.ndarray:
    """(N,) how many classes stand before the true one; among equal logits the first class leads, as in argmax."""
    truth = np.take_along_axis(predictions.logits, predictions.labels[:, None], axis=1)  # (N, 1)
    earlier = np.arange(predictions.num_classes)[None] < predictions.labels[:, None]  # (N, num_classes)
    ahead = (predictions.logits > truth) | ((predictions.logits == truth) & earlier)
    return ahead.sum(axis=1)


def _check_shapes(class_names: tuple[str, ...], labels: np.ndarray, logits: np.ndarray) -> None:
    if labels.ndim != 1 or len(labels) == 0:
        raise ValueError(f"labels must be (N,) with at least one image, got {labels.shape}; is the split empty?")
    if logits.shape != (len(labels), len(class_names)):
        raise ValueError(
            "logits must be (images, classes), "
            f"got logits {logits.shape}, {len(labels)} labels, {len(class_names)} class_names; "
            "take all three from the same split and checkpoint"
        )
    name, count = Counter(class_names).most_common(1)[0]
    if count > 1:
        raise ValueError(f"class_names must all differ, got {name!r} {count} times; number them")


def _check_values(class_names: tuple[str, ...], labels: np.ndarray, logits: np.ndarray) -> None:
    if labels.dtype.kind not in "iu":
        raise ValueError(f"labels must be class indices, got dtype {labels.dtype}; convert them to int64")
    if labels.min() < 0 or labels.max() >= len(class_names):
        raise ValueError(
            f"labels must lie in [0, {len(class_names)}), got {labels.min()} to {labels.max()}; "
            "give one class name for every class of the split"
        )
    finite = np.isfinite(logits) & (np.abs(logits) <= np.finfo(np.float32).max)
    if not finite.all():
        bad = int((~finite.all(axis=1)).sum())
        raise ValueError(
            f"logits must be finite in float32, got {bad} of {len(labels)} images with others; "
            "evaluate in float32, or an earlier checkpoint where the weights themselves are not finite"
        )
