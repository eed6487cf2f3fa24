"""A sweep from start to end: Ray Tune runs the trials that the study hands out.

Ray keeps its own state in <sweep>/.ray/<number>, which is new for every start and never read again.
"""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any

import torch
from optuna.trial import TrialState

from volo.cluster.connect import connected
from volo.cluster.workers import plan_workers
from volo.data.decoded.cache import Images
from volo.data.splits import Split
from volo.errors import Stopped, TrainingError
from volo.model.outlook_ops.cpu import compile_ahead
from volo.runs.folder import open_data
from volo.runs.images import check_images, record
from volo.settings.run import RunSettings
from volo.training.guards.same_data import seen_here
from volo.tuning.board import Board, outcome
from volo.tuning.confirm import Confirmation
from volo.tuning.counts import counts
from volo.tuning.recovery import recover
from volo.tuning.resources import TrialPlan, plan_trials
from volo.tuning.results import (
    SweepResults,
    against_base,
    best_trial,
    train_command,
    values_of,
    write_report,
    write_results,
)
from volo.tuning.study import BASE, REASON, SweepStudy
from volo.tuning.tuner import run_all


def run_sweep(study: SweepStudy, cluster: contextlib.ExitStack | None = None) -> None:
    """Runs the rest of a sweep and prints its results. The caller must hold the sweep's lock.

    Args:
        study: The sweep's study.
        cluster: Keeps the connection open for a later training with the workers that the settings name; without it, the
            connection ends with the trials.

    Raises:
        InputError: data that cannot be trained on, or trials or workers that do not fit into the cluster.
        TrainingError: every trial failed.
        Stopped: by a signal; the running trials have been saved.
    """
    began = time.monotonic()
    print(f"sweep folder: {study.home.place}", flush=True)
    data, split = open_data(study.base.resolved(), is_new=not study.trials)  # decoded once, for all trials
    _check_same_images(study, data)
    study.check_teacher()
    study.counts = lambda settings: counts(settings, len(data.class_names))
    for number in recover(study):
        print(f"trial {number} {outcome(study, number)}; it had ended when the sweep was stopped")
    if not study.num_left:
        more = study.shortage or "raise --num-samples, or use another --sweep-name"
        print(f"this sweep is finished, with {study.limit} trials; {more}")
    elif study.shortage:
        print(study.shortage, flush=True)
    if study.num_left or _num_to_confirm(study):
        if study.base.run.device != "cuda" and not torch.cuda.is_available():
            compile_ahead()  # Ray needs longer to start
        try:
            with _on_cluster(study.base.run, cluster):
                plan = replace(plan_trials(study.options, study.base.run), seen=_seen(study, data, split))
                if study.num_left:
                    run_trials(study, plan)
                if _num_to_confirm(study):
                    run_confirmation(Confirmation(study), plan, _minutes_left(study, began))
        except Stopped:
            write_report(study)
            study.keep()
            raise
    write_results(study)
    said = _confirmed(study)
    try:
        write_report(study)
        study.keep()
    finally:
        say_result(study, said)


def _check_same_images(study: SweepStudy, data: Images) -> None:
    """Records the images of a new sweep. Raises InputError if the sweep started with others."""
    if study.images is None:
        if study.trials and study.base.data.dataset == "imagefolder":
            print("this sweep has not recorded which images it started with; from now on they must stay the same")
        record(study.sweep_dir, data.contents)
        study.images = data.contents.digest
        return
    check_images(
        study.images,
        data.contents,
        study.sweep_dir,
        rule="a sweep must continue with the images it started with",
        place=study.base.resolved().data.here().data_dir,
        remedy="restore them, or use --fresh to rename the sweep and start again, or another --sweep-name",
    )


def _seen(study: SweepStudy, data: Images, split: Split) -> dict[str, Any]:
    """What every trial must find, of its own settings' making only the split."""
    seen = seen_here(data, split, study.base.resolved().data)
    return asdict(seen) | {"digests": {name: seen.digests[name] for name in ("classes", "images")}}


