"""Finds trials with the same settings: trained with the same seed they give the same result, so they count once."""

import json
from collections.abc import Iterable

from optuna.trial import FrozenTrial, TrialState

DRAWN = "settings"  # a trial's attribute: what its space drew
EVIDENCE = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)


def identity(trial: FrozenTrial) -> str:
    """Equal for trials that train the same settings or, if the space raised, that asked for the same values."""
    if DRAWN in trial.user_attrs:
        return identity_of(trial.user_attrs[DRAWN])
    return identity_of_failed(trial.params)


def identity_of(drawn: dict) -> str:
    return json.dumps(drawn, sort_keys=True)


def identity_of_failed(params: dict) -> str:
    return f"raised: {json.dumps(params, sort_keys=True)}"


def copies(trials: Iterable[FrozenTrial]) -> set[int]:
    """Numbers of the trials that repeat another's settings; the first of those that got furthest is not a copy.

    Only older journals hold copies. A failed trial shows nothing and is never a copy.
    """
    shown = [trial for trial in trials if trial.state in EVIDENCE and DRAWN in trial.user_attrs]
    shown.sort(key=lambda trial: (EVIDENCE.index(trial.state), trial.number))
    kept: dict[str, int] = {}
    return {trial.number for trial in shown if kept.setdefault(identity(trial), trial.number) != trial.number}
