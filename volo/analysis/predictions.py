"""A look at the images themselves: some predicted wrong, some right, each with truth, prediction and confidence."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from volo.analysis.evaluate import Predictions
from volo.plots.figures import (
    BLUE,
    CRISP_BELOW,
    INK,
    MUTED,
    ORANGE,
    axes_at,
    new_figure,
    percent,
    save,
    shorten,
    style,
)  # fmt: skip

COLUMNS, MIN_COLUMNS = 8, 4
PITCH, PICTURE, TEXT, HEADER = 1.52, 1.28, 0.46, 0.42  # inches: cell, image in it, lines beneath, a part's title

ImageReader = Callable[[np.ndarray], np.ndarray]


def save_prediction_grid(
    predictions: Predictions, images: ImageReader, output_dir: Path, num_images: int = 32, seed: int = 0
) -> dict[str, list[int]]:
    """Writes predictions_grid.png: images drawn at random, half of them predicted wrong where there are so many.

    What one half lacks the other gets. Each half is sorted by confidence, the surest first.

    Args:
        images: the images of these indices, (n, H, W, 3) uint8; called once.
        num_images: how many to show, at least 1; fewer where the split has fewer.
        seed: the same seed chooses the same images.

    Returns:
        wrong, right: indices into the split, in the order shown.

    Raises:
        ValueError: num_images less than 1, or images of another shape or type.
    """
    chosen = choose_images(predictions, num_images, seed)
    indices = chosen["wrong"] + chosen["right"]
    pictures = np.asarray(images(np.array(indices)))
    _check_images(pictures, len(indices))
    _save_grid(predictions, chosen, dict(zip(indices, pictures, strict=True)), output_dir / "predictions_grid.png")
    return chosen


def choose_images(predictions: Predictions, num_images: int, seed: int = 0) -> dict[str, list[int]]:
    """Indices `wrong` and `right`, num_images in all or as many as there are, each part by falling confidence.

    Raises:
        ValueError: num_images less than 1.
    """
    if num_images < 1:
        raise ValueError(f"num_images must be at least 1, got {num_images}; leave the grid out for none")
    generator = np.random.default_rng(seed)
    wrong, right = (generator.permutation(np.flatnonzero(predictions.correct == value)) for value in (False, True))
    num_wrong = min(len(wrong), max((num_images + 1) // 2, num_images - len(right)))
    parts = {"wrong": wrong[:num_wrong], "right": right[: num_images - num_wrong]}
    falling = -predictions.confidence
    return {name: part[np.argsort(falling[part], kind="stable")].tolist() for name, part in parts.items()}


def _check_images(pictures: np.ndarray, expected: int) -> None:
    if pictures.ndim != 4 or pictures.shape[0] != expected or pictures.shape[3] != 3 or pictures.dtype != np.uint8:
        raise ValueError(
            f"images must return (n, H, W, 3) uint8 for n indices, got {pictures.shape} {pictures.dtype} "
            f"for {expected}; undo normalisation and move the channels last"
        )


@style()
def _save_grid(
    predictions: Predictions, chosen: dict[str, list[int]], pictures: dict[int, np.ndarray], path: Path
) -> None:
    columns = max(MIN_COLUMNS, min(COLUMNS, max(len(part) for part in chosen.values())))
    heights = [HEADER + -(-len(part) // columns) * (PITCH + TEXT) for part in chosen.values()]
    figure = new_figure(columns * PITCH, sum(heights) + 0.25, layout=None)
    _draw_part(figure, 0.0, "Wrong", chosen["wrong"], predictions, pictures, columns)
    _draw_part(figure, heights[0] + 0.25, "Right", chosen["right"], predictions, pictures, columns)
    save(figure, path)


def _draw_part(
    figure: Figure,
    top: float,
    name: str,
    part: list[int],
    predictions: Predictions,
    pictures: dict[int, np.ndarray],
    columns: int,
) -> None:
    right = name == "Right"
    total = int((predictions.correct == right).sum())
    title = f"{name}: {len(part):,} of {total:,}" if part else f"{name}: none of the {predictions.num_samples:,} images"
    colour = BLUE if right else ORANGE
    header = axes_at(figure, (PITCH - PICTURE) / 2, top, columns * PITCH - PITCH, HEADER - 0.1)
    header.set_axis_off()
    header.text(0, 0.5, title, fontsize=13, weight="bold", color=colour, va="center")
    for position, index in enumerate(part):
        row, column = divmod(position, columns)
        place = (column * PITCH, top + HEADER + row * (PITCH + TEXT))
        _draw_image(figure, place, index, predictions, pictures[index], colour)


def _draw_image(
    figure: Figure, place: tuple[float, float], index: int, predictions: Predictions, picture: np.ndarray, colour: str
) -> None:
    margin = (PITCH - PICTURE) / 2
    axes = axes_at(figure, place[0] + margin, place[1], PICTURE, PICTURE)
    axes.imshow(picture, interpolation="nearest" if max(picture.shape[:2]) < CRISP_BELOW else "lanczos")
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set(visible=True, color=colour, linewidth=1.6)
    names = predictions.class_names
    lines = (
        (f"true {shorten(names[predictions.labels[index]], 16)}", INK),
        (f"pred {shorten(names[predictions.predicted[index]], 16)}", colour),
        (f"confidence {percent(float(predictions.confidence[index]))}", MUTED),
    )
    for line, (text, ink) in enumerate(lines):
        below = (0, -5 - 11 * line)
        axes.annotate(text, (0, 0), below, "axes fraction", "offset points", va="top", color=ink, fontsize=8)
