"""How much each parameter decides whether a trial is among the best, and how much of that chance alone would give."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import optuna
from optuna.importance import PedAnovaImportanceEvaluator
from optuna.study import Study

from volo.tuning.report.trials import Scores, Sweep, Tried

QUARTER = 0.25
LEAST = 20  # trials: five in the best quarter, as Optuna advises
NUM_SHUFFLES, LEVEL = 100, 0.95


@dataclass(frozen=True)
class Importances:
    """By parameter, the most important first: its share of the sum, and what it stays below in 19 of 20 shuffles of the
    values among the trials. `num_trials` were compared, each after `epoch` epochs."""

    epoch: int
    num_trials: int
    is_final: bool
    shares: Mapping[str, float]
    chance: Mapping[str, float]

    @property
    def beyond_chance(self) -> list[str]:
        return [name for name, share in self.shares.items() if share > self.chance[name]]


def importances(sweep: Sweep) -> list[Importances]:
    """On each of the sweep's scores that has at least LEAST trials, that of most trials first.

    Of several objectives at the end only, a trial being the better the fewer others beat it in all of them.

    PED-ANOVA (arXiv 2304.10255), in its form for conditional parameters (arXiv 2601.20800), from Optuna: how the best
    quarter's values of a parameter differ from all trials', and whether it is asked of them as often.
    """
    several = len(sweep.maximised) > 1
    scores = [scores for scores in sweep.scores if len(scores.values) >= LEAST and (scores.is_final or not several)]
    found = [_importances(sweep, one) for one in scores]
    return sorted((one for one in found if one is not None), key=lambda one: -one.num_trials)


def _importances(sweep: Sweep, scores: Scores) -> Importances | None:
    trials = [trial for trial in sweep.trials if trial.number in scores.values]
    if len(sweep.maximised) > 1:
        losses = _num_better(sweep, [trial.values for trial in trials])
    else:
        losses = np.array([-sweep.gain(scores.values[trial.number]) for trial in trials])
    study = _study(trials)
    found = _divergences(study, losses)
    total = sum(found.values())
    if not total:
        return None
    rng = np.random.default_rng(0)
    shuffled = [_divergences(study, rng.permutation(losses)) for _ in range(NUM_SHUFFLES)]
    shares = {name: value / total for name, value in found.items()}
    chance = {name: float(np.quantile([one[name] for one in shuffled], LEVEL)) / total for name in found}
    return Importances(scores.epoch, len(trials), scores.is_final, shares, chance)


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
        study.add_trial(optuna.create_trial(value=0.0, params=params, distributions=distributions))
    return study


def _divergences(study: Study, losses: np.ndarray) -> dict[str, float]:
    """Of every parameter, in no unit; the highest first."""
    evaluator = PedAnovaImportanceEvaluator(target_quantile=QUARTER)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of conditions that few trials meet: what chance gives tells
        return evaluator.evaluate(study, target=lambda trial: float(losses[trial.number]))
