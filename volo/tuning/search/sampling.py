"""Samples a trial as a function of only the seed, its number and the earlier trials.

A sweep that was killed, even between two draws of one trial, therefore resumes as if nothing had happened.
"""

import warnings
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.study import Study
from optuna.trial import FrozenTrial

Params = dict[str, Any]


def tpe(seed: int) -> BaseSampler:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return TPESampler(seed=seed, multivariate=True, group=True)


MAKERS: dict[str, Callable[[int], BaseSampler]] = {
    "tpe": tpe,
    "random": RandomSampler,
    "grid": RandomSampler,  # never used: every trial is planned
}


class NumberedSampler(BaseSampler):
    """Takes values from the trial's point in `plan`, by trial number, if it has them, and otherwise from a sampler that
    is created for each draw, seeded with the trial's number, the attempt and the parameter's name. The values that a
    trial draws together are one draw."""

    def __init__(
        self, make: Callable[[int], BaseSampler], seed: int, plan: Mapping[int, Params | None], attempt: int = 0
    ):
        self.make, self.seed, self.plan, self.attempt = make, seed, plan, attempt
        self._together: dict[int, BaseSampler] = {}  # by trial, from the space that it inferred to the values it draws

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        if trial.number in self.plan:
            return {}
        sampler = self._together[trial.number] = self._seeded(trial, "")
        return sampler.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        sampler = self._together.pop(trial.number, None)
        return sampler.sample_relative(study, trial, search_space) if sampler and search_space else {}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        point = self.plan.get(trial.number) or {}
        if param_name in point:
            return point[param_name]
        return self._seeded(trial, param_name).sample_independent(study, trial, param_name, param_distribution)

    def _seeded(self, trial: FrozenTrial, name: str) -> BaseSampler:
        entropy = (self.seed, trial.number, zlib.crc32(name.encode()))
        sequence = np.random.SeedSequence((*entropy, self.attempt) if self.attempt else entropy)
        return self.make(int(sequence.generate_state(1)[0]))
