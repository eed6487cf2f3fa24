"""trials.csv: the trials of a sweep, ranked."""

from optuna.trial import FrozenTrial

from volo.tables import Cell, row_of
from volo.tuning.study import METRICS, REASON, SweepStudy


class Table:
    """Puts the rows of all trials in order, of which only those are written again whose trial has changed.

    The columns of parameters are in the order in which trials first asked for them.
    """

    def __init__(self, study: SweepStudy):
        self.study = study
        self._names: dict[str, None] = {}  # of the parameters, in order
        self._written: dict[int, FrozenTrial] = {}  # as they were when their rows were written, by number
        self._rows: dict[int, str] = {}  # without the rank

    def text(self) -> str:
        ranked = list(self.study.standings.ranked())
        changed = [trial for trial in ranked if self._written.get(trial.number) is not trial]
        names = dict.fromkeys(name for trial in sorted(changed, key=lambda one: one.number) for name in trial.params)
        if names.keys() - self._names.keys():
            self._names |= names
            changed = ranked
        for trial in changed:
            self._written[trial.number] = trial
            self._rows[trial.number] = row_of(self._cells(trial))
        metrics = [objective.metric for objective in self.study.objectives]
        head = row_of(["rank", "trial", "state", *metrics, "epochs", "seconds", *self._names, "reason"])
        return head + "".join([f"{rank},{self._rows[trial.number]}" for rank, trial in enumerate(ranked, start=1)])

    def _cells(self, trial: FrozenTrial) -> list[Cell]:
        values = trial.values or [""] * len(self.study.objectives)
        params = [trial.params.get(name, "") for name in self._names]
        reason = trial.user_attrs.get(REASON, "")
        return [trial.number, trial.state.name.lower(), *values, num_epochs(trial), _seconds(trial), *params, reason]


def num_epochs(trial: FrozenTrial) -> int:
    return max([trial.user_attrs.get(METRICS, {}).get("epoch", 0), *trial.intermediate_values])


def _seconds(trial: FrozenTrial) -> str:
    return f"{trial.duration.total_seconds():.1f}" if trial.duration else ""
