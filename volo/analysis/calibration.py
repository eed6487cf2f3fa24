"""Does 80% confidence mean 80% right? Calibration errors, temperature scaling, reliability diagrams.

Guo et al., On Calibration of Modern Neural Networks, arXiv:1706.04599: section 2 (ECE, MCE), section 4.2 (temperature).
"""

import io
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from volo.analysis.evaluate import Predictions, softmax
from volo.analysis.intervals import LEVEL, mean_interval
from volo.console import percent
from volo.files import replace_synced
from volo.plots.figures import BLUE, INK, ORANGE, new_figure, percent_axis, save, shorten, style

NUM_BINS = 15
CHANCE_DRAWS, CHANCE_SEED, DRAWN_AT_ONCE = 500, 0, 2**22
LOWEST_TEMPERATURE, HIGHEST_TEMPERATURE = 0.05, 20.0


@dataclass(frozen=True, eq=False)
class Reliability:
    """Samples binned by confidence, in bins closed on the right, (edge, next edge].

    Attributes:
        edges: (bins + 1,) float64, evenly from 0 to 1.
        confidence: (bins,) mean confidence of the samples of each bin; NaN if there are none.
        accuracy: (bins,) share of them that is right; NaN if there are none.
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
    in [0, 1]. ece_by_chance: what `ece_by_chance` says of the same images.
    """
    bins = reliability(predictions, num_bins)
    truth = predictions.probabilities[np.arange(predictions.num_samples), predictions.labels]
    squares = np.einsum("nc,nc->n", predictions.probabilities, predictions.probabilities)
    return {
        "nll": float(predictions.losses.mean()),
        "brier": float((squares - 2 * truth + 1).mean()),
        "ece": float(bins.gaps @ bins.count / predictions.num_samples),
        "mce": float(bins.gaps.max()),
        "ece_by_chance": ece_by_chance(predictions, num_bins),
    }


