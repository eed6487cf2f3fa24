"""Plots of a sweep: history, learning curves, importances, the Pareto front, seeds."""

import math
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.ticker import MaxNLocator
from optuna.trial import TrialState

from volo.plots.figures import BLUE, GREEN, INK, MUTED, ORANGE, new_figure, save, shorten, style
from volo.tuning.report.confirmation import Confirmed
from volo.tuning.report.importance import Importances
from volo.tuning.report.trials import STATES, Sweep, Tried, is_share, num, shown

# The same in every plot.
BEST, BASE, COMPLETE, STOPPED, FAILED = GREEN, ORANGE, "#6f9fc2", "#a3aeb8", INK
LIGHT = "#a9c4d8"
HALF, WHOLE = 5.6, 11.5  # inches: a plot that shares its row, and one that does not
MOST_PARAMS = 14
MOST_NAMED = 12
MANY_LINES, MANY_DOTS = 100, 300  # in a plot: with more, each is fainter


def value_axis(axis, metric: str) -> None:
    """Formats the ticks like the metric: as percent, thousands, or plain numbers."""
    axis.set_major_formatter(lambda value, _: compact(metric, value))


def compact(metric: str, value: float) -> str:
    if is_share(metric):
        return f"{100 * value:.3g}%"
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            return f"{value / (1e3 if letter == 'k' else size):.3g}{letter}"
    return f"{value:.4g}"


def opacity(most: float, count: int, many: int) -> float:
    """Of each of `count` marks: less than `most` if there are `many`, so that those below show through."""
    return max(0.15, most * min(1.0, many / max(count, 1)))


@style()
def save_history(sweep: Sweep, path: Path) -> Path | None:
    """What each trial reached, and the best so far; one panel per objective. None if there are no values."""
    if not any(trial.last is not None for trial in sweep.trials):
        return None
    width = HALF if len(sweep.facts.metrics) == 1 else WHOLE
    figure = new_figure(width, 3.7)
    panels = figure.subplots(1, len(sweep.facts.metrics), squeeze=False)[0]
    for objective, axes in enumerate(panels):
        _draw_history(axes, sweep, objective)
    panels[0].legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, columnspacing=1.2, handletextpad=0.3)
    return save(figure, path)


def _draw_history(axes: Axes, sweep: Sweep, objective: int) -> None:
    metric = sweep.facts.metrics[objective]
    stopped = [trial for trial in sweep.trials if not trial.is_complete and trial.curve and objective == 0]
    for state, marker, face in ((TrialState.PRUNED, "o", "none"), (TrialState.RUNNING, ">", STOPPED)):
        points = [(trial.number, trial.last) for trial in stopped if trial.state == state]
        _dots(axes, points, marker, face, STOPPED, STATES[state])
    points = [(trial.number, trial.values[objective]) for trial in sweep.complete]
    _dots(axes, points, "o", COMPLETE, COMPLETE, "trained to the end")
    failed = [trial.number for trial in sweep.in_state(TrialState.FAIL)]
    if failed:
        axes.plot(failed, [0.02] * len(failed), "x", color=FAILED, markersize=5, transform=axes.get_xaxis_transform(),
                  label="failed", clip_on=False)  # fmt: skip
    if sweep.complete:
        values = [sweep.gain(trial.values[objective], objective) for trial in sweep.complete]
        best = [sweep.gain(value, objective) for value in np.maximum.accumulate(values)]
        numbers = [trial.number for trial in sweep.complete]
        ends = [*numbers, max(trial.number for trial in sweep.trials)]
        axes.step(ends, [*best, best[-1]], where="post", color=BEST, label="best so far", zorder=3)
    base = sweep.base
    if base is not None and base.is_complete:
        axes.plot(base.number, base.values[objective], "D", color=BASE, markersize=6, label="base", zorder=4)
    axes.set_xlabel("trial")
    axes.set_ylabel(metric)
    axes.grid(axis="y")
    axes.margins(x=0.03, y=0.08)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    value_axis(axes.yaxis, metric)


def _dots(axes: Axes, points: list, marker: str, face: str, edge: str, label: str) -> None:
    if points:
        look: dict[str, Any] = dict(markerfacecolor=face, markeredgecolor=edge, markersize=5)
        axes.plot(*zip(*points, strict=True), marker, label=label, **look)


