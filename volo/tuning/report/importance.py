"""How much each parameter decides whether a trial is among the best, and how much of that is due to chance.

This is a permutation test: the same values, shuffled among the trials, show the effect of chance. A parameter is beyond
chance if its divergence is further above the mean of its shuffles, in their standard deviations, than the furthest
parameter of all but the most extreme shuffles. So if no parameter matters, some parameter is named in at most ALPHA of
all sweeps, for any number of parameters and for both sets of scores together. Trials with the same parameters, such as
those of several seeds, count as one, with their mean.
"""

import datetime
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.importance import PedAnovaImportanceEvaluator
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from volo.tuning.report.trials import Sweep, TrialScores, Tried
from volo.tuning.search.beside import Beside

QUARTER = 0.25
LEAST = 20  # different settings: five in the best quarter, as Optuna recommends
ALPHA = 1 / 20
NUM_SHUFFLES = 119  # 120 with the original values: ALPHA of them are 6, or 3 for each of two sets of scores


@dataclass(frozen=True)
class Importances:
    """By parameter, most important first: its share of the sum, and the share that it must exceed to be more than
    chance. `num_trials` trials of different settings were compared, each after `epoch` epochs."""

    epoch: int
    num_trials: int
    is_final: bool
    shares: Mapping[str, float]
    chance: Mapping[str, float]
    beyond_chance: Sequence[str]


def importances(sweep: Sweep) -> list[Importances]:
    """Importances for each of the sweep's scores with at least LEAST trials, the one with most trials first.

    With several objectives, only at the end; a trial is better the fewer others beat it in all objectives.

    PED-ANOVA (arXiv 2304.10255), in its form for conditional parameters (arXiv 2601.20800), from Optuna: how a
    parameter's values in the best quarter differ from those in all trials, and whether it occurs as often.
    """
    several = len(sweep.maximized) > 1
    compared = [(scores, _settings(sweep, scores)) for scores in sweep.scores if scores.is_final or not several]
    compared = [(scores, trials) for scores, trials in compared if len(trials) >= LEAST]
    found = [_importances(sweep, scores, trials, ALPHA / len(compared)) for scores, trials in compared]
    return sorted((one for one in found if one is not None), key=lambda one: -one.num_trials)


def _settings(sweep: Sweep, scores: TrialScores) -> list[list[Tried]]:
    """The trials to compare, grouped by equal parameters. The base may have no parameters."""
    groups: dict[str, list[Tried]] = {}
    for trial in sweep.trials:
        if trial.number in scores.values and trial.params:
            groups.setdefault(json.dumps(trial.params, sort_keys=True), []).append(trial)
    return list(groups.values())


def _importances(
    sweep: Sweep, scores: TrialScores, settings: Sequence[Sequence[Tried]], alpha: float
) -> Importances | None:
    losses = _losses(sweep, scores, settings)
    study = _study([trials[0] for trials in settings])
    found = _divergences(study, losses)
    total = sum(found.values())
    if not total:
        return None
    rng = np.random.default_rng(0)
    shuffled = [_divergences(study, rng.permutation(losses)) for _ in range(NUM_SHUFFLES)]
    marks, beyond = _tested(np.array([[one[name] for name in found] for one in (found, *shuffled)]), alpha)
    return Importances(
        scores.epoch,
        len(settings),
        scores.is_final,
        shares={name: value / total for name, value in found.items()},
        chance={name: float(mark) / total for name, mark in zip(found, marks, strict=True)},
        beyond_chance=[name for name, is_beyond in zip(found, beyond, strict=True) if is_beyond],
    )


def _losses(sweep: Sweep, scores: TrialScores, settings: Sequence[Sequence[Tried]]) -> np.ndarray:
    """The loss of each group, less is better: the mean over trials with the same parameters."""
    if len(sweep.maximized) > 1:
        return _num_better(sweep, [np.mean([trial.values for trial in trials], axis=0) for trials in settings])
    return np.array([-np.mean([sweep.gain(scores.values[trial.number]) for trial in trials]) for trials in settings])


def _tested(values: np.ndarray, alpha: float) -> tuple[np.ndarray, np.ndarray]:
    """The value that each parameter must exceed, and which ones do.

    Args:
        values: (1 + shuffles, parameters), with the original values first; if nothing matters, all rows are alike.
        alpha: How often any parameter may pass if none matters.
    """
    mean, spread = values.mean(0), values.std(0)
    is_constant = spread <= 1e-9 * np.abs(values).max()
    scaled = np.where(is_constant, 0.0, (values - mean) / np.where(is_constant, 1.0, spread))
    furthest = np.sort(scaled.max(1))[::-1]
    limit = furthest[int(alpha * len(values) + 1e-9)]
    return mean + limit * spread, scaled[0] > limit


def _num_better(sweep: Sweep, values: Sequence[Sequence[float]]) -> np.ndarray:
    """(trials,): how many others are as good in each objective and better in one."""
    gains = np.array([[sweep.gain(value, k) for k, value in enumerate(row)] for row in values])
    others, ones = gains[None], gains[:, None]  # (1, trials, objectives), (trials, 1, objectives)
    return ((others >= ones).all(-1) & (others > ones).any(-1)).sum(1)


def _study(trials: Sequence[Tried]) -> Study:
    """A study of only these trials, all marked complete, as the evaluator requires, and numbered from 0."""
    one_of_each: dict[BaseDistribution, BaseDistribution] = {}  # the evaluator compares them often
    complete = []
    for number, trial in enumerate(trials):
        params, distributions = dict(trial.params), dict(trial.distributions)
        for name, distribution in trial.distributions.items():
            if isinstance(distribution, CategoricalDistribution):  # by index: a choice may be a list, or anything
                params[name] = int(distribution.to_internal_repr(trial.params[name]))
                distribution = CategoricalDistribution(range(len(distribution.choices)))
            distributions[name] = one_of_each.setdefault(distribution, distribution)
        complete.append(_complete(number, params, distributions))
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        return optuna.create_study(storage=Beside(complete))
    finally:
        optuna.logging.set_verbosity(verbosity)


def _complete(number: int, params: dict[str, Any], distributions: dict[str, BaseDistribution]) -> FrozenTrial:
    now = datetime.datetime.now()
    return FrozenTrial(
        number=number, trial_id=number, state=TrialState.COMPLETE, value=0.0, params=params,
        distributions=distributions, datetime_start=now, datetime_complete=now, user_attrs={}, system_attrs={},
        intermediate_values={},
    )  # fmt: skip


def _divergences(study: Study, losses: np.ndarray) -> dict[str, float]:
    """The divergence of every parameter, without a unit; highest first."""
    evaluator = PedAnovaImportanceEvaluator(target_quantile=QUARTER)
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", UserWarning
        )  # about conditions that few trials meet: the permutations account for those
        return evaluator.evaluate(study, target=lambda trial: float(losses[trial.number]))
