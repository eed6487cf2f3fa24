"""TPE against random search on a function that was fitted to recorded trials, so that a trial costs nothing.

The function's value at a point is the mean of what the recorded trials ended with, weighted by exp(-distance / width).
Distance counts the parameters that differ, numbers by their part of the range; one that only one of two points has
differs. The width is the one that errs least when each trial is left out in turn.
"""

import dataclasses
import math
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

import optuna

import tune_spaces
from benchmarks.replay.curves import Recording
from volo.settings.config import build_settings
from volo.tuning.options import SweepOptions
from volo.tuning.search.spaces import load_space
from volo.tuning.study import SweepStudy

WIDTHS = (0.25, 0.5, 1.0, 2.0, 4.0)
NUM_PROBES = 5000
Point = Mapping[str, Any]


class Fitted:
    """A function of a point of the space; more is better.

    Attributes:
        error: Its root mean square error where each trial is left out in turn.
        error_of_mean: That of the mean of the others.
    """

    def __init__(self, recording: Recording):
        self.points, self.ends = [curve.params for curve in recording.curves], recording.ends
        self.ranges = _ranges(self.points)
        distances = [self._distances(point) for point in self.points]
        self.width = min(WIDTHS, key=lambda width: self._error(distances, width))
        self.error = self._error(distances, self.width)
        self.error_of_mean = self._error(distances, math.inf)

    def __call__(self, point: Point) -> float:
        return _weighted(self._distances(point), self.ends, self.width)

    def _distances(self, point: Point) -> list[float]:
        return [_distance(point, other, self.ranges) for other in self.points]

    def _error(self, distances: list[list[float]], width: float) -> float:
        squares = []
        for left_out, end in enumerate(self.ends):
            others = [place for place in range(len(self.ends)) if place != left_out]
            near = [distances[left_out][place] for place in others]
            squares.append((_weighted(near, [self.ends[place] for place in others], width) - end) ** 2)
        return math.sqrt(fmean(squares))


def searched(
    recording: Recording, function: Fitted, sampler: Literal["tpe", "random", "grid"], seed: int, num_trials: int
) -> list[float]:
    """The best value found after each trial of a sweep's own study with this sampler. The space's first points, which
    are known to be good, are left out: both would try them first."""
    settings = build_settings(recording.settings, {"run": {"seed": seed}})
    options = SweepOptions(
        recording.space, num_samples=num_trials, sampler=sampler, pruner="none", objectives=(recording.objective,)
    )
    best: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        space = dataclasses.replace(load_space(recording.space, tune_spaces), first_points=())
        study = SweepStudy(Path(folder), space, settings, options)
        while work := study.next_work():
            value = recording.sign * function(study.frozen(work.number).params)
            study.report(work.number, {"epoch": study.num_epochs, "step": 1, recording.metric: value})
        for trial in study.trials:
            assert trial.value is not None, "each was told its value"
            best.append(max([*best[-1:], recording.sign * trial.value]))
    return best


def highest(recording: Recording, function: Fitted) -> float:
    """The best of the recorded points and of NUM_PROBES random ones."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    draw, values = load_space(recording.space, tune_spaces).draw, [function(point) for point in function.points]
    for _ in range(NUM_PROBES):
        trial = study.ask()
        draw(trial)
        values.append(function(trial.params))
    return max(values)


def compare(recording: Recording, num_trials: int, num_seeds: int) -> list[dict[str, Any]]:
    """Prints what both samplers found, and returns it."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    function = Fitted(recording)
    top, half = highest(recording, function), max(1, num_trials // 2)
    print(f"a trial left out is missed by {function.error:.4f}, and by {function.error_of_mean:.4f} by the mean\n")
    print(f"| seed | sampler | regret after {half} trials | after {num_trials} |\n|---|---|---|---|")
    found = []
    for seed in range(num_seeds):
        for name in ("tpe", "random"):
            best = searched(recording, function, name, seed, num_trials)
            found.append({"seed": seed, "sampler": name, "regret": [top - value for value in best]})
            print(f"| {seed} | {name} | {top - best[half - 1]:.4f} | {top - best[-1]:.4f} |")
    for when, at in ((f"after {half}", half - 1), (f"after {num_trials}", -1)):
        print(f"\n{when} trials {_ahead(found, at)}", end="")
    print()
    return found


def _ahead(found: Sequence[Mapping[str, Any]], at: int) -> str:
    regrets = {name: [one["regret"][at] for one in found if one["sampler"] == name] for name in ("tpe", "random")}
    pairs = list(zip(regrets["tpe"], regrets["random"], strict=True))
    ahead, level = sum(one < other for one, other in pairs), sum(one == other for one, other in pairs)
    means = " and ".join(f"{fmean(values):.4f} of {name}" for name, values in regrets.items())
    return f"TPE is ahead in {ahead} of {len(pairs)} seeds, level in {level}; mean regret {means}"


def _ranges(points: Sequence[Point]) -> dict[str, float]:
    """Of the parameters that are numbers."""
    values: dict[str, list[float]] = {}
    for name, value in (item for point in points for item in point.items()):
        if isinstance(value, int | float):
            values.setdefault(name, []).append(value)
    return {name: (max(found) - min(found)) or 1.0 for name, found in values.items()}


def _distance(one: Point, other: Point, ranges: Mapping[str, float]) -> float:
    both = one.keys() & other.keys()
    numbers = sum(min(1.0, abs(one[name] - other[name]) / ranges[name]) for name in both & ranges.keys())
    return numbers + sum(one[name] != other[name] for name in both - ranges.keys()) + len(one.keys() ^ other.keys())


def _weighted(distances: Sequence[float], values: Sequence[float], width: float) -> float:
    nearest = min(distances)
    weights = [math.exp((nearest - distance) / width) for distance in distances]
    return sum(weight * value for weight, value in zip(weights, values, strict=True)) / sum(weights)
