"""What a trial draws: a function of the seed, its number and the trials before it, whatever was drawn by whom.

So a sweep that was killed, also between two draws of one trial, goes on as if it had not been.
"""

import warnings
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.study import Study
from optuna.trial import FrozenTrial

from volo.errors import InputError

MOST_POINTS = 10_000
Point = dict[str, Any]


def tpe(seed: int) -> BaseSampler:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return TPESampler(seed=seed, multivariate=True, group=True)


MAKERS: dict[str, Callable[[int], BaseSampler]] = {
    "tpe": tpe,
    "random": RandomSampler,
    "grid": RandomSampler,  # whose every trial is planned
}


class NumberedSampler(BaseSampler):
    """Trials up to the last of `plan` take its points, where one names a value; the others a sampler's that is made
    anew for each draw, seeded with the trial's number and the parameter's name."""

    def __init__(self, make: Callable[[int], BaseSampler], seed: int, plan: Sequence[Point | None]):
        self.make, self.seed, self.plan = make, seed, plan

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        if trial.number < len(self.plan):
            return {}
        return self._seeded(trial, "").infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        if not search_space:
            return {}
        sampler = self._seeded(trial, "")
        sampler.infer_relative_search_space(study, trial)  # which it keeps, in groups
        return sampler.sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        point = (self.plan[trial.number] if trial.number < len(self.plan) else None) or {}
        if param_name in point:
            return point[param_name]
        return self._seeded(trial, param_name).sample_independent(study, trial, param_name, param_distribution)

    def _seeded(self, trial: FrozenTrial, name: str) -> BaseSampler:
        sequence = np.random.SeedSequence((self.seed, trial.number, zlib.crc32(name.encode())))
        return self.make(int(sequence.generate_state(1)[0]))


def all_points(draw: Callable[[Any], Any]) -> list[Point]:
    """Every point of a discrete space, conditions followed, in the order of the values.

    Raises:
        InputError: a parameter that is continuous, or too many points.
    """
    points: list[Point] = []
    path: list[list] = []  # of the walk: name, values, which of them
    while True:
        walk = Walk(path)
        draw(walk)
        points.append(walk.params)
        if len(points) > MOST_POINTS:
            raise InputError(f"a grid may have up to {MOST_POINTS:,} points; use --sampler tpe or random")
        path = walk.path
        while path and path[-1][2] + 1 == len(path[-1][1]):
            path.pop()
        if not path:
            return points
        path[-1][2] += 1


class Walk:
    """A trial that takes the values `path` says, and the first one of whatever else is asked."""

    def __init__(self, path: list[list]):
        self.path = [list(step) for step in path]
        self.params: Point = {}
        self._num_taken = 0

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        return self._take(name, list(choices))

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        return self._take(name, list(range(low, high + 1, step)))

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        if step is None:
            raise InputError(f"a grid needs a discrete space, got {name} between {low} and {high}; use --sampler tpe")
        return self._take(name, [low + number * step for number in range(round((high - low) / step) + 1)])

    def _take(self, name: str, values: list[Any]) -> Any:
        if name in self.params:
            return self.params[name]
        if self._num_taken == len(self.path):
            self.path.append([name, values, 0])
        _, _, which = self.path[self._num_taken]
        self._num_taken += 1
        self.params[name] = values[which]
        return values[which]