@style()
def save_curves(sweep: Sweep, path: Path) -> Path | None:
    """Every trial's learning curve up to where it was stopped; below, how many reached each epoch. None without any."""
    drawn = [trial for trial in sweep.trials if trial.curve]
    if not drawn:
        return None
    figure = new_figure(HALF, 3.7)
    above, below = figure.subplots(2, 1, sharex=True, gridspec_kw={"height_ratios": [4, 1]})
    special = {trial.number for trial in (sweep.best, sweep.base) if trial is not None}
    others = [trial for trial in drawn if trial.number not in special]
    _draw_curves(above, [trial for trial in others if not trial.is_complete], STOPPED)
    _draw_curves(above, [trial for trial in others if trial.is_complete], COMPLETE)
    is_one = sweep.best is sweep.base
    for one, color, name in ((sweep.base, BASE, "base"), (sweep.best, BEST, "best and base" if is_one else "best")):
        if one is not None and one.curve and not (is_one and name == "base"):
            _draw_curves(above, [one], color, width=2.2)
            above.plot([], [], color=color, linewidth=2.2, label=f"{name}, trial {one.number}")
    _label_groups(above, drawn, special)
    _draw_survivors(below, sweep)
    above.set_ylabel(sweep.metric)
    above.grid(axis="y")
    value_axis(above.yaxis, sweep.metric)
    above.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, columnspacing=1.2)
    return save(figure, path)


def _draw_curves(axes: Axes, trials: Sequence[Tried], color: str, width: float = 1.0) -> None:
    if not trials:
        return
    curves = [list(trial.curve.items()) for trial in trials]
    alpha = 1.0 if len(curves) == 1 else opacity(0.75, len(curves), MANY_LINES)
    axes.add_collection(LineCollection(curves, colors=color, linewidths=width, alpha=alpha, zorder=2 + width))
    axes.autoscale_view()
    for has_failed, end, marker in ((False, color, "o"), (True, FAILED, "x")):
        ends = [
            curve[-1] for trial, curve in zip(trials, curves, strict=True)
            if (not trial.is_complete or len(curve) == 1) and (trial.state == TrialState.FAIL) == has_failed
        ]  # fmt: skip
        if ends:
            look: dict[str, Any] = dict(color=end, marker=marker, markersize=3.5, zorder=2.5 + width)
            axes.plot(*zip(*ends, strict=True), linestyle="none", **look)


def _label_groups(axes: Axes, drawn: Sequence[Tried], special: set[int]) -> None:
    groups = (
        ("trained to the end", COMPLETE, any(t.is_complete and t.number not in special for t in drawn)),
        ("stopped early", STOPPED, any(t.state == TrialState.PRUNED and t.number not in special for t in drawn)),
    )
    for label, color, is_there in groups:
        if is_there:
            axes.plot([], [], color=color, linewidth=1.4, label=label)


def _draw_survivors(axes: Axes, sweep: Sweep) -> None:
    """How many trials reached each epoch."""
    lengths = np.array([trial.num_epochs for trial in sweep.trials])
    epochs = np.arange(1, max(sweep.facts.num_epochs, lengths.max(initial=1)) + 1)
    counts = [(lengths >= epoch).sum() for epoch in epochs]
    axes.bar(epochs, counts, width=0.9, color=COMPLETE, alpha=0.6)
    for epoch, count, before in zip(epochs, counts, [None, *counts], strict=False):
        if count != before:
            axes.annotate(str(count), (epoch, count), (0, 1), textcoords="offset points", ha="center", fontsize=7.5,
                          color=MUTED)  # fmt: skip
    axes.set_ylim(0, max(counts) * 1.45 or 1)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.set_ylabel("trials", labelpad=14)
    axes.set_xlabel("epoch")
    axes.set_xlim(0.4, epochs[-1] + 0.6)
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))


@style()
def save_importances(found: Sequence[Importances], path: Path) -> Path | None:
    """One bar per parameter, most important first, and a mark for chance. None if nothing was found."""
    if not found:
        return None
    names = list(dict.fromkeys(name for one in found for name in one.shares))[:MOST_PARAMS]
    figure = new_figure(HALF, 1.2 + 0.3 * max(len(names), 4))
    axes, height = figure.subplots(), 0.76 / len(found)
    right = 1.6 * max(max(one.shares.values()) for one in found)
    for row, one in enumerate(found):
        at = np.arange(len(names)) + (row - (len(found) - 1) / 2) * height
        label = f"after {num(one.epoch, 'epoch')}, {one.num_trials} trials"
        shares = [one.shares.get(name, 0.0) for name in names]
        axes.barh(at, shares, 0.92 * height, color=BLUE if one.is_final else LIGHT, label=label)
        _draw_chance(axes, at, [one.chance.get(name, math.nan) for name in names], height, right)
    axes.plot([], [], color=ORANGE, label="chance: more is rare")
    axes.set_yticks(range(len(names)), [shorten(name, 24) for name in names])
    axes.set(ylim=(len(names) - 0.4, -0.6), xlim=(0, right), xlabel="share of the importance")
    axes.tick_params(axis="y", length=0)
    axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.3g}%")
    axes.grid(axis="x")
    axes.legend(loc="lower left", bbox_to_anchor=(-0.1, 1), ncols=2, columnspacing=1.2)
    return save(figure, path)


