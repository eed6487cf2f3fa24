"""Turns coarse maps into pictures: interpolated to pixels, overlaid on the image, and shown next to it.

Shapes: n maps (n, h, w) over images of H x W pixels; a heatmap (H, W); pictures (S, S, 3) uint8.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from PIL import Image

from volo.analysis.evaluate import Predictions
from volo.console import percent
from volo.plots.figures import (
    BLUE,
    CRISP_BELOW,
    INK,
    MUTED,
    ORANGE,
    axes_at,
    new_figure,
    save,
    shorten,
    style,
)  # fmt: skip

SIDE = 192  # pixels a side of an overlay, or the image's own where it has more
HEAT = LinearSegmentedColormap.from_list("heat", ["#3b0f6f", "#a3246f", "#e4572e", "#fca50a", "#fcf6b0"])
COLUMNS, PICTURE, GAP, TEXT, HEADER = 3, 1.5, 0.06, 0.58, 0.62  # inches


def spread(maps: np.ndarray, rows: np.ndarray, columns: np.ndarray, height: int, width: int) -> np.ndarray:
    """(n, h, w) values at pixel coordinates `rows` (h,) and `columns` (w,) -> (n, height, width) float32.

    Linear interpolation, constant beyond the outermost values. The first pixel's center is 0.5.
    """
    down, across = _weights(rows, height), _weights(columns, width)  # (H, h), (W, w)
    return (down @ maps.astype(np.float64) @ across.T).astype(np.float32)


def overlay(image: np.ndarray, heatmap: np.ndarray) -> np.ndarray:
    """The image in gray under the heatmap's positive part, its maximum brightest: (S, S, 3) uint8."""
    size = (max(SIDE, image.shape[1]), max(SIDE, image.shape[0]))
    gray = np.asarray(_enlarged(Image.fromarray(image).convert("L"), size), np.float64)[..., None] / 255
    heat = heatmap.clip(0) / max(float(heatmap.max()), 1e-12)
    heat = np.asarray(Image.fromarray(heat.astype(np.float32)).resize(size, Image.Resampling.BILINEAR))
    strength = (0.85 * heat.clip(0, 1) ** 0.7)[..., None]
    mixed = (1 - strength) * (0.15 + 0.7 * gray) + strength * HEAT(heat)[..., :3]
    return (255 * mixed).round().astype(np.uint8)


def enlarged(image: np.ndarray) -> np.ndarray:
    """The image as large as its overlay; a small one as the squares it is made of."""
    size = (max(SIDE, image.shape[1]), max(SIDE, image.shape[0]))
    return np.asarray(_enlarged(Image.fromarray(image), size))


@style()
def save_overlays(
    path: Path,
    title: str,
    subtitle: str,
    images: np.ndarray,
    overlays: Sequence[np.ndarray],
    predictions: Predictions,
    places: np.ndarray,
) -> None:
    """Writes a PNG of every image next to its overlay, with the true and the predicted class below.

    Args:
        images: (k, H, W, 3) uint8.
        overlays: k pictures, as from `overlay`.
        places: (k,) which images of the split they are.
    """
    columns = min(COLUMNS, len(places))
    pitch = 2 * PICTURE + GAP + 0.3
    rows = -(-len(places) // columns)
    figure = new_figure(max(columns * pitch, 4.5), HEADER + rows * (PICTURE + TEXT), layout=None)
    header = axes_at(figure, 0, 0, columns * pitch, HEADER - 0.1)
    header.set_axis_off()
    header.text(0, 1, title, fontsize=13, weight="bold", va="top")
    header.text(0, 0.42, subtitle, fontsize=9, color=MUTED, va="top")
    for number, pair in enumerate(zip(images, overlays, strict=True)):
        row, column = divmod(number, columns)
        corner = (column * pitch, HEADER + row * (PICTURE + TEXT))
        _draw_pair(figure, corner, pair, predictions, int(places[number]))
    save(figure, path)


def _draw_pair(
    figure: Figure,
    corner: tuple[float, float],
    pair: tuple[np.ndarray, np.ndarray],
    predictions: Predictions,
    index: int,
) -> None:
    color = BLUE if predictions.correct[index] else ORANGE
    for number, picture in enumerate((enlarged(pair[0]), pair[1])):
        axes = axes_at(figure, corner[0] + number * (PICTURE + GAP), corner[1], PICTURE, PICTURE)
        axes.imshow(picture, interpolation="antialiased")
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set(visible=True, color=color, linewidth=1.4)
        if number == 0:
            _write_below(axes, predictions, index, color)


def _write_below(axes, predictions: Predictions, index: int, color: str) -> None:
    names = predictions.class_names
    lines = (
        (f"true {shorten(names[predictions.labels[index]], 34)}", INK),
        (f"pred {shorten(names[predictions.predicted[index]], 34)}", color),
        (f"confidence {percent(float(predictions.confidence[index]))}", MUTED),
    )
    for line, (text, ink) in enumerate(lines):
        below = (0, -5 - 11 * line)
        axes.annotate(text, (0, 0), below, "axes fraction", "offset points", va="top", color=ink, fontsize=8)


def _weights(centers: np.ndarray, size: int) -> np.ndarray:
    """(size, h): weight of the value at each center for each pixel."""
    pixels = np.arange(size) + 0.5
    return np.stack([np.interp(pixels, centers, unit) for unit in np.eye(len(centers))], axis=1)


def _enlarged(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    crisp = max(image.size) < CRISP_BELOW
    return image.resize(size, Image.Resampling.NEAREST if crisp else Image.Resampling.LANCZOS)
