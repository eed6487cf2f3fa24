"""Stops trials early: Optuna's pruners, and asha in its own form, chosen by a sweep's options. No torch, no Ray."""

from bisect import insort
from collections import defaultdict
from collections.abc import Callable, Collection

import optuna
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial

from volo.tuning.options import REDUCTION_FACTOR, SweepOptions

NUM_BEFORE_MEDIAN = 5


def pruner_of(options: SweepOptions, num_epochs: int, copies: Callable[[], Collection[int]]) -> BasePruner:
    """The pruner of a sweep; `copies` returns the numbers of the trials that repeat others (`distinct.copies`)."""
    grace, factor = options.grace_of(num_epochs), options.reduction_factor or REDUCTION_FACTOR
    if options.chosen_pruner == "asha":
        return HalvingPruner(grace, factor)
    if options.chosen_pruner == "hyperband":
        return HyperbandPruner(min_resource=grace, max_resource=max(grace, num_epochs), reduction_factor=factor)
    if options.chosen_pruner == "median":
        return DistinctMedianPruner(copies, n_startup_trials=NUM_BEFORE_MEDIAN, n_warmup_steps=grace)
    return NopPruner()


class HalvingPruner(BasePruner):
    """Asynchronous successive halving (ASHA, arXiv 1810.05934), with the decisions of Optuna's SuccessiveHalvingPruner.

    That one reads every trial of the study again for each decision. Here the values at each rung are kept in order, so
    one more trial costs the same however many there are. Nothing is written: a rung's values are those that the trials
    have reported, so a new start knows them. One that had reported at a rung is not judged there again.

    Args:
        grace: Epochs before the first rung; the others come after `factor` times as many each.
        factor: Of so many trials at a rung, one continues.
    """

    def __init__(self, grace: int, factor: int):
        self.grace, self.factor = grace, factor
        self._rungs: list[list[float]] = []  # values, each rung's in order, the best last
        self._reached: defaultdict[int, int] = defaultdict(int)  # by trial, the number of its rungs
        self._has_read = False

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        sign = 1 if study.direction == StudyDirection.MAXIMIZE else -1
        if not self._has_read:
            self._has_read = True
            for other in study.get_trials(deepcopy=False):
                while other.number != trial.number and self._enter(other, sign):
                    pass
        while entered := self._enter(trial, sign):
            value, rung = entered
            if value < rung[-max(1, len(rung) // self.factor)]:
                return True
        return False

    def _enter(self, trial: FrozenTrial, sign: int) -> tuple[float, list[float]] | None:
        """Enters a trial at its next rung: its value there, larger is better, and all of them; None if it has not come
        so far."""
        number = self._reached[trial.number]
        passed = [epoch for epoch in trial.intermediate_values if epoch >= self.grace * self.factor**number]
        if not passed:
            return None
        if number == len(self._rungs):
            self._rungs.append([])
        value = sign * trial.intermediate_values[min(passed)]
        insort(self._rungs[number], value)
        self._reached[trial.number] += 1
        return value, self._rungs[number]


class DistinctMedianPruner(MedianPruner):
    """A median pruner that counts trials with the same settings, which an older journal may hold, only once."""

    def __init__(self, copies: Callable[[], Collection[int]], **kwargs: int):
        super().__init__(**kwargs)
        self.copies = copies

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        if repeated := self.copies():
            trials = study.get_trials(deepcopy=False)
            study = optuna.create_study(direction=study.direction)
            study.add_trials([one for one in trials if one.number not in repeated])
        return super().prune(study, trial)
