"""The Optuna study of a sweep: the one truth of which trials there are, what they drew, and what became of them.

    <sweep>/study.journal        the study, written line by line
    <sweep>/trials/0007/         trial 7, a run folder like any other

No torch, no Ray: what cannot be gone on with is refused before either is loaded.
"""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import optuna
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner, SuccessiveHalvingPruner
from optuna.trial import FrozenTrial, Trial, TrialState

from volo.config import FREE_ON_RESUME, Settings, build_settings, differences, listed
from volo.errors import InputError
from volo.tuning.journal import open_journal
from volo.tuning.options import COUNTED, MEASURED, REDUCTION_FACTOR, Objective, SweepOptions
from volo.tuning.sampling import MAKERS, NumberedSampler, Point, all_points
from volo.tuning.spaces import Space, is_base

STUDY, TRIALS = "sweep", "trials"
NUM_BEFORE_MEDIAN = 5
DRAWN, REASON, METRICS = "settings", "reason", "metrics"  # of a trial
IDENTITY, SETTINGS = "sweep", "settings"  # of the study
Metrics = dict[str, Any]


@dataclass(frozen=True)
class Work:
    """A trial to train: `drawn` are the settings that its space drew, `settings` those of its run."""

    number: int
    drawn: dict[str, Any]
    settings: Settings


class Trials(Protocol):
    """Who hands out works by number, and hears what becomes of them."""

    num_epochs: int

    def next_work(self) -> Work | None: ...

    def report(self, number: int, metrics: Metrics) -> bool: ...

    def fail(self, number: int, reason: str) -> None: ...

    def run_dir(self, number: int) -> Path: ...


