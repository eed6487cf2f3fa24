"""Plots of the parameters: all of them side by side, and each against the first objective."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import LinearSegmentedColormap, to_rgba
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from volo.plots.figures import INK, MUTED, SEQUENTIAL, axes_at, new_figure, save, shorten, style
from volo.tuning.report.pictures import (
    BASE,
    BEST,
    COMPLETE,
    MANY_DOTS,
    MANY_LINES,
    STOPPED,
    WHOLE,
    compact,
    opacity,
    value_axis,
)
from volo.tuning.report.scales import Scale, scales
from volo.tuning.report.trials import Sweep, TrialScores, Tried, num

SHADES = LinearSegmentedColormap.from_list("shades", SEQUENTIAL(np.linspace(0.3, 1, 64)))
COLUMN = 0.56  # inches between two axes
NOT_ASKED = -0.17  # where a line passes below an axis whose parameter its trial does not have
ACROSS, PANEL, GAP = 5, 1.85, 0.36  # panels in a row; inches
FINAL_HEIGHT, EARLY_HEIGHT = 1.25, 0.85


@style()
def save_parallel(sweep: Sweep, path: Path) -> Path | None:
    """One line per trial over one axis per parameter; lines of trials trained to the end continue to the objectives.
    None if no trial has both parameters and an end."""
    found, drawn = scales(sweep), [t for t in sweep.trials if t.params and (t.is_complete or t.curve)]
    if not found or not drawn:
        return None
    num_axes = len(found) + len(sweep.facts.metrics)
    step = max(COLUMN, min(1.6, (WHOLE - 0.8) / num_axes))
    figure = new_figure(step * num_axes + 0.8, 4.6, layout=None)
    axes = axes_at(figure, 0.3, 0.9, step * num_axes, 3.6)
    axes.set(xlim=(-0.4, num_axes - 0.25), ylim=(NOT_ASKED - 0.05, 1.07))
    axes.axis("off")
    size = 8 if step < 0.8 else 9
    for at, scale in enumerate(found):
        _draw_axis(axes, at, scale.name, scale.ticks, size)
    ends = [_objective(sweep, objective) for objective in range(len(sweep.facts.metrics))]
    for at, (metric, (low, high)) in enumerate(zip(sweep.facts.metrics, ends, strict=True), start=len(found)):
        ticks = [(place, compact(metric, low + place * (high - low))) for place in (0, 0.25, 0.5, 0.75, 1)]
        _draw_axis(axes, at, metric, ticks if high != low else ticks[-1:], size, is_bold=True)
    axes.text(-0.4, NOT_ASKED, "not\nasked", ha="right", va="center", fontsize=7.5, color=MUTED)
    axes.axhspan(NOT_ASKED - 0.045, NOT_ASKED + 0.045, xmax=1 - 0.6 / num_axes, color="#f2f4f6", zorder=0)
    _draw_lines(axes, sweep, drawn, found, ends)
    return save(figure, path)


def _objective(sweep: Sweep, objective: int) -> tuple[float, float]:
    """The worst and the best value: the lower and upper ends of the axis."""
    values = sorted((t.values[objective] for t in sweep.complete), key=lambda v: sweep.gain(v, objective))
    return (values[0], values[-1]) if values else (0.0, 1.0)


def _draw_axis(axes: Axes, at: int, name: str, ticks: Sequence[tuple[float, str]], size: float, is_bold=False) -> None:
    axes.plot([at, at], [0, 1], color="#8b96a1", linewidth=1, zorder=3)
    weight = "bold" if is_bold else "normal"
    axes.text(at, 1.08, shorten(name, 22), rotation=35, va="bottom", fontsize=9, weight=weight, rotation_mode="anchor")
    for place, label in ticks:
        axes.plot([at - 0.04, at + 0.04], [place, place], color="#8b96a1", linewidth=1, zorder=3)
        box = dict(facecolor="white", edgecolor="none", alpha=0.78, pad=0.6)
        axes.text(at + 0.07, place, label, va="center", fontsize=size, color=INK, zorder=7, bbox=box)


def _draw_lines(axes: Axes, sweep: Sweep, drawn: Sequence[Tried], found: Sequence[Scale], ends: list) -> None:
    """Trials stopped early in gray at the back, the others colored by value, the best and the base on top."""
    heights = _heights(sweep, drawn, found)
    low, high = ends[0]
    special = {t.number: (color, 2.4) for t, color in ((sweep.base, BASE), (sweep.best, BEST)) if t is not None}
    faint, lines = min(0.8, 30 / len(drawn)), []
    strong = opacity(0.85, len(sweep.complete), MANY_LINES)
    for trial in drawn:
        points = list(enumerate(heights[trial.number]))
        if trial.is_complete:
            pairs = zip(trial.values, ends, strict=True)
            points += [(len(found) + k, (v - a) / (b - a) if a != b else 1) for k, (v, (a, b)) in enumerate(pairs)]
        shade = (trial.values[0] - low) / (high - low) if trial.is_complete and high != low else 1.0
        plain = to_rgba(SHADES(shade), strong) if trial.is_complete else to_rgba(STOPPED, faint)
        color, width = special.get(trial.number, (plain, 1.1))
        rank = (trial.number in special, trial.is_complete, shade)
        lines.append((rank, points, color, width if trial.is_complete else min(width, 1.0)))
    lines.sort(key=lambda line: line[0])
    axes.add_collection(
        LineCollection(
            [line[1] for line in lines], colors=[line[2] for line in lines], linewidths=[line[3] for line in lines],
            capstyle="round", joinstyle="round", zorder=2,
        )
    )  # fmt: skip
    handles = [(STOPPED, "not to the end", any(not t.is_complete for t in drawn)),
               (SHADES(0.35), "trained to the end, darker is better",
                any(t.is_complete and t.number not in special for t in drawn)),
               (BASE, "base", sweep.base in drawn and sweep.base is not sweep.best),
               (BEST, "best and base" if sweep.base is sweep.best else "best", sweep.best in drawn)]  # fmt: skip
    for shade_of, label, is_there in handles:
        if is_there:
            axes.plot([], [], color=shade_of, label=label)
    axes.legend(loc="upper left", bbox_to_anchor=(0, -0.01), ncols=4)


def _heights(sweep: Sweep, drawn: Sequence[Tried], found: Sequence[Scale]) -> dict[int, list[float]]:
    """The height of each trial on each axis; trials with the same choice fan out around it, the best on top."""
    order = {trial.number: place for place, trial in enumerate(reversed(sweep.ranked))}
    heights: dict[int, list[float]] = defaultdict(list)
    for scale in found:
        groups = defaultdict(list)
        for trial in sorted(drawn, key=lambda trial: order[trial.number]):
            groups[scale.place(trial.params[scale.name]) if scale.name in trial.params else NOT_ASKED].append(trial)
        for place, group in groups.items():
            half = 0.03 if place == NOT_ASKED else min(0.045, 0.3 * scale.gap)
            offsets = np.linspace(-half, half, len(group)) if len(group) > 1 else [0.0]
            for trial, offset in zip(group, offsets, strict=True):
                heights[trial.number].append(place + offset)
    return heights


@style()
def save_slices(sweep: Sweep, path: Path) -> Path | None:
    """Each parameter against the first objective: at the end and, below, at the epoch where trials can be compared.
    None if there is nothing to compare."""
    found, rows = scales(sweep), [scores for scores in sweep.scores if scores.values]
    if not found or not rows:
        return None
    heights = [FINAL_HEIGHT if scores.is_final or len(rows) == 1 else EARLY_HEIGHT for scores in rows]
    block = sum(heights) + 0.08 * (len(rows) - 1) + 0.75
    across = min(ACROSS, len(found))
    num_blocks = -(-len(found) // across)
    figure = new_figure(0.95 + across * (PANEL + GAP), num_blocks * block + 0.1, layout=None)
    ranges = [_range(scores) for scores in rows]
    for index, scale in enumerate(found):
        left, top = 0.95 + index % across * (PANEL + GAP), 0.35 + index // across * block
        for row, (scores, height, limits) in enumerate(zip(rows, heights, ranges, strict=True)):
            axes = axes_at(figure, left, top, PANEL, height)
            _draw_slice(axes, sweep, scale, scores)
            axes.set(ylim=limits, xlim=(-0.12, 1.12))
            _label_slice(axes, sweep, scale, scores, row, is_first=index % across == 0, is_last=row == len(rows) - 1)
            top += height + 0.08
    _explain(figure, sweep, num_columns=5 if across > 3 else across + 1)
    return save(figure, path)


def _range(scores: TrialScores) -> tuple[float, float]:
    low, high = min(scores.values.values()), max(scores.values.values())
    margin = 0.12 * (high - low) or 0.1 * abs(high) or 1.0
    return low - margin, high + margin


def _draw_slice(axes: Axes, sweep: Sweep, scale: Scale, scores: TrialScores) -> None:
    by_place = defaultdict(list)
    for trial in sweep.trials:
        if scale.name in trial.params and trial.number in scores.values:
            by_place[scale.place(trial.params[scale.name])].append(trial)
    count = sum(map(len, by_place.values()))
    width = min(0.05, 0.22 * scale.gap) if count <= MANY_DOTS else min(0.1, 0.35 * scale.gap)
    alike = defaultdict(list)  # places and values of the dots that look alike, which are drawn at once
    for place, trials in by_place.items():
        for trial, offset in zip(trials, _jitter(len(trials), width), strict=True):
            alike[_look_of(sweep, trial)].append((place + offset, scores.values[trial.number]))
    for look, points in alike.items():
        alpha = 1.0 if len(points) == 1 else opacity(0.8, count, MANY_DOTS)
        axes.plot(*zip(*points, strict=True), linestyle="none", markeredgewidth=0, alpha=alpha, **asdict(look))
    for place, trials in by_place.items():
        if scale.choices and len(trials) > 2:
            middle = median(scores.values[trial.number] for trial in trials)
            axes.plot([place - 0.07, place + 0.07], [middle, middle], color=INK, linewidth=1.4, zorder=2.5)


def _jitter(count: int, width: float) -> np.ndarray:
    """Offsets in [-width, width] that look random but are always the same."""
    return width * (2 * ((np.arange(count) * 0.618 + 0.5) % 1) - 1) if count > 1 else np.zeros(1)


@dataclass(frozen=True)
class Look:
    """Of a dot, in matplotlib's words."""

    color: str
    marker: str = "o"
    markersize: float = 4
    zorder: float = 2


