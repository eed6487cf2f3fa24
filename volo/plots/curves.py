"""The learning curves of a run, from its records."""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from volo.plots.figures import BLUE, GREEN, ORANGE, new_figure, percent, percent_axis, save, style

CURVES = "learning_curves.png"


@style()
def save_learning_curves(history: Sequence[Mapping[str, Any]], output_dir: Path) -> Path | None:
    """Writes learning_curves.png: losses, validation accuracies, learning rate, each where the history has it.

    Records may lack any key; those without a step, and values that are not finite, are passed over. None, and no
    file, where nothing is left.
    """
    train = _series(history, "train/loss", of_epochs=False), _series(history, "train/loss", of_epochs=True)
    accuracies = {"top-1": _series(history, "val/acc1"), "top-5": _series(history, "val/acc5")}
    panels = {
        "Loss": {"": train[0], "training": train[1], "validation": _series(history, "val/loss")},
        "Validation accuracy": {f"{name}, best {_best(points)}": points for name, points in accuracies.items()},
        "Learning rate": {"": _series(history, "lr")},
    }
    if len(train[1]) < 2:
        panels["Loss"] |= {"": [], "training": train[0] or train[1]}
    panels = {title: curves for title, curves in panels.items() if any(curves.values())}
    path = output_dir / CURVES
    if not panels:
        path.unlink(missing_ok=True)
        return None
    figure = new_figure(4.2 * len(panels), 3.4)
    for axes, (title, curves) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        _draw_curves(axes, title, curves)
    return save(figure, path)


def pairs_of_curves(
    histories: Sequence[Sequence[Mapping[str, Any]]],
) -> dict[str, list[list[tuple[float, float]]]]:
    """Of several runs, by panel: each one's (step, value), of epochs where it has any, else of steps."""
    keys = {"Training loss": "train/loss", "Validation loss": "val/loss", "Validation top-1": "val/acc1"}
    panels = {
        title: [_series(history, key, of_epochs=True) or _series(history, key) for history in histories]
        for title, key in keys.items()
    }
    return {title: curves for title, curves in panels.items() if any(curves)}


def _draw_curves(axes: Axes, title: str, curves: dict[str, list[tuple[float, float]]]) -> None:
    """One panel. In the losses the curve without a name is the noisy one of single steps, drawn behind."""
    colours = {"validation": ORANGE, "top-5": GREEN}
    for name, points in curves.items():
        if points:
            noisy = not name and len(curves) > 1
            colour = colours.get(name.split(",")[0], BLUE)
            look = dict(alpha=0.3, linewidth=1) if noisy else dict(marker="o" if len(points) < 30 else None)
            axes.plot(*np.transpose(points), color=colour, markersize=4, label=name or None, **look)
    axes.set_title(title)
    axes.set_xlabel("step")
    axes.grid(axis="y")
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.xaxis.set_major_formatter(lambda step, _: f"{step / 1000:g}k" if abs(step) >= 10_000 else f"{step:,.0f}")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    if title == "Validation accuracy":
        axes.set_ylim(bottom=0)
        percent_axis(axes.yaxis)
    steps = {step for points in curves.values() for step, _ in points}
    if len(steps) == 1:
        axes.set_xlim(min(steps) - 1, max(steps) + 1)
    if any(name and points for name, points in curves.items()):
        axes.legend()


def _series(history: Iterable[Mapping[str, Any]], key: str, of_epochs: bool | None = None) -> list[tuple[float, float]]:
    """(step, value) of the records that have both, in the order of steps; of epoch records alone, or of the others."""
    points = [
        (record["step"], record[key])
        for record in history
        if is_number(record.get("step"))
        and is_number(record.get(key))
        and (of_epochs is None or of_epochs == (record.get("kind") == "epoch"))
    ]
    return sorted(points, key=lambda point: point[0])


def _best(points: list[tuple[float, float]]) -> str:
    return percent(max((value for _, value in points), default=0.0))


def is_number(value: Any) -> TypeGuard[float]:
    """A finite int or float; a bool is none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
