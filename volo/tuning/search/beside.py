"""A place to draw a trial outside the study that it follows."""

import copy
from collections.abc import Container, Sequence

from optuna.storages import BaseStorage, InMemoryStorage
from optuna.trial import FrozenTrial, TrialState


class Beside(InMemoryStorage):
    """Holds one trial in memory, which sees `earlier` ones before it. Those are neither copied nor changed: with a
    thousand of them, copying them would take longer than drawing."""

    def __init__(self, earlier: Sequence[FrozenTrial]):
        super().__init__()
        self.earlier = earlier

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        trial_id = super().create_new_trial(study_id, template_trial)
        self.get_trial(trial_id).number = len(self.earlier)
        return trial_id

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        trials = [*self.earlier, *super().get_all_trials(study_id, deepcopy=False)]
        found = [trial for trial in trials if states is None or trial.state in states]
        return copy.deepcopy(found) if deepcopy else found

    def get_best_trial(self, study_id: int) -> FrozenTrial:
        return BaseStorage.get_best_trial(self, study_id)
