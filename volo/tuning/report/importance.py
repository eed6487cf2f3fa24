"""How much each parameter decides whether a trial is among the best, and how much of that chance alone would give.

The test is one of permutations: the same values, shuffled among the trials, show what chance gives. A parameter is
beyond chance where its divergence lies further above the mean of its shuffles, in their standard deviations, than the
furthest parameter of all but the most extreme shuffles. So where no parameter matters, any at all is named in at most
ALPHA of all sweeps, however many parameters there are, and both sets of scores together. Trials of the same parameters,
such as those of several seeds, are one, with their mean.
"""

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import optuna
from optuna.distributions import CategoricalDistribution
from optuna.importance import PedAnovaImportanceEvaluator
from optuna.study import Study

from volo.tuning.report.trials import Sweep, TrialScores, Tried

QUARTER = 0.25
LEAST = 20  # different settings: five in the best quarter, as Optuna advises
ALPHA = 1 / 20
NUM_SHUFFLES = 119  # with the values as they are 120: ALPHA of them are 6, and 3 for each of two sets of scores


@dataclass(frozen=True)
class Importances:
    """By parameter, the most important first: its share of the sum, and the share that it must pass to be more than
    chance. `num_trials` of different settings were compared, each after `epoch` epochs."""

    epoch: int
    num_trials: int
    is_final: bool
    shares: Mapping[str, float]
    chance: Mapping[str, float]
    beyond_chance: Sequence[str]


def importances(sweep: Sweep) -> list[Importances]:
    """On each of the sweep's scores that has at least LEAST trials, that of most trials first.

    Of several objectives at the end only, a trial being the better the fewer others beat it in all of them.

    PED-ANOVA (arXiv 2304.10255), in its form for conditional parameters (arXiv 2601.20800), from Optuna: how the best
    quarter's values of a parameter differ from all trials', and whether it is asked of them as often.
    """
    several = len(sweep.maximised) > 1
    compared = [(scores, _settings(sweep, scores)) for scores in sweep.scores if scores.is_final or not several]
    compared = [(scores, trials) for scores, trials in compared if len(trials) >= LEAST]
    found = [_importances(sweep, scores, trials, ALPHA / len(compared)) for scores, trials in compared]
    return sorted((one for one in found if one is not None), key=lambda one: -one.num_trials)


def _settings(sweep: Sweep, scores: TrialScores) -> list[list[Tried]]:
    """The trials that are compared, those of the same parameters together. The base may have none."""
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
    """Of each, less is better; the mean of those that share their parameters."""
    if len(sweep.maximised) > 1:
        return _num_better(sweep, [np.mean([trial.values for trial in trials], axis=0) for trials in settings])
    return np.array([-np.mean([sweep.gain(scores.values[trial.number]) for trial in trials]) for trials in settings])


def _tested(values: np.ndarray, alpha: float) -> tuple[np.ndarray, np.ndarray]:
    """The value that each parameter must pass, and which do.

    Args:
        values: (1 + shuffles, parameters), the first row as found; where nothing matters it is one like the others.
        alpha: How often any may pass where none matters.
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
    """With these trials alone, each one complete, as the evaluator wants them."""
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        study = optuna.create_study()
    finally:
        optuna.logging.set_verbosity(verbosity)
    for trial in trials:
        params, distributions = dict(trial.params), dict(trial.distributions)
        for name, distribution in trial.distributions.items():
            if isinstance(distribution, CategoricalDistribution):  # by place: a choice may be a list, or anything
                params[name] = int(distribution.to_internal_repr(trial.params[name]))
                distributions[name] = CategoricalDistribution(range(len(distribution.choices)))
        study.add_trial(optuna.create_trial(value=0.0, params=params, distributions=distributions))
    return study


def _divergences(study: Study, losses: np.ndarray) -> dict[str, float]:
    """Of every parameter, in no unit; the highest first."""
    evaluator = PedAnovaImportanceEvaluator(target_quantile=QUARTER)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of conditions that few trials meet: what chance gives tells
        return evaluator.evaluate(study, target=lambda trial: float(losses[trial.number]))
