"""A sweep from start to end: Ray Tune runs the trials that the study hands out.

Ray keeps its own state in <sweep>/.ray/<number>, new at every start and never read again.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray.tune
import torch
from optuna.trial import TrialState
from ray.tune import FailureConfig, RunConfig, TuneConfig, Tuner

from volo.cluster.connect import connected
from volo.cluster.workers import plan_workers
from volo.errors import Stopped, TrainingError
from volo.model.outlook_ops.cpu import compile_ahead
from volo.sections import RunSettings
from volo.training.launch import stop_signals
from volo.training.run import open_data
from volo.tuning.board import Board
from volo.tuning.counts import counts
from volo.tuning.ending import Ending, StopWish, new_folder
from volo.tuning.recovery import recover
from volo.tuning.resources import TrialPlan, plan_trials
from volo.tuning.results import BEST_CONFIG, best_trial, values_of, write_report, write_results
from volo.tuning.scheduler import StudyScheduler
from volo.tuning.search import StudySearch
from volo.tuning.study import REASON, SweepStudy, Work
from volo.tuning.trial import run_trial

# Tune's own logs, tables and handling of Ctrl-C are ours to do.
ENVIRONMENT = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
}


def run_sweep(study: SweepStudy, cluster: contextlib.ExitStack | None = None) -> None:
    """Runs what is left of a sweep, for who holds its lock, and says what came out.

    Args:
        study: The sweep's.
        cluster: Keeps the connection open for a training that follows, by the workers that the settings name; else it
            ends with the trials.

    Raises:
        InputError: data that cannot be trained on, trials or workers that do not fit into the cluster.
        TrainingError: every trial has failed.
        Stopped: a signal asked for it; the trials that ran have been saved.
    """
    print(f"sweep folder: {study.sweep_dir}", flush=True)
    data, _ = open_data(study.base.resolved())  # decoded once, for all trials
    study.counts = lambda settings: counts(settings, len(data.class_names))
    recover(study)
    if study.num_left:
        if study.base.run.device != "cuda" and not torch.cuda.is_available():
            compile_ahead()  # Ray needs longer to start
        try:
            with _on_cluster(study.base.run, cluster):
                run_trials(study, plan_trials(study.options, study.base.run))
        except Stopped:
            write_report(study)
            raise
    else:
        print(f"this sweep is finished, with {study.limit} trials; raise --num-samples, or use another --sweep-name")
    write_results(study)
    write_report(study)
    _say_result(study)


def run_trials(study: SweepStudy, plan: TrialPlan) -> None:
    """Has the trials run on the cluster that is connected, as far as there are any left and nobody asks to stop."""
    print(f"{study.num_left} of {study.limit} trials to run, {plan}", flush=True)
    os.environ.update(ENVIRONMENT, TUNE_MAX_PENDING_TRIALS_PG=str(plan.num_concurrent))
    folder = new_folder(study.sweep_dir)
    with Board(study) as board, stop_signals() as wants_stop:
        ending = Ending(StopWish(folder), wants_stop, study.options.budget_minutes, board.say)

        def start(work: Work) -> None:
            ending.num_running += 1
            board.start(work)

        def end(number: int) -> None:
            ending.num_running -= 1
            write_results(study)
            board.end(number)

        search = StudySearch(study, plan, folder, is_ending=ending.is_asked, on_start=start, on_end=end)
        _tuner(search, StudyScheduler(study, board.epoch), ending, plan, folder).fit()
    if number := wants_stop():
        write_results(study)
        raise Stopped(number)


@contextlib.contextmanager
def _on_cluster(run: RunSettings, kept: contextlib.ExitStack | None) -> Iterator[None]:
    """Connects; with `kept` for what follows too, whose workers are refused now if they are more than there can be."""
    with contextlib.ExitStack() as own:
        (kept or own).enter_context(connected(run.address, dashboard_host=run.dashboard_host))
        if kept is not None:
            plan_workers(run)
        yield


def _tuner(
    search: StudySearch, trial_scheduler: StudyScheduler, ending: Ending, plan: TrialPlan, folder: Path
) -> Tuner:
    return Tuner(
        ray.tune.with_resources(run_trial, plan.of_actor()),
        tune_config=TuneConfig(
            search_alg=search,
            scheduler=trial_scheduler,
            num_samples=-1,  # as many as the search has
            reuse_actors=not plan.by_train,
            trial_name_creator=_name,
            trial_dirname_creator=_name,
        ),
        run_config=RunConfig(
            name="tune",
            storage_path=str(folder),
            stop=ending,
            failure_config=FailureConfig(max_failures=0),
            verbose=0,
        ),
    )


def _name(trial: Any) -> str:
    return f"{trial.config['number']:04d}-{trial.trial_id}"


def _say_result(study: SweepStudy) -> None:
    """The last thing a sweep prints."""
    best = best_trial(study)
    if best is None:
        failed = [trial for trial in study.trials if trial.state == TrialState.FAIL]
        if failed and len(failed) == len(study.trials):
            raise TrainingError(f"every trial of the sweep failed, the first one: {failed[0].user_attrs[REASON]}")
        print("no trial has been trained to the end yet")
    else:
        base = study.frozen(0)
        print(f"best: trial {best.number}, {values_of(study, best)}; the base, trial 0: {values_of(study, base)}")
        print(f"to train it: python -m jobs.train --config {study.sweep_dir / BEST_CONFIG} --run-name NAME")
    if study.num_left:
        print(f"{study.num_left} of {study.limit} trials are left; the same command goes on")
    print(f"sweep folder: {study.sweep_dir}", flush=True)
