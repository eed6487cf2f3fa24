"""Which classes are confused: the matrix, its picture, and the most confused pairs."""

import io
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

from volo.analysis.evaluate import Predictions
from volo.console import percent
from volo.files import replace_synced
from volo.plots.figures import BLUE, INK, MUTED, SEQUENTIAL, axes_at, new_figure, save, shorten, style

# Inches: the matrix is as large as its classes ask for, within these bounds.
SMALLEST, LARGEST, CELL = 3.6, 14.0, 0.66
MAX_LABELS = 125  # an axis names this many classes; of more, every second, third ...
NUMBERED_CLASSES = 20  # up to so many classes the cells hold their counts


class ConfusedPair(NamedTuple):
    """`num_images` images of class `true` were taken for class `predicted`: `share`, in (0, 1], of the true class."""

    true: str
    predicted: str
    num_images: int
    share: float


def confusion_matrix(predictions: Predictions) -> np.ndarray:
    """(classes, classes) int64 counts; row: true class, column: predicted class."""
    size = predictions.num_classes
    cells = predictions.labels * size + predictions.predicted
    return np.bincount(cells, minlength=size * size).reshape(size, size)


def most_confused(matrix: np.ndarray, class_names: tuple[str, ...], limit: int = 10) -> list[ConfusedPair]:
    """The largest counts off the diagonal of a (classes, classes) matrix, at most `limit`, none of them 0.

    Among equal counts the larger share of the true class leads, then the order of the classes.

    Raises:
        ValueError: a matrix that is not (classes, classes).
    """
    if matrix.shape != (len(class_names), len(class_names)):
        raise ValueError(
            f"matrix must be (classes, classes), got {matrix.shape} for {len(class_names)} class_names; "
            "name the classes of the same predictions"
        )
    shares = _row_shares(matrix)
    rows, columns = np.nonzero(matrix * ~np.eye(len(matrix), dtype=bool))
    order = np.lexsort((columns, rows, -shares[rows, columns], -matrix[rows, columns]))[:limit]
    return [
        ConfusedPair(class_names[r], class_names[c], int(matrix[r, c]), float(shares[r, c]))
        for r, c in zip(rows[order], columns[order], strict=True)
    ]


def save_confusion(predictions: Predictions, output_dir: Path) -> list[ConfusedPair]:
    """Writes confusion_matrix.npy (as from `confusion_matrix`) and confusion_matrix.png; returns the worst pairs."""
    matrix = confusion_matrix(predictions)
    pairs = most_confused(matrix, predictions.class_names)
    output_dir.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    np.save(buffer, matrix)
    replace_synced(output_dir / "confusion_matrix.npy", buffer.getvalue())
    _save_picture(matrix, pairs, predictions, output_dir / "confusion_matrix.png")
    return pairs


@style()
def _save_picture(matrix: np.ndarray, pairs: list[ConfusedPair], predictions: Predictions, path: Path) -> None:
    side = float(np.clip(CELL * len(matrix), SMALLEST, LARGEST))
    scale = max(1.0, side / 9)  # of the lettering: a large picture is seen from further away
    names = [shorten(name, 22) for name in predictions.class_names]
    fontsize = _label_fontsize(len(matrix), side)
    left = 0.6 + max(len(name) for name in names) * fontsize * 0.6 / 72
    below = side + 0.8 + (left * 0.6 if len(matrix) <= NUMBERED_CLASSES else left)
    row = 0.27 * scale
    figure = new_figure(left + side + 1.2, below + 0.6 * scale + row * len(pairs), layout=None)
    axes = axes_at(figure, left, 0.5, side, side)
    _draw_matrix(figure, axes, matrix, side, scale)
    _label_axes(axes, names, fontsize, scale)
    axes.set_title(_title(predictions), fontsize=12 * scale)
    if pairs:
        place = (max(left, 3.2 * scale), below + 0.4 * scale, side * 0.7, row * len(pairs))
        _draw_pairs(axes_at(figure, *place), pairs, scale)
    save(figure, path)


def _draw_matrix(figure: Figure, axes: Axes, matrix: np.ndarray, side: float, scale: float) -> None:
    """Rows as shares of their class; the square root in the colors lifts small shares out of the white."""
    shares = _row_shares(matrix)
    norm = PowerNorm(0.5, 0, 1)
    axes.imshow(np.ma.masked_invalid(shares), cmap=SEQUENTIAL, norm=norm, interpolation="nearest", aspect="auto")
    if len(matrix) <= NUMBERED_CLASSES:
        _write_counts(axes, matrix, shares, 72 * side / len(matrix))
    _draw_grid(axes, len(matrix))
    _draw_color_bar(figure, axes, norm, scale)


