"""Runs trials with Ray Tune until there are no more or a stop is requested."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import ray.tune
from ray.tune import Callback, FailureConfig, RunConfig, TuneConfig, Tuner

from volo.cluster.attempt import Attempt
from volo.cluster.scribe import Told
from volo.cluster.workers import free_resources
from volo.signals import stop_signals
from volo.tuning.ending import Ending, Guarded
from volo.tuning.resources import TrialPlan
from volo.tuning.scheduler import StudyScheduler
from volo.tuning.search.searcher import StudySearch
from volo.tuning.study import Metrics, Trials, Work
from volo.tuning.trial import run_trial

# We do the logs, the tables and the handling of Ctrl-C ourselves.
ENVIRONMENT = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
}


def run_all(
    trials: Trials,
    plan: TrialPlan,
    sweep_dir: Path,
    minutes: float | None,
    *,
    on_start: Callable[[Work], None],
    on_epoch: Callable[[int, Metrics], None],
    on_end: Callable[[int], None],
    on_look: Callable[[], None],
    say: Callable[[str], None],
) -> int:
    """Runs trials on the connected cluster.

    Args:
        trials: Hands out the trials.
        plan: How many run at a time, and the resources of each.
        sweep_dir: The folder for Ray's own state.
        minutes: Time after which running trials save and end, and no more start; None: no limit.
        on_start, on_epoch, on_end: Called for each trial.
        on_look: Called again and again while trials run.
        say: Shows a line.

    Returns:
        The number of the signal that requested the stop, otherwise 0.

    Raises:
        TrainingError: a disk failed. The trials that were running resume with the sweep.
    """
    os.environ.update(ENVIRONMENT, TUNE_MAX_PENDING_TRIALS_PG=str(plan.num_concurrent))
    attempt = Attempt.create(sweep_dir)
    with stop_signals() as wants_stop:
        resources, begun = partial(_resources, plan), partial(_has_begun, plan, attempt)
        ending = Ending(attempt.stop, wants_stop, minutes, say, resources, begun)

        def start(work: Work) -> None:
            ending.waiting.add(work.number)
            on_start(work)

        def end(number: int) -> None:
            ending.waiting.discard(number)
            ending.running.discard(number)
            if number in guarded.given_back:
                return
            with ending.on_failing_disk(str(sweep_dir)):
                on_end(number)

        def look() -> None:
            ending.look()
            with ending.on_failing_disk(str(sweep_dir)):
                on_look()

        guarded = Guarded(trials, ending, sweep_dir)
        search = StudySearch(guarded, plan, is_ending=ending.is_asked, on_start=start, on_end=end)
        trial_scheduler = StudyScheduler(guarded, on_epoch, ending.on_failing_disk, say)
        with ending.on_failing_disk(str(attempt.folder)):  # Tune's own state
            _tuner(search, trial_scheduler, ending, plan, attempt, look).fit()
    if ending.error is not None:
        raise ending.error
    return wants_stop()


def _tuner(
    search: StudySearch,
    trial_scheduler: StudyScheduler,
    ending: Ending,
    plan: TrialPlan,
    attempt: Attempt,
    look: Callable[[], None],
) -> Tuner:
    trainable = ray.tune.with_parameters(run_trial, stop=Told(attempt))
    return Tuner(
        ray.tune.with_resources(trainable, plan.of_actor()),
        tune_config=TuneConfig(
            search_alg=search,
            scheduler=trial_scheduler,
            num_samples=-1,  # as many as the searcher returns
            reuse_actors=not plan.by_train,
            trial_name_creator=_name,
            trial_dirname_creator=_name,
        ),
        run_config=RunConfig(
            name="tune",
            storage_path=str(attempt.folder),
            stop=ending,
            callbacks=[Beginnings(ending, look)],
            failure_config=FailureConfig(max_failures=0),
            verbose=0,
        ),
    )


class Beginnings(Callback):
    """Notes which trials have begun, since one may have to wait for other jobs of the cluster, and looks around."""

    def __init__(self, ending: Ending, look: Callable[[], None]):
        self.ending, self.look = ending, look

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        number = trial.config["number"]
        self.ending.waiting.discard(number)
        self.ending.running.add(number)

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        self.look()

    def __getstate__(self) -> dict[str, Any]:
        """Ray pickles this object into a file that is never read."""
        return {}


def _has_begun(plan: TrialPlan, attempt: Attempt, number: int) -> bool:
    return not plan.by_train or attempt.has_begun_trial(number)


def _resources(plan: TrialPlan) -> str:
    return f"needed {plan.need()}, {free_resources()}"


def _name(trial: Any) -> str:
    return f"{trial.config['number']:04d}-{trial.trial_id}"
