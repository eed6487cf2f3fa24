"""Converts values between a space and its trial to plain Python, all that the journal and the settings can hold."""

import json
import traceback
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from volo.errors import InputError, brief

PLAIN = "numbers, strings, True, False, None, or lists and dictionaries of them"
LISTS = "Choices for a categorical distribution should"  # Optuna's warning; lists are fine, the journal is JSON
KINDS = {
    "suggest_categorical": CategoricalDistribution,
    "suggest_int": IntDistribution,
    "suggest_float": FloatDistribution,
}


def plain(value: Any) -> Any:
    """The same value with NumPy numbers and arrays, and tuples, as Python numbers and lists."""
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist()) if isinstance(value, np.ndarray) else value.item()
    if isinstance(value, Mapping):
        return {plain(key): plain(one) for key, one in value.items()}
    return [plain(one) for one in value] if isinstance(value, list | tuple) else value


def plain_settings(drawn: Any) -> dict[str, Any]:
    """What a space returned, in the form that the journal stores.

    Raises:
        InputError: it is not a dictionary, or holds a value that JSON cannot represent; the message names the setting.
    """
    if not isinstance(drawn, dict):
        raise InputError(f"space(trial) must return settings, nested dictionaries, got {type(drawn).__name__}")
    drawn = plain(drawn)
    for name, value in _leaves(drawn):
        if not _is_json(value):
            raise InputError(
                f"space(trial) must return {PLAIN}, got {brief(value)} ({type(value).__name__}) for {name}"
            )
    return json.loads(json.dumps(drawn))


class Asked:
    """A trial as a space sees it: accepts NumPy numbers too, and its errors name the line of the space."""

    def __init__(self, trial: Any):
        self._trial = trial

    def __getattr__(self, name: str) -> Any:
        return getattr(self._trial, name)

    def set_user_attr(self, key: str, value: Any) -> None:
        value = plain(value)
        if not _is_json(value):
            raise InputError(f"an attribute of a trial must be {PLAIN}, got {brief(value)} for {brief(key)} {_place()}")
        self._trial.set_user_attr(key, value)

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """One of the space's own objects, whatever the journal stores for it."""
        own, kept = list(choices), plain(list(choices))
        for choice in kept:
            if not _is_json(choice):
                raise InputError(
                    f"the choices of a parameter must be {PLAIN}, got {brief(choice)} ({type(choice).__name__}) for "
                    f"{name!r} {_place()}; let the trial draw a name, and look up its value"
                )
        taken = self._ask("suggest_categorical", name, kept)
        return next(one for one, choice in zip(own, kept, strict=True) if _is_same(choice, taken))

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        return self._ask("suggest_int", name, plain(low), plain(high), step=plain(step), log=bool(log))

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        return self._ask("suggest_float", name, plain(low), plain(high), step=plain(step), log=bool(log))

    def _ask(self, method: str, name: str, *range_: Any, **kwargs: Any) -> Any:
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", LISTS, UserWarning)
                return getattr(self._trial, method)(name, *range_, **kwargs)
        except InputError:
            raise
        except (TypeError, ValueError) as error:
            raise InputError(self._refusal(method, name, range_, error)) from error

    def _refusal(self, method: str, name: str, range_: Sequence[Any], error: Exception) -> str:
        before = self._asked_before(name)
        if before is not None and not isinstance(before, KINDS[method]):
            return (
                f"a parameter must be of one kind in every trial, got {method} after {type(before).__name__} for "
                f"{name!r} {_place()}; use another name if its kind differs"
            )
        if isinstance(before, CategoricalDistribution) and list(before.choices) != range_[0]:
            return (
                f"the choices of a parameter must be the same in every trial, got {range_[0]} after "
                f"{list(before.choices)} for {name!r} {_place()}; use another name if its choices differ"
            )
        return f"a trial must be able to draw what the space asks for, got {error} for {name!r} {_place()}"

    def _asked_before(self, name: str) -> Any:
        """How an earlier trial was asked for this parameter; None if none was."""
        study = getattr(self._trial, "study", None)
        trials = study.get_trials(deepcopy=False) if study is not None else []
        return next((trial.distributions[name] for trial in trials if name in trial.distributions), None)


def _place() -> str:
    """The line of the space that is asking."""
    frame = next(frame for frame in reversed(traceback.extract_stack()) if frame.filename != __file__)
    return f"at line {frame.lineno} of {frame.filename}"


def _leaves(values: Mapping[str, Any], above: str = "") -> list[tuple[str, Any]]:
    found = []
    for name, value in values.items():
        path = f"{above}.{name}" if above else str(name)
        found += _leaves(value, path) if isinstance(value, Mapping) else [(path, value)]
    return found


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return False
    return True


def _is_same(one: Any, other: Any) -> bool:
    return type(one) is type(other) and (one == other or (one != one and other != other))
