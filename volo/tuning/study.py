"""The Optuna study of a sweep: the one truth of which trials there are, what they drew, and what became of them.

    <sweep>/study.journal        the study, written line by line
    <sweep>/trials/0007/         trial 7, a run folder like any other

No torch, no Ray: what cannot be gone on with is refused before either is loaded.
"""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import optuna
from optuna.trial import FrozenTrial, Trial, TrialState

from volo.errors import InputError
from volo.runs.listing import TRIALS
from volo.settings.config import FREE_ON_RESUME, Settings, build_settings, differences, listed
from volo.tuning.journal import open_journal
from volo.tuning.options import COUNTED, MEASURED, REDUCTION_FACTOR, SweepObjective, SweepOptions
from volo.tuning.search.asking import LISTS
from volo.tuning.search.distinct import DRAWN, copies, identity
from volo.tuning.search.drawing import REASON, Drawing, reason_of
from volo.tuning.search.pruners import pruner_of
from volo.tuning.search.sampling import MAKERS, NumberedSampler
from volo.tuning.search.spaces import Space

STUDY = "sweep"
BASE = 0  # the trial that is always tried first
METRICS = "metrics"  # of a trial
IDENTITY, SETTINGS, EXHAUSTED = "sweep", "settings", "exhausted"  # of the study
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
        self.objectives = options.objectives_of(SweepObjective(space.metric, space.mode))
        self.num_epochs = base.optim.epochs
        self.counts: Callable[[Settings], dict[str, int]] | None = None  # of a model, where an objective is one
        self.on_end: Callable[[int], None] | None = None  # hears of a trial that ends before it is handed out
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        warnings.filterwarnings("ignore", LISTS, UserWarning)
        self.drawing = Drawing(space, self.base.to_dict(), options, self.base.run.seed)
        self.study = self._open()
        self._live: dict[int, Trial] = {}
        self._to_go_on = [trial.number for trial in self.trials if trial.state == TrialState.RUNNING]

    @property
    def trials(self) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False)

    @property
    def distinct(self) -> list[FrozenTrial]:
        """The trials that count: without the copies that an older journal may hold."""
        trials = self.trials
        repeated = copies(trials)
        return [trial for trial in trials if trial.number not in repeated]

    @property
    def limit(self) -> int:
        """Trials in all: those asked for, or as many as the space has settings for."""
        if self.is_exhausted:
            return len({identity(trial) for trial in self.trials})
        return min(self.options.num_samples, self.drawing.num_points or self.options.num_samples)

    @property
    def is_exhausted(self) -> bool:
        """Whether draw after draw has repeated earlier trials, in a space whose points cannot be counted."""
        return EXHAUSTED in self.study.user_attrs

    @property
    def shortage(self) -> str:
        """Why there are fewer trials than were asked for; empty where there are not."""
        space, wanted, limit = self.space.name, self.options.num_samples, self.limit
        if limit >= wanted:
            return ""
        if self.is_exhausted:
            return f"the space {space} draws nothing new any more: it ends after {limit} trials, not {wanted}"
        beside = self.drawing.has_base_beside
        points = f"{limit - beside} point{'s' * (limit - beside != 1)}{', the base beside them' if beside else ''}"
        return f"the space {space} has {points}: the sweep ends after {limit} trials, not {wanted}"

    @property
    def num_left(self) -> int:
        """Trials that have not ended."""
        return max(0, self.limit - len({identity(trial) for trial in self.distinct if trial.state.is_finished()}))

    def run_dir(self, number: int) -> Path:
        return self.sweep_dir / TRIALS / f"{number:04d}"

    def next_work(self) -> Work | None:
        """A trial that was running when the driver ended, else a new one; None once there are as many as asked for, or
        the space has no other settings.

        One whose space raises, or whose settings are refused, has failed: then the next one is taken.
        """
        while (number := self._next_number()) is not None:
            try:
                if not self.has_ended(number):
                    drawn = self.frozen(number).user_attrs[DRAWN]
                    return Work(number, drawn, self.settings_of(number, drawn))
            except Exception as error:
                self.fail(number, f"{type(error).__name__}: {error}")
            if self.on_end:
                self.on_end(number)
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

        The last epoch completes the trial; a value that is not finite fails it; the pruner may stop it. The base is
        never stopped early: what all others are compared with is known to the last epoch.
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
        if not trial.should_prune() or number == BASE:
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

    def _next_number(self) -> int | None:
        while self._to_go_on:
            number = self._to_go_on.pop(0)
            if not self.has_ended(number):
                self._finish_drawing(number)
                if number not in copies(self.trials):
                    return number
        trials = self.trials
        if self.is_exhausted or len({identity(trial) for trial in trials}) >= self.limit:
            return None
        trial = self.drawing.next_trial(self.study)
        if trial is None:
            self.study.set_user_attr(EXHAUSTED, True)
            return None
        self.study.add_trial(trial)
        return len(trials)

    def _finish_drawing(self, number: int) -> None:
        """Of a trial that a driver of an older version was drawing when it ended."""
        trial = self._trial(number)
        if DRAWN not in trial.user_attrs:
            try:
                trial.set_user_attr(DRAWN, self.drawing.drawn_by(trial))
            except Exception as error:
                self.fail(number, reason_of(self.space, error))

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

    def _open(self) -> optuna.Study:
        storage = open_journal(self.sweep_dir)
        plan = {number: point.params for number, point in enumerate(self.drawing.plan)}  # of older journals
        sampler = NumberedSampler(MAKERS[self.options.sampler], self.base.run.seed, plan)
        pruner = pruner_of(self.options, self.num_epochs)
        parts = dict(storage=storage, study_name=STUDY, sampler=sampler, pruner=pruner)
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


def _is_finite(objective: SweepObjective, metrics: Metrics) -> bool:
    if objective.metric in COUNTED:
        return True
    value = metrics.get(objective.metric)
    return isinstance(value, int | float) and math.isfinite(value)