def ece_by_chance(predictions: Predictions, num_bins: int = NUM_BINS) -> float:
    """The ece that a model with these confidences, each of them true, exceeds on 5 of 100 such sets of images.

    A gap has no sign, so chance alone opens it: an ece below this is no evidence against the calibration. Drawn, with
    a seed (consistency resampling: Broecker and Smith, Weather and Forecasting 22, 2007).
    """
    confidence = np.sort(predictions.confidence)
    bins = np.clip(np.searchsorted(np.linspace(0, 1, num_bins + 1), confidence) - 1, 0, num_bins - 1)
    starts = np.flatnonzero(np.diff(bins, prepend=-1))  # of each bin that is not empty
    expected = np.add.reduceat(confidence, starts)
    generator = np.random.default_rng(CHANCE_SEED)
    errors = []
    num_parts = min(CHANCE_DRAWS, -(-CHANCE_DRAWS * len(confidence) // DRAWN_AT_ONCE))
    for part in np.array_split(np.arange(CHANCE_DRAWS), num_parts):
        is_right = generator.random((len(part), len(confidence)), dtype=np.float32) < confidence  # (draws, N)
        hits = np.add.reduceat(is_right, starts, axis=1, dtype=np.int64)
        errors.append(np.abs(hits - expected).sum(axis=1) / len(confidence))
    return float(np.quantile(np.concatenate(errors), LEVEL))


def fit_temperature(val_predictions: Predictions) -> float:
    """The temperature in [0.05, 20] by which logits are divided for the least validation cross entropy.

    Newton's method on 1 / temperature, in which the loss is convex, kept inside a bracket. Never worse than 1, which
    is also returned if the temperature makes no difference.
    """
    logits = val_predictions.logits.astype(np.float64)
    logits -= logits[np.arange(len(logits)), val_predictions.labels][:, None]  # the truth at 0
    low, high, inverse = 1 / HIGHEST_TEMPERATURE, 1 / LOWEST_TEMPERATURE, 1.0
    for _ in range(60):
        slope, curvature = _loss_derivatives(logits, inverse)
        low, high = (low, inverse) if slope > 0 else (inverse, high)
        newton = inverse - slope / curvature if curvature > 0 else inverse if slope == 0 else np.nan
        following = newton if low <= newton <= high else float(np.sqrt(low * high))
        if abs(following - inverse) <= 1e-7 * inverse:
            break
        inverse = following
    better = scaled(val_predictions, 1 / inverse).losses.mean() < val_predictions.losses.mean()
    return float(1 / inverse) if better else 1.0


def scaled(predictions: Predictions, temperature: float) -> Predictions:
    """The same predictions with logits divided by `temperature`, greater than 0: what is predicted stays.

    Raises:
        ValueError: a temperature that is not finite or not greater than 0.
    """
    if not (np.isfinite(temperature) and temperature > 0):
        raise ValueError(f"temperature must be finite and greater than 0, got {temperature}; 1 changes nothing")
    return replace(predictions, logits=predictions.logits / np.float32(temperature))


def save_calibration(
    predictions: Predictions, val_predictions: Predictions | None, output_dir: Path, num_bins: int = NUM_BINS
) -> dict[str, Any]:
    """Writes the calibration as trained, and after scaling by a temperature fitted on the validation split.

    calibration_stats.npz holds, with suffix `_before` and, with a validation split, `_after`:
    confidence, accuracy, count (as in `Reliability`), and what `calibration_metrics` returns; also
    edges, and temperature if it was fitted. reliability_before.png, reliability_after.png: the diagrams.
    Without a validation split no temperature is fitted, and a file of an earlier analysis is deleted.

    Returns:
        before: the metrics. after: the metrics, or None. temperature: or None. notes: what a reader should know.

    Raises:
        ValueError: the two splits have different classes; fewer than one bin.
    """
    if val_predictions and val_predictions.class_names != predictions.class_names:
        raise ValueError(
            "predictions and val_predictions must have the same classes, "
            f"got {predictions.num_classes} and {val_predictions.num_classes} of them; evaluate both on one data set"
        )
    before = _save_stage(predictions, output_dir, "before", 1.0, num_bins)
    notes = [_chance_note(before[0]), *_notes(predictions, val_predictions)]
    result: dict[str, Any] = {"before": before[0], "after": None, "temperature": None, "notes": notes}
    arrays: dict[str, Any] = before[1]
    if val_predictions:
        temperature = fit_temperature(val_predictions)
        after = _save_stage(scaled(predictions, temperature), output_dir, "after", temperature, num_bins)
        arrays |= after[1] | {"temperature": np.float64(temperature)}
        result |= {"after": after[0], "temperature": temperature}
        result["notes"] += _bound_notes(temperature) + _effect_notes(predictions, val_predictions, temperature)
    else:
        (output_dir / "reliability_after.png").unlink(missing_ok=True)
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    replace_synced(output_dir / "calibration_stats.npz", buffer.getvalue())
    return result


def _save_stage(
    predictions: Predictions, output_dir: Path, stage: str, temperature: float, num_bins: int
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Saves the diagram of one stage; returns its metrics and its arrays, named for the archive."""
    bins, metrics = reliability(predictions, num_bins), calibration_metrics(predictions, num_bins)
    how = "as trained" if stage == "before" else f"with temperature {temperature:.2f}"
    title = f"Reliability on {shorten(predictions.split, 20)}, {how}\nECE {percent(metrics['ece'], 2)}"
    _save_diagram(bins, predictions, title, output_dir / f"reliability_{stage}.png")
    named = {"confidence": bins.confidence, "accuracy": bins.accuracy, "count": bins.count, **metrics}
    return metrics, {"edges": bins.edges} | {f"{name}_{stage}": np.asarray(value) for name, value in named.items()}


def _chance_note(metrics: dict[str, float]) -> str:
    found, chance = (percent(metrics[name], 2) for name in ("ece", "ece_by_chance"))
    if metrics["ece"] > metrics["ece_by_chance"]:
        return f"Calibration error {found}: more than chance, which gives a calibrated model up to {chance} here."
    return f"Calibration error {found}: no more than chance gives a calibrated model here, up to {chance}."


def _effect_notes(predictions: Predictions, val_predictions: Predictions, temperature: float) -> list[str]:
    """How the temperature affects images that it was not fitted on."""
    if val_predictions.split == predictions.split or temperature == 1:
        return []
    low, high = mean_interval(scaled(predictions, temperature).losses - predictions.losses)
    does = "lowers" if high < 0 else "raises" if low > 0 else "may lower or raise"
    return [
        f"Temperature {temperature:.3g}, fitted on the validation images, {does} the negative log-likelihood of these: "
        f"its change lies between {low:+.3g} and {high:+.3g} nats (95% interval)."
    ]


def _notes(predictions: Predictions, val_predictions: Predictions | None) -> list[str]:
    if val_predictions is None:
        return ["No temperature was fitted: no validation split is available."]
    if val_predictions.split == predictions.split:
        return [
            f"The temperature was fitted on the images it is evaluated on ({predictions.split}), so the "
            "calibration error after scaling is too small."
        ]
    return []


def _bound_notes(temperature: float) -> list[str]:
    if not np.isclose(temperature, (LOWEST_TEMPERATURE, HIGHEST_TEMPERATURE), rtol=1e-3).any():
        return []
    return [
        f"The temperature is at a bound of its range ({temperature:.2f}): the validation split does not determine it, "
        "for example because every image is predicted right."
    ]


@style()
def _save_diagram(bins: Reliability, predictions: Predictions, title: str, path: Path) -> None:
    figure = new_figure(5.6, 6.6)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3.2, 1))
    _draw_gaps(upper, bins)
    upper.set_title(title)
    _draw_counts(lower, bins, predictions)
    save(figure, path)


def _draw_gaps(axes: Axes, bins: Reliability) -> None:
    """Bars of accuracy; the gap to the bin's mean confidence is hatched."""
    width, filled = np.diff(bins.edges), bins.count > 0
    center = bins.edges[:-1] + width / 2
    axes.bar(center, np.nan_to_num(bins.accuracy), width * 0.92, color=BLUE, label="accuracy")
    lower, upper = (f(bins.accuracy, bins.confidence)[filled] for f in (np.fmin, np.fmax))
    look: dict[str, Any] = dict(facecolor=ORANGE + "40", edgecolor=ORANGE, hatch="////", linewidth=0.8)
    axes.bar(center[filled], upper - lower, width[filled] * 0.92, lower, label="gap to confidence", **look)
    axes.plot((0, 1), (0, 1), color=INK, linewidth=1, linestyle=(0, (4, 3)), label="perfect")
    axes.set(xlim=(0, 1), ylim=(0, 1), ylabel="accuracy")
    axes.grid(axis="y")
    axes.legend(loc="upper left")
    percent_axis(axes.yaxis)


def _draw_counts(axes: Axes, bins: Reliability, predictions: Predictions) -> None:
    width = np.diff(bins.edges)
    axes.bar(bins.edges[:-1] + width / 2, bins.count / predictions.num_samples, width * 0.92, color="#b9c6d1")
    for value, name, color, linestyle in (
        (predictions.correct.mean(), "accuracy", BLUE, "-"),
        (predictions.confidence.mean(), "mean confidence", ORANGE, "--"),
    ):
        axes.axvline(value, label=f"{name} {percent(float(value))}", color=color, linestyle=linestyle)
    axes.set(xlabel=f"confidence ({predictions.num_samples:,} images)", ylabel="share of images")
    axes.legend(loc="upper left")
    percent_axis(axes.xaxis)
    percent_axis(axes.yaxis)


def _loss_derivatives(logits: np.ndarray, inverse: float) -> tuple[float, float]:
    """First and second derivative of the mean cross entropy by 1 / temperature; the true class's logits are 0."""
    weights = softmax(logits * inverse)
    mean = np.einsum("nc,nc->n", weights, logits)
    square = np.einsum("nc,nc,nc->n", weights, logits, logits)
    return float(mean.mean()), float((square - mean**2).mean())
