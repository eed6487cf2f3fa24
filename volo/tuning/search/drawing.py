"""Draws the next trial of a sweep: settings that no earlier trial has drawn, as long as there are any.

A trial is drawn in memory, outside the study, and written to the journal as one line with everything that it drew. The
journal therefore never holds a half-drawn trial or a copy, whenever the driver is killed.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import optuna
from optuna.samplers import RandomSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from volo.errors import InputError
from volo.tuning.options import SweepOptions
from volo.tuning.search.beside import Beside
from volo.tuning.search.distinct import DRAWN, identity, identity_of
from volo.tuning.search.points import Point, all_points, known_points, point_of
from volo.tuning.search.sampling import MAKERS, NumberedSampler
from volo.tuning.search.spaces import Space, is_base, raised_in
from volo.tuning.standings import Standings, key_of

REASON = "reason"  # a trial's attribute: why it failed
NUM_BY_SAMPLER, NUM_AT_RANDOM = 20, 200  # draws that may repeat earlier trials before the space counts as exhausted
MOST_READ = 1000  # trials that TPE may read for one: it takes 0.1 s for a draw after a thousand


class Drawing:
    """Draws the trials of a space.

    Attributes:
        has_base_beside: Whether the base, trial 0, is tried in addition to the space's points; it has no parameters.
        plan: What to try first: the base, the space's first points, and, for a grid, all other points.
    """

    def __init__(self, space: Space, base: dict[str, Any], options: SweepOptions, seed: int):
        self.space, self.options, self.seed = space, options, seed
        self.has_base_beside = not is_base(space, base)
        self.plan = _distinct(self._planned())

    @cached_property
    def num_points(self) -> int | None:
        """The maximum number of trials, if it is known and less than requested."""
        points = known_points(self.space, self.options.num_samples)
        return None if points is None else len({point.identity for point in [*self.plan, *points]})

    def drawn_by(self, trial: Trial) -> dict[str, Any]:
        """The trial's settings in plain Python. Raises whatever the space raises."""
        return {} if trial.number == 0 and self.has_base_beside else self.space.drawn(trial)

    def next_trial(self, study: Study, known: Standings) -> FrozenTrial | None:
        """The next trial to add to the study: running, or failed if the space raises. None if everything was drawn."""
        trials = [_without_result(trial) if trial.number in known.copies else trial for trial in known.trials]
        for point in self.plan:  # what a space draws may depend on the trial's number
            if point.identity not in known.tried and key_of(point.params) not in known.asked:
                return self._drawn(trials, study, self._sampler(point=point, number=len(trials)))
        repeated: dict[str, Any] = {}
        for attempt in range(NUM_BY_SAMPLER):
            is_slow = self.options.sampler == "tpe" and attempt * len(trials) >= MOST_READ
            sampler = self._near(repeated, attempt, len(trials)) if is_slow else self._sampler(attempt=attempt)
            drawn = self._drawn(trials, study, sampler)
            if identity(drawn) not in known.tried:
                return drawn
            repeated = repeated or drawn.params
        return self._untried(trials, study, known)

    def _untried(self, trials: Sequence[FrozenTrial], study: Study, known: Standings) -> FrozenTrial | None:
        """Any remaining point, if the sampler only returns known ones."""
        if self._points is not None:
            left = [point for point in self._points if point.identity not in known.tried]
            if not left:
                return None
            which = np.random.default_rng((self.seed, len(trials))).integers(len(left))
            return self._drawn(trials, study, self._sampler(point=left[which], number=len(trials)))
        for attempt in range(NUM_AT_RANDOM):
            sampler = NumberedSampler(RandomSampler, self.seed, {}, NUM_BY_SAMPLER + attempt)
            drawn = self._drawn(trials, study, sampler)
            if identity(drawn) not in known.tried:
                return drawn
        return None

    def _planned(self) -> list[Point]:
        first = [self._as_drawn(params) for params in self.space.first_points]
        base = [Point({}, identity_of({}))] if self.has_base_beside else []
        return base + first + (all_points(self.space) if self.options.sampler == "grid" else [])

    def _as_drawn(self, params: dict[str, Any]) -> Point:
        """A point as a trial draws it: 1 from a range of floats becomes 1.0."""
        study = optuna.create_study(sampler=NumberedSampler(RandomSampler, self.seed, {0: params}))
        return point_of(self.space, study.ask())

    @cached_property
    def _points(self) -> list[Point] | None:
        return known_points(self.space)

    def _sampler(self, *, point: Point | None = None, number: int = 0, attempt: int = 0) -> NumberedSampler:
        plan = {} if point is None else {number: point.params}
        return NumberedSampler(MAKERS[self.options.sampler], self.seed, plan, attempt)

    def _near(self, params: dict[str, Any], attempt: int, number: int) -> NumberedSampler:
        """Draws one of these parameters at random and keeps the others; in later attempts two of them, then three."""
        rng = np.random.default_rng((self.seed, number, attempt))
        others = rng.permutation(sorted(params))[: 1 + attempt * 3 // NUM_BY_SAMPLER]
        kept = {name: value for name, value in params.items() if name not in others}
        return NumberedSampler(RandomSampler, self.seed, {number: kept}, attempt)

    def _drawn(self, trials: Sequence[FrozenTrial], study: Study, sampler: NumberedSampler) -> FrozenTrial:
        """A trial as the study would draw it now, after these trials."""
        beside = optuna.create_study(
            storage=Beside(trials),
            study_name=study.study_name,
            directions=study.directions,
            sampler=sampler,
            pruner=study.pruner,
        )
        trial = beside.ask()
        attributes: dict[str, Any]
        try:
            state, attributes = TrialState.RUNNING, {DRAWN: self.drawn_by(trial)}
        except Exception as error:
            state, attributes = TrialState.FAIL, {REASON: reason_of(self.space, error)}
        found = beside.get_trials(deepcopy=False)[trial.number]
        return create_trial(
            state=state,
            params=found.params,
            distributions=found.distributions,
            user_attrs={**found.user_attrs, **attributes},
        )


def reason_of(space: Space, error: Exception) -> str:
    """Why a space failed to draw, with the line."""
    return str(error) if isinstance(error, InputError) else raised_in(space, error)


def _distinct(points: Sequence[Point]) -> list[Point]:
    found: dict[str, Point] = {}
    for point in points:
        found.setdefault(point.identity, point)
    return list(found.values())


def _without_result(trial: FrozenTrial) -> FrozenTrial:
    """As one that failed: repeated trials of an older journal are no evidence."""
    failed = create_trial(state=TrialState.FAIL, params=trial.params, distributions=trial.distributions)
    failed.number = trial.number
    return failed