class SweepStudy:
    """Hands out trials, hears of their epochs, and says which to stop. For who holds the sweep's lock.

    Args:
        sweep_dir: The sweep's folder.
        space: What is searched.
        base: Settings that it lies over.
        options: Checked.

    Raises:
        InputError: a sweep is there that began with another space or other settings; the differences are listed.
    """

    def __init__(self, sweep_dir: Path, space: Space, base: Settings, options: SweepOptions):
        self.sweep_dir, self.space, self.options = sweep_dir, space, options
        self.base = base
        self.objectives = options.objectives_of(Objective(space.metric, space.mode))
        self.num_epochs = base.optim.epochs
        self.counts: Callable[[Settings], dict[str, int]] | None = None  # of a model, where an objective is one
        self.plan = _plan(space, self.base.to_dict(), options)
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.study = self._open()
        self._live: dict[int, Trial] = {}
        self._to_go_on = [trial.number for trial in self.trials if trial.state == TrialState.RUNNING]

    @property
    def trials(self) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False)

    @property
    def limit(self) -> int:
        """Trials in all; a grid ends with its last point."""
        wanted = self.options.num_samples
        return min(wanted, len(self.plan)) if self.options.sampler == "grid" else wanted

    @property
    def num_left(self) -> int:
        """Trials that have not ended."""
        return max(0, self.limit - sum(trial.state.is_finished() for trial in self.trials))

    def run_dir(self, number: int) -> Path:
        return self.sweep_dir / TRIALS / f"{number:04d}"

    def next_work(self) -> Work | None:
        """A trial that was running when the driver ended, else a new one; None once there are as many as asked for.

        One whose space raises, or whose settings are refused, has failed, and one that drew what another one did ends
        as that one has: then the next one is taken.
        """
        while trial := self._next_trial():
            try:
                drawn = self._drawn(trial)
                work = Work(trial.number, drawn, self.settings_of(trial.number, drawn))
            except Exception as error:
                self.fail(trial.number, f"{type(error).__name__}: {error}")
                continue
            if twin := self._twin(work):
                self._end_as(trial, twin)
            else:
                return work
        return None

    def settings_of(self, number: int, drawn: dict[str, Any]) -> Settings:
        """The checked settings of a trial's run."""
        run = dict(
            output_dir=str(self.sweep_dir / TRIALS),
            run_name=f"{number:04d}",
            num_workers=self.options.workers_per_trial,
            keep_checkpoints=1,
            fresh=False,
        )
        return build_settings(self.base.to_dict(), drawn, {"run": run})

    def report(self, number: int, metrics: Metrics) -> bool:
        """Hears of an epoch, the same one as often as one likes. Returns whether the trial has ended with it.

        The last epoch completes the trial; a value that is not finite fails it; the pruner may stop it.
        """
        if self.has_ended(number):
            return True
        trial, epoch = self._trial(number), metrics["epoch"]
        missing = [one.metric for one in self.objectives if not _is_finite(one, metrics)]
        if missing:
            name = missing[0]
            self.fail(number, f"{name} must be a finite number, got {metrics.get(name)} after epoch {epoch}")
            return True
        if epoch >= self.num_epochs:
            self._complete(trial, metrics)
            return True
        if len(self.objectives) > 1:
            return False
        if epoch not in self.frozen(number).intermediate_values:
            trial.report(metrics[self.objectives[0].metric], epoch)
        if not trial.should_prune():
            return False
        self._tell(trial, TrialState.PRUNED, **{METRICS: _kept(metrics)})
        return True

    def fail(self, number: int, reason: str) -> None:
        """Marks a trial as failed, unless it has ended."""
        if not self.has_ended(number):
            self._tell(self._trial(number), TrialState.FAIL, **{REASON: reason})

    def has_ended(self, number: int) -> bool:
        return self.frozen(number).state.is_finished()

    def frozen(self, number: int) -> FrozenTrial:
        return self.trials[number]

    def _next_trial(self) -> Trial | None:
        while self._to_go_on:
            number = self._to_go_on.pop(0)
            if not self.has_ended(number):
                return self._trial(number)
        if len(self.trials) >= self.limit:
            return None
        trial = self.study.ask()
        self._live[trial.number] = trial
        return trial

    def _twin(self, work: Work) -> FrozenTrial | None:
        """A trial that has been trained with the same settings and seed, so that training again would show the same."""
        for trial in self.trials[: work.number]:
            if trial.state in (TrialState.COMPLETE, TrialState.PRUNED) and trial.user_attrs[DRAWN] == work.drawn:
                return trial
        return None

    def _end_as(self, trial: Trial, twin: FrozenTrial) -> None:
        known = self.frozen(trial.number).intermediate_values
        for epoch, value in twin.intermediate_values.items():
            if epoch not in known:
                trial.report(value, epoch)
        values = twin.values if twin.state == TrialState.COMPLETE else None
        reason = f"the same settings as trial {twin.number}"
        self._tell(trial, twin.state, values, **{METRICS: twin.user_attrs[METRICS], REASON: reason})

    def _complete(self, trial: Trial, metrics: Metrics) -> None:
        """Its value is that of its last epoch, so that no trial is taken for better by the best of many looks."""
        found = _kept(metrics)
        if any(objective.metric in COUNTED for objective in self.objectives):
            assert self.counts is not None
            found |= self.counts(self.settings_of(trial.number, trial.user_attrs[DRAWN]))
        values = [float(found[objective.metric]) for objective in self.objectives]
        if len(values) == 1 and metrics["epoch"] not in self.frozen(trial.number).intermediate_values:
            trial.report(values[0], metrics["epoch"])
        self._tell(trial, TrialState.COMPLETE, values, **{METRICS: found})

    def _tell(self, trial: Trial, state: TrialState, values: list[float] | None = None, **attributes: Any) -> None:
        for name, value in attributes.items():
            trial.set_user_attr(name, value)
        self.study.tell(trial.number, values, state)
        self._live.pop(trial.number, None)

    def _trial(self, number: int) -> Trial:
        if number not in self._live:
            self._live[number] = Trial(self.study, self.frozen(number)._trial_id)
        return self._live[number]

    def _drawn(self, trial: Trial) -> dict[str, Any]:
        """Kept with the trial, so that a continuation trains the same."""
        if DRAWN in trial.user_attrs:
            return trial.user_attrs[DRAWN]
        is_plain_base = trial.number < len(self.plan) and self.plan[trial.number] is None
        drawn = {} if is_plain_base else self.space.settings(trial, self.base.to_dict())[0]
        drawn = json.loads(json.dumps(drawn))
        trial.set_user_attr(DRAWN, drawn)
        return drawn

    def _open(self) -> optuna.Study:
        storage = open_journal(self.sweep_dir)
        sampler = NumberedSampler(MAKERS[self.options.sampler], self.base.run.seed, self.plan)
        parts = dict(storage=storage, study_name=STUDY, sampler=sampler, pruner=_pruner(self.options, self.num_epochs))
        if any(study.study_name == STUDY for study in storage.get_all_studies()):
            study = optuna.load_study(**parts)
        else:
            directions = ["maximize" if one.mode == "max" else "minimize" for one in self.objectives]
            study = optuna.create_study(**parts, directions=directions)
        identity = self._identity()
        if IDENTITY not in study.user_attrs:
            study.set_user_attr(IDENTITY, identity)
        _check_same(study.user_attrs[IDENTITY], identity, self.sweep_dir)
        return study

    def _identity(self) -> dict[str, Any]:
        """What a continuation must have in common with the sweep that it goes on with."""
        return {
            "space": self.space.name,
            "space's files (sha256)": self.space.source,
            "objectives": [str(objective) for objective in self.objectives],
            "sampler": self.options.sampler,
            "pruner": self.options.chosen_pruner,
            "grace_period": self.options.grace_of(self.num_epochs),
            "reduction_factor": self.options.reduction_factor or REDUCTION_FACTOR,
            SETTINGS: self.base.resolved().to_dict(),
        }