def run_trials(study: SweepStudy, plan: TrialPlan) -> None:
    """Runs the remaining trials on the connected cluster, until there are none or a stop is requested."""
    print(f"{study.num_left} of {study.limit} trials to run, {plan}", flush=True)
    results = SweepResults(study)
    with Board(study) as board:

        def end(number: int) -> None:
            study.bring_records(number)
            results.is_behind = True
            results.catch_up()
            study.keep()
            board.end(number)

        def look() -> None:
            if results.catch_up():
                study.keep()

        study.on_end = end
        number = run_all(
            study, plan, study.sweep_dir, study.options.budget_minutes,
            on_start=board.start, on_epoch=board.epoch, on_end=end, on_look=look, say=board.say,
        )  # fmt: skip
    if number:
        write_results(study)
        raise Stopped(number)


def run_confirmation(confirmation: Confirmation, plan: TrialPlan, minutes: float | None) -> None:
    """Runs the remaining runs on the connected cluster, for at most `minutes`."""
    if not confirmation.num_left or (minutes is not None and minutes <= 0):
        return
    print(f"{confirmation.num_left} of {len(confirmation.runs)} confirmation runs to run, {plan}", flush=True)

    def end(number: int) -> None:
        confirmation.write()
        confirmation.keep()
        say(f"{confirmation.outcome(number)}; {confirmation.num_left} runs left")

    def say(line: str) -> None:
        print(line, flush=True)

    number = run_all(
        confirmation, plan, confirmation.study.sweep_dir, minutes,
        on_start=lambda work: say(f"{confirmation.runs[work.number]} starts"), on_epoch=lambda *_: None, on_end=end,
        on_look=lambda: None, say=say,
    )  # fmt: skip
    if number:
        raise Stopped(number)


@contextlib.contextmanager
def _on_cluster(run: RunSettings, kept: contextlib.ExitStack | None) -> Iterator[None]:
    """Connects to the cluster. With `kept`, the connection outlives the sweep, and a training that follows with more
    workers than can exist is refused now."""
    with contextlib.ExitStack() as own:
        # Without a dashboard, Ray does not free the resources of a trial of several workers that was stopped early.
        cluster = connected(run.address, dashboard_host=run.dashboard_host, needs_dashboard=True)
        (kept or own).enter_context(cluster)
        if kept is not None:
            plan_workers(run)
        yield


def _num_to_confirm(study: SweepStudy) -> int:
    """The number of remaining confirmation runs; 0 until the last trial has ended."""
    return Confirmation(study).num_left if study.options.confirm_top and not study.num_left else 0


def _minutes_left(study: SweepStudy, began: float) -> float | None:
    budget = study.options.budget_minutes
    return None if budget is None else budget - (time.monotonic() - began) / 60


def _confirmed(study: SweepStudy) -> list[str]:
    """What the confirmation showed, or that it is not done; empty if none was requested or trials are left."""
    return Confirmation(study).conclusion() if study.options.confirm_top and not study.num_left else []


def say_result(study: SweepStudy, confirmed: list[str]) -> None:
    """Prints the result of a sweep. Raises TrainingError if every trial failed, or every one except the base."""
    best = best_trial(study)
    if best is None:
        print("no trial has been trained to the end yet")
    else:
        print(f"best: trial {best.number}, {values_of(study, best)}; {against_base(study, best)}")
        for sentence in confirmed:
            print(sentence)
        print(f"to train it: {train_command(study)}")
    if study.num_left:
        print(f"{study.num_left} of {study.limit} trials are left; the same command continues")
    elif study.shortage:
        print(study.shortage)
    print(f"sweep folder: {study.home.place}", flush=True)
    _check_failures(study)


def _check_failures(study: SweepStudy) -> None:
    tried = study.distinct
    drawn = [trial for trial in tried if trial.number != BASE]
    for trials, what in ((tried, "every trial of the sweep"), (drawn, "every trial that the space drew")):
        if trials and all(trial.state == TrialState.FAIL for trial in trials):
            first = trials[0]
            raise TrainingError(
                f"{what} failed, the first one, trial {first.number}: {first.user_attrs.get(REASON, 'unknown')}"
            )