def _look_of(sweep: Sweep, trial: Tried) -> Look:
    marker = "D" if trial is sweep.base else "o"
    if trial is sweep.best:
        return Look(BEST, marker, markersize=6, zorder=5)
    if trial is sweep.base:
        return Look(BASE, marker, markersize=5.5, zorder=4)
    return Look(COMPLETE, zorder=2.1) if trial.is_complete else Look(STOPPED)


def _label_slice(
    axes: Axes, sweep: Sweep, scale: Scale, scores: TrialScores, row: int, *, is_first: bool, is_last: bool
) -> None:
    if row == 0:
        axes.set_title(shorten(scale.name, 24), fontsize=10, pad=5)
    places, labels = zip(*scale.ticks, strict=True)
    axes.set_xticks(places, labels if is_last else [""] * len(places))
    axes.tick_params(axis="both", labelsize=8, length=2.5)
    axes.yaxis.set_major_locator(MaxNLocator(4))
    value_axis(axes.yaxis, sweep.metric)
    if is_first:
        axes.set_ylabel(f"after {num(scores.epoch, 'epoch')}", fontsize=8.5)
    else:
        axes.tick_params(labelleft=False)
    axes.grid(axis="y")


def _explain(figure: Figure, sweep: Sweep, num_columns: int) -> None:
    axes = figure.axes[0]
    is_one = sweep.best is sweep.base
    looks = (
        ("o", COMPLETE, "trained to the end", True),
        ("o", STOPPED, "not to the end", any(not trial.is_complete and trial.curve for trial in sweep.trials)),
        ("D", BASE, "base", sweep.base is not None and not is_one),
        ("D" if is_one else "o", BEST, "best and base" if is_one else "best", sweep.best is not None),
    )
    for marker, color, label, is_there in looks:
        if is_there:
            axes.plot([], [], marker, color=color, markersize=5, markeredgewidth=0, label=label)
    axes.plot([], [], color=INK, linewidth=1.4, label="median of a choice")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1.22), ncols=num_columns, borderaxespad=0)