def _plan(space: Space, base: dict[str, Any], options: SweepOptions) -> list[Point | None]:
    """The points of the first trials: the base (None where it is no point of the space), the space's own first ones,
    and all others of a grid."""
    plan: list[Point | None] = list(space.first_points)
    if not is_base(space, base):
        plan.insert(0, None)
    if options.sampler == "grid":
        plan += [point for point in all_points(space.draw) if point not in plan]
    return plan


def _pruner(options: SweepOptions, num_epochs: int) -> BasePruner:
    grace, factor = options.grace_of(num_epochs), options.reduction_factor or REDUCTION_FACTOR
    if options.chosen_pruner == "asha":
        return SuccessiveHalvingPruner(min_resource=grace, reduction_factor=factor)
    if options.chosen_pruner == "hyperband":
        return HyperbandPruner(min_resource=grace, max_resource=max(grace, num_epochs), reduction_factor=factor)
    if options.chosen_pruner == "median":
        return MedianPruner(n_startup_trials=NUM_BEFORE_MEDIAN, n_warmup_steps=grace)
    return NopPruner()


def _check_same(before: dict[str, Any], now: dict[str, Any], sweep_dir: Path) -> None:
    changes = {
        name: (before.get(name), now[name]) for name in now if name != SETTINGS and before.get(name) != now[name]
    }
    found = differences(build_settings(before[SETTINGS]), build_settings(now[SETTINGS]))
    changes |= {name: pair for name, pair in found.items() if name not in FREE_ON_RESUME}
    if changes:
        raise InputError(
            f"a sweep must go on with the space and settings it began with, got other ones for {sweep_dir}:\n"
            f"{listed(changes)}\n"
            "give the old ones, or --fresh to rename the sweep and start anew, or another --sweep-name"
        )


def _kept(metrics: Metrics) -> Metrics:
    """Of all that is reported, what says how good a trial was."""
    return {name: metrics[name] for name in ("epoch", "step", *MEASURED) if name in metrics}


def _is_finite(objective: Objective, metrics: Metrics) -> bool:
    if objective.metric in COUNTED:
        return True
    value = metrics.get(objective.metric)
    return isinstance(value, int | float) and math.isfinite(value)