def _write_counts(axes: Axes, matrix: np.ndarray, shares: np.ndarray, pitch: float) -> None:
    """The count in each cell `pitch` points wide, and its share if there is room; nothing for 0."""
    roomy = pitch > 40
    size = min(14.0, 0.27 * pitch)
    for row, column in np.argwhere(matrix):
        share = shares[row, column]
        common: dict[str, Any] = dict(textcoords="offset points", ha="center", color="white" if share > 0.3 else INK)
        lift = (0, 0.1 * size if roomy else 0)
        valign = "bottom" if roomy else "center"
        axes.annotate(f"{matrix[row, column]:,}", (column, row), lift, va=valign, fontsize=size, **common)
        if roomy:
            text = percent(share, 0) if share >= 0.01 else "<1%"
            axes.annotate(text, (column, row), (0, -0.3 * size), va="top", fontsize=0.7 * size, alpha=0.8, **common)


def _draw_grid(axes: Axes, classes: int) -> None:
    """White lines between few cells; between many, faint ones at every tenth class to find the way by."""
    few = classes <= NUMBERED_CLASSES
    lines = np.arange(1 if few else 10, classes, 1 if few else 10) - 0.5
    look: dict[str, Any] = (
        dict(colors="white", linewidth=1.5) if few else dict(colors="#9aa7b2", linewidth=0.4, alpha=0.7)
    )
    if classes <= MAX_LABELS:
        axes.hlines(lines, -0.5, classes - 0.5, **look)
        axes.vlines(lines, -0.5, classes - 0.5, **look)
    axes.spines[:].set_visible(not few)


def _draw_color_bar(figure: Figure, axes: Axes, norm: PowerNorm, scale: float) -> None:
    box = axes.get_position()
    width, height = figure.get_size_inches()
    shown = min(box.height, 6.0 / height)  # the bar need not be as tall as a hundred classes
    place = figure.add_axes((box.x1 + 0.2 / width, box.y1 - shown, 0.16 * scale / width, shown))
    bar = figure.colorbar(ScalarMappable(norm, SEQUENTIAL), cax=place, ticks=[0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 1])
    bar.ax.yaxis.set_major_formatter(lambda value, _: percent(value, 0))
    bar.ax.tick_params(labelsize=9 * scale)
    bar.outline.set_visible(False)
    bar.set_label("share of the true class", fontsize=10 * scale)


def _label_axes(axes: Axes, names: list[str], fontsize: float, scale: float) -> None:
    step = _label_step(len(names))
    ticks = range(0, len(names), step)
    slanted = len(names) <= NUMBERED_CLASSES
    turn = dict(rotation=35, ha="right", rotation_mode="anchor") if slanted else dict(rotation=90)
    axes.set_xticks(ticks, names[::step], fontsize=fontsize, **turn)
    axes.set_yticks(ticks, names[::step], fontsize=fontsize)
    axes.tick_params(length=0 if slanted else 2, pad=3)
    every = f" (one of {step} named)" if step > 1 else ""
    axes.set_xlabel("predicted class" + every, labelpad=8, fontsize=10 * scale)
    axes.set_ylabel("true class" + every, labelpad=8, fontsize=10 * scale)


def _draw_pairs(axes: Axes, pairs: list[ConfusedPair], scale: float) -> None:
    """One bar a pair: how many images of the true class were taken for the other."""
    rows, counts = range(len(pairs)), [pair.num_images for pair in pairs]
    axes.barh(rows, counts, color=BLUE, height=0.62)
    names = [f"{shorten(pair.true, 20)} → {shorten(pair.predicted, 20)}" for pair in pairs]
    axes.set_yticks(rows, names, fontsize=9.5 * scale)
    for row, pair in enumerate(pairs):
        text = f"{pair.num_images:,} ({percent(pair.share)} of {shorten(pair.true, 20)})"
        look: dict[str, Any] = dict(textcoords="offset points", va="center", color=MUTED, fontsize=9 * scale)
        axes.annotate(text, (pair.num_images, row), (5, 0), **look)
    axes.set(ylim=(len(pairs) - 0.5, -0.5), xlim=(0, max(counts) * 1.4), xticks=[])
    axes.tick_params(length=0)
    axes.spines["bottom"].set_visible(False)
    axes.set_title("Most confused, true → predicted", fontsize=11 * scale)


def _title(predictions: Predictions) -> str:
    accuracy = percent(float(predictions.correct.mean()))
    return f"Confusion on {shorten(predictions.split, 20)}: {accuracy} of {predictions.num_samples:,} right"


def _row_shares(matrix: np.ndarray) -> np.ndarray:
    """(classes, classes) float64, each row over its sum; NaN in the row of a class without images."""
    total = matrix.sum(axis=1, keepdims=True)
    return np.divide(matrix, total, out=np.full(matrix.shape, np.nan), where=total > 0)


def _label_step(classes: int) -> int:
    return -(-classes // MAX_LABELS)


def _label_fontsize(classes: int, side: float) -> float:
    """Points: as large as fits between two labels."""
    pitch = 72 * side / classes * _label_step(classes)
    return float(np.clip(0.78 * pitch, 5.0, 10.0))