def _draw_chance(axes: Axes, at: np.ndarray, chance: Sequence[float], height: float, right: float) -> None:
    """A mark across each bar's row, or an arrow at the edge if it is beyond the axis."""
    inside = [(share, y) for share, y in zip(chance, at, strict=True) if share < right]
    segments = [[(share, y - 0.46 * height), (share, y + 0.46 * height)] for share, y in inside]
    axes.add_collection(LineCollection(segments, colors=ORANGE, linewidths=1.8))
    beyond = [y for share, y in zip(chance, at, strict=True) if share >= right]
    axes.plot([0.985 * right] * len(beyond), beyond, ">", color=ORANGE, markersize=4)


@style()
def save_front(sweep: Sweep, path: Path) -> Path | None:
    """Two objectives at a time, with the trials on the front in color. None for a single objective."""
    if len(sweep.facts.metrics) < 2 or not sweep.complete:
        return None
    pairs = [(y, x) for y, x in combinations(range(len(sweep.facts.metrics)), 2)][:3]
    width = HALF if len(pairs) == 1 else WHOLE
    figure = new_figure(width, 3.9)
    for axes, pair in zip(figure.subplots(1, len(pairs), squeeze=False)[0], pairs, strict=True):
        _draw_front(axes, sweep, *pair)
    figure.axes[0].legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, columnspacing=1.2, handletextpad=0.3)
    return save(figure, path)


def _draw_front(axes: Axes, sweep: Sweep, y: int, x: int) -> None:
    front = sorted((t for t in sweep.complete if t.number in sweep.front), key=lambda trial: trial.values[x])
    others = [trial for trial in sweep.complete if trial.number not in sweep.front]
    _dots(axes, [(t.values[x], t.values[y]) for t in others], "o", COMPLETE, COMPLETE, "beaten by another")
    points = [(trial.values[x], trial.values[y]) for trial in front]
    axes.plot(*zip(*points, strict=True), "o", color=BEST, markersize=6, label="front", zorder=3)
    if len(sweep.facts.metrics) == 2:
        where: Literal["post", "pre"] = "post" if sweep.maximized[y] != sweep.maximized[x] else "pre"
        axes.step(*zip(*points, strict=True), where=where, color=BEST, linewidth=1.2, alpha=0.6, zorder=2)
    base = sweep.base
    if base is not None and base.is_complete:
        axes.plot(base.values[x], base.values[y], "D", color=BASE, markersize=6, label="base", zorder=4)
    if len(front) <= MOST_NAMED:
        for place, (trial, point) in enumerate(zip(front, points, strict=True)):
            up = 6 if sweep.maximized[y] else -12
            axes.annotate(str(trial.number), point, (-5 if place % 2 else 5, up), textcoords="offset points",
                          ha="right" if place % 2 else "left", fontsize=8, color=BEST, zorder=5)  # fmt: skip
    for axis, objective in ((axes.xaxis, x), (axes.yaxis, y)):
        better = "more" if sweep.maximized[objective] else "less"
        axis.set_label_text(f"{sweep.facts.metrics[objective]} ({better} is better)")
        value_axis(axis, sweep.facts.metrics[objective])
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.margins(0.1)
    axes.grid()


@style()
def save_seeds(sweep: Sweep, confirmed: Sequence[Confirmed], path: Path) -> Path | None:
    """Each seed that was trained again, and the mean; the sweep's own value as an open diamond."""
    if not confirmed:
        return None
    figure = new_figure(HALF, 1.3 + 0.55 * len(confirmed))
    axes = figure.subplots()
    by_number = {trial.number: trial for trial in sweep.complete}
    for row, one in enumerate(confirmed):
        color = {"base": BASE, "best": BEST}.get(one.name, COMPLETE)
        axes.plot([one.lowest, one.highest], [row, row], color=color, linewidth=7, alpha=0.25, solid_capstyle="round")
        axes.plot(list(one.values.values()), [row] * len(one.values), "o", color=color, markersize=6)
        axes.plot([one.mean] * 2, [row - 0.27, row + 0.27], color=INK, linewidth=2, zorder=4)
        axes.annotate(shown(sweep.metric, one.mean), (one.mean, row - 0.3), ha="center", va="bottom", fontsize=8.5)
        if one.trial in by_number:
            axes.plot(by_number[one.trial].values[0], row, "D", markerfacecolor="none", markeredgecolor=MUTED, zorder=3)
    for marker, look, label in (
        ("o", {"color": MUTED}, "a seed"),
        ("|", {"color": INK, "markersize": 11, "markeredgewidth": 2}, "mean"),
        ("D", {"markerfacecolor": "none", "markeredgecolor": MUTED}, "in the sweep, one seed"),
    ):
        axes.plot([], [], marker, label=label, **look)
    axes.set_yticks(range(len(confirmed)), [shorten(one.label, 26) for one in confirmed])
    axes.set_ylim(len(confirmed) - 0.4, -0.75)
    axes.tick_params(axis="y", length=0)
    axes.margins(x=0.08)
    axes.grid(axis="x")
    axes.set_xlabel(sweep.metric)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    value_axis(axes.xaxis, sweep.metric)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, columnspacing=1.2, handletextpad=0.3)
    return save(figure, path)
