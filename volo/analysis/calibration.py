"""Does 80 % confidence mean 80 % right? Errors of calibration, temperature scaling, reliability diagrams.

Guo et al., On Calibration of Modern Neural Networks, arXiv:1706.04599: eq. 2, 3, 5 (bins, ECE, MCE), eq. 9 (temperature).
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from volo.analysis.evaluate import Predictions
from volo.analysis.figures import BLUE, INK, MUTED, ORANGE, new_figure, percent, percent_axis, save, shorten, style

NUM_BINS = 15
LOWEST_TEMPERATURE, HIGHEST_TEMPERATURE = 0.05, 20.0


@dataclass(frozen=True, eq=False)
class Reliability:
    """Samples binned by confidence, in bins closed on the right, (edge, next edge].

    Attributes:
        edges: (bins + 1,) float64, evenly from 0 to 1.
        confidence: (bins,) mean confidence of the samples of each bin; NaN where there are none.
        accuracy: (bins,) share of them that is right; NaN where there are none.
        count: (bins,) int64 samples.
    """

    edges: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray
    count: np.ndarray

    @property
    def gaps(self) -> np.ndarray:
        """(bins,) float64 distance of confidence and accuracy, in [0, 1]; 0 for an empty bin."""
        return np.nan_to_num(np.abs(self.confidence - self.accuracy))


def reliability(predictions: Predictions, num_bins: int = NUM_BINS) -> Reliability:
    """Mean confidence, accuracy and count in `num_bins` equal bins of the confidence.

    Raises:
        ValueError: fewer than one bin.
    """
    if num_bins < 1:
        raise ValueError(f"num_bins must be at least 1, got {num_bins}; {NUM_BINS} is usual")
    edges = np.linspace(0, 1, num_bins + 1)
    bins = np.clip(np.searchsorted(edges, predictions.confidence) - 1, 0, num_bins - 1)  # (N,)
    count = np.bincount(bins, minlength=num_bins)
    sums = [np.bincount(bins, of, num_bins) for of in (predictions.confidence, predictions.correct)]
    confidence, accuracy = (np.divide(s, count, out=np.full(num_bins, np.nan), where=count > 0) for s in sums)
    return Reliability(edges, confidence, accuracy, count)


def calibration_metrics(predictions: Predictions, num_bins: int = NUM_BINS) -> dict[str, float]:
    """How far confidence and accuracy lie apart; smaller is better.

    nll: mean cross entropy in nats. brier: squared distance of the probabilities from the truth, summed over the
    classes, mean over the samples, in [0, 2]. ece, mce: expected (weighted by count) and maximum gap over the bins,
    in [0, 1].
    """
    bins = reliability(predictions, num_bins)
    truth = predictions.probabilities[np.arange(predictions.num_samples), predictions.labels]
    squares = np.einsum("nc,nc->n", predictions.probabilities, predictions.probabilities)
    return {
        "nll": float(predictions.losses.mean()),
        "brier": float((squares - 2 * truth + 1).mean()),
        "ece": float(bins.gaps @ bins.count / predictions.num_samples),
        "mce": float(bins.gaps.max()),
    }


def fit_temperature(val_predictions: Predictions) -> float:
    """The temperature in [0.05, 20] by which logits are divided for the least validation cross entropy.

    Newton's method on 1 / temperature, in which the loss is convex, kept inside a bracket. Never worse than 1, which
    is also the answer where the temperature makes no difference.
    """
    logits = val_predictions.logits.astype(np.float64)
    logits -= logits[np.arange(len(logits)), val_predictions.labels][:, None]  # the truth at 0
    low, high, inverse = 1 / HIGHEST_TEMPERATURE, 1 / LOWEST_TEMPERATURE, 1.0
    for _ in range(60):
        slope, curvature = _loss_derivatives(logits, inverse)
        if slope == 0 or high / low < 1 + 1e-7:
            break
        low, high = (low, inverse) if slope > 0 else (inverse, high)
        newton = inverse - slope / curvature if curvature > 0 else high
        inverse = newton if low < newton < high else float(np.sqrt(low * high))
        if abs(newton - inverse) == 0 and abs(slope) < 1e-10:
            break
    return _no_worse_than_one(val_predictions, 1 / inverse)


def scaled(predictions: Predictions, temperature: float) -> Predictions:
    """The same predictions with logits divided by `temperature`, greater than 0: what is predicted stays.

    Raises:
        ValueError: a temperature that is not finite or not greater than 0.
    """
    if not (np.isfinite(temperature) and temperature > 0):
        raise ValueError(f"temperature must be finite and greater than 0, got {temperature}; 1 changes nothing")
    return replace(predictions, logits=predictions.logits / np.float32(temperature))
