"""Ray Tune's searcher, which gets its trials from the study."""

from collections.abc import Callable
from typing import Any

from ray.tune.search import Searcher

from volo.tuning.resources import TrialPlan
from volo.tuning.study import Trials, Work


class StudySearch(Searcher):
    """Passes on the study's trials until there are no more or the sweep should end.

    Args:
        study: Hands out the trials and receives their results.
        plan: How many trials run at a time, and the resources of each; the next is drawn only when one has ended.
        is_ending: Returns whether to start no more trials.
        on_start, on_end: Called for each trial.
    """

    def __init__(
        self,
        study: Trials,
        plan: TrialPlan,
        *,
        is_ending: Callable[[], bool],
        on_start: Callable[[Work], None],
        on_end: Callable[[int], None],
    ):
        super().__init__()
        self.study, self.plan = study, plan
        self.is_ending, self.on_start, self.on_end = is_ending, on_start, on_end
        self._numbers: dict[str, int] = {}
        self._is_waiting = False  # for running trials, one of which may have to be handed out again

    def suggest(  # type: ignore[override]  # Ray's own signature leaves out Searcher.FINISHED, a string
        self, trial_id: str
    ) -> dict[str, Any] | str | None:
        if self.is_ending():
            return Searcher.FINISHED
        if self._is_waiting or len(self._numbers) >= self.plan.num_concurrent:
            return None
        work = self.study.next_work()
        if work is None:
            self._is_waiting = bool(self._numbers)
            return None if self._is_waiting else Searcher.FINISHED
        self._numbers[trial_id] = work.number
        self.on_start(work)
        return {
            "number": work.number,
            "settings": work.settings.located().to_dict(),
            "num_workers": self.plan.num_workers,
            "num_local": self.plan.num_local,
            "gpus": self.plan.gpus,
            "by_train": self.plan.by_train,
            "seen": self.plan.seen,
        }

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """The trial's function has returned, so everything is saved: the last epoch completes the trial."""
        number = self._numbers.pop(trial_id, None)
        self._is_waiting = False
        if number is None:
            return
        if result and "epoch" in result and not error:
            self.study.report(number, result)
        self.on_end(number)

    def save(self, checkpoint_path: str) -> None:
        """Does nothing: the study is in its journal."""

    def __getstate__(self) -> dict[str, Any]:
        """Ray pickles this object into a file that is never read."""
        return {}
