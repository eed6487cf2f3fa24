"""What a sweep knows of its trials, renewed by reading only those that may have changed: one that has ended never does.

Nothing of it is written: a new start reads it from the journal.
"""

import threading
from bisect import bisect_left, insort
from collections import defaultdict
from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from typing import Any

from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from volo.tuning.search.distinct import copies, identity

ORDER = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING, TrialState.FAIL)


class Groups:
    """Numbers of trials by what they have in common."""

    def __init__(self) -> None:
        self._keys: dict[int, Hashable] = {}
        self._numbers: defaultdict[Hashable, set[int]] = defaultdict(set)

    def put(self, number: int, key: Hashable) -> None:
        """Puts a trial into a group, out of the one that it was in."""
        if number in self._keys:
            before = self._keys[number]
            self._numbers[before].discard(number)
            if not self._numbers[before]:
                del self._numbers[before]
        self._keys[number] = key
        self._numbers[key].add(number)

    def of(self, key: Hashable) -> Collection[int]:
        return self._numbers.get(key, ())

    def __contains__(self, key: Hashable) -> bool:
        return key in self._numbers

    def __len__(self) -> int:
        return len(self._numbers)


class Standings:
    """The trials of a study, ranked and grouped, as of the last `look`.

    Args:
        storage: Holds the study. It returns another object for a trial once anything about it has changed.
        study_id: What the storage calls the study.

    Attributes:
        trials: By number.
        tried: Grouped by what they train (`distinct.identity`).
        asked: Grouped by their parameters (`key_of`).
        ended: Numbers of those that have ended.
        copies: Numbers of those that repeat another's settings (`distinct.copies`).
    """

    def __init__(self, storage: BaseStorage, study_id: int):
        self.storage, self.study_id = storage, study_id
        self.signs = [1 if one == StudyDirection.MAXIMIZE else -1 for one in storage.get_study_directions(study_id)]
        self.trials: list[FrozenTrial] = []
        self.tried, self.asked = Groups(), Groups()
        self.ended: set[int] = set()
        self.copies: set[int] = set()
        self._ended = Groups()
        self._open: set[int] = set()
        self._ids: list[int] = []
        self._front: set[int] = set()
        self._places: dict[int, tuple] = {}
        self._order: list[tuple] = []  # the places, sorted
        self._lock = threading.RLock()  # the display of a sweep looks from a thread of its own

    @property
    def num_ended(self) -> int:
        """How many different settings have been tried to their end."""
        return len(self._ended)

    def look(self) -> None:
        """Reads the trials that are new or had not ended at the last look."""
        with self._lock:
            for number in sorted(self._open):
                self._read(number)
            while (trial_id := self._id_of(len(self._ids))) is not None:
                self._ids.append(trial_id)
                self._read(len(self._ids) - 1)

    def ranked(self) -> Iterator[FrozenTrial]:
        """Trials, best first: those trained to the end, then those stopped early, running, failed; no copies.

        With several objectives, trials on the Pareto front come first, sorted by the first objective.
        """
        with self._lock:
            order, trials = self._order.copy(), self.trials.copy()
        return (trials[place[-1]] for place in order)

    def _id_of(self, number: int) -> int | None:
        try:
            return self.storage.get_trial_id_from_study_id_trial_number(self.study_id, number)
        except KeyError:
            return None

    def _read(self, number: int) -> None:
        trial = self.storage.get_trial(self._ids[number])
        if number == len(self.trials):
            self.trials.append(trial)
        elif trial is self.trials[number]:
            return
        self.trials[number] = trial
        self.tried.put(number, settings := identity(trial))
        self.asked.put(number, key_of(trial.params))
        self._open.add(number)
        if trial.state.is_finished():
            self._open.remove(number)
            self.ended.add(number)
            self._ended.put(number, settings)
        self._find_copies(self.tried.of(settings))
        self._renew_front(trial)
        self._rank(number)

    def _find_copies(self, alike: Collection[int]) -> None:
        """Which trials of one group are copies changes with what becomes of the others."""
        found = copies([self.trials[number] for number in alike]) if len(alike) > 1 else set()
        changed = self.copies.intersection(alike) ^ found
        self.copies ^= changed
        for number in changed:
            self._rank(number)

    def _renew_front(self, trial: FrozenTrial) -> None:
        if len(self.signs) == 1 or trial.state != TrialState.COMPLETE:
            return
        if any(self._beats(self.trials[number], trial) for number in self._front):
            return
        beaten = {number for number in self._front if self._beats(trial, self.trials[number])}
        self._front = self._front - beaten | {trial.number}
        for number in beaten:
            self._rank(number)

    def _beats(self, one: FrozenTrial, other: FrozenTrial) -> bool:
        gains = [sign * (a - b) for sign, a, b in zip(self.signs, one.values, other.values, strict=True)]
        return min(gains) >= 0 and max(gains) > 0

    def _rank(self, number: int) -> None:
        """Puts a trial at its place; a copy has none."""
        if (before := self._places.pop(number, None)) is not None:
            del self._order[bisect_left(self._order, before)]
        if number not in self.copies:
            self._places[number] = self._place(self.trials[number])
            insort(self._order, self._places[number])

    def _place(self, trial: FrozenTrial) -> tuple:
        value = -self.signs[0] * trial.values[0] if trial.values else float("inf")
        return ORDER.index(trial.state), trial.number not in self._front, value, trial.number


def key_of(params: Mapping[str, Any]) -> Hashable:
    """Equal for equal parameters, whose values may be lists and dictionaries."""
    return _hashable(params)


def _hashable(value: Any) -> Hashable:
    if isinstance(value, Mapping):
        return frozenset((name, _hashable(one)) for name, one in value.items())
    return tuple(map(_hashable, value)) if isinstance(value, Sequence) and not isinstance(value, str) else value
