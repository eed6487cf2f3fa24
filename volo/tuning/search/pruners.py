"""Stops trials early: Optuna's pruners, chosen by a sweep's options. No torch, no Ray."""

from collections.abc import Callable, Collection

import optuna
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner, SuccessiveHalvingPruner
from optuna.trial import FrozenTrial

from volo.tuning.options import REDUCTION_FACTOR, SweepOptions

NUM_BEFORE_MEDIAN = 5


def pruner_of(options: SweepOptions, num_epochs: int, copies: Callable[[], Collection[int]]) -> BasePruner:
    """The pruner of a sweep; `copies` returns the numbers of the trials that repeat others (`distinct.copies`)."""
    grace, factor = options.grace_of(num_epochs), options.reduction_factor or REDUCTION_FACTOR
    if options.chosen_pruner == "asha":
        return SuccessiveHalvingPruner(min_resource=grace, reduction_factor=factor)
    if options.chosen_pruner == "hyperband":
        return HyperbandPruner(min_resource=grace, max_resource=max(grace, num_epochs), reduction_factor=factor)
    if options.chosen_pruner == "median":
        return DistinctMedianPruner(copies, n_startup_trials=NUM_BEFORE_MEDIAN, n_warmup_steps=grace)
    return NopPruner()


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
