"""The Optuna study of a sweep: the single source of truth for its trials, their settings and their results.

    <sweep>/study.journal        the study, written line by line
    <sweep>/trials/0007/         trial 7, a run folder like any other

No torch, no Ray: a sweep that cannot be resumed with these settings is refused before either is loaded.
"""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState

from volo.errors import InputError, TrainingError
from volo.runs.places import TRIALS
from volo.settings.config import Settings, build_settings
from volo.settings.differences import FREE_ON_RESUME, differences, listed
from volo.tuning.home import SweepHome
from volo.tuning.journal import STUDY, open_journal
from volo.tuning.options import COUNTED, MEASURED, REDUCTION_FACTOR, SweepObjective, SweepOptions
from volo.tuning.search.asking import LISTS
from volo.tuning.search.distinct import DRAWN
from volo.tuning.search.drawing import REASON, Drawing, reason_of
from volo.tuning.search.pruners import pruner_of
from volo.tuning.search.sampling import MAKERS, NumberedSampler
from volo.tuning.search.spaces import Space
from volo.tuning.standings import Standings

BASE = 0  # the trial that is always tried first
METRICS = "metrics"  # of a trial
IDENTITY, SETTINGS, EXHAUSTED, IMAGES, TEACHER = "sweep", "settings", "exhausted", "images", "teacher"  # of the study
Metrics = dict[str, Any]


@dataclass(frozen=True)
class Work:
    """A trial to train: `drawn` are the settings that the space drew, `settings` those of the run."""

    number: int
    drawn: dict[str, Any]
    settings: Settings


class Trials(Protocol):
    """Hands out works by number and receives their results."""

    num_epochs: int

    def next_work(self) -> Work | None: ...

    def report(self, number: int, metrics: Metrics) -> bool: ...

    def fail(self, number: int, reason: str) -> None: ...

    def give_back(self, number: int) -> None: ...

    def run_dir(self, number: int) -> Path: ...

    def bring_records(self, number: int) -> None: ...

    def keep(self) -> None: ...


class SweepStudy:
    """Hands out trials, receives their epochs and decides which to stop. The caller must hold the sweep's lock.

    Args:
        sweep_dir: The sweep's folder.
        space: The space to search.
        base: The settings that the space overrides.
        options: Already checked.
        home: Where the sweep is kept. Default: in its folder.

    Raises:
        InputError: the folder's sweep started with another space or other settings; the differences are listed.
    """

    def __init__(
        self, sweep_dir: Path, space: Space, base: Settings, options: SweepOptions, home: SweepHome | None = None
    ):
        self.sweep_dir, self.space, self.options = sweep_dir, space, options
        self.base, self.home = base, home or SweepHome(sweep_dir)
        self.objectives = options.objectives_of(SweepObjective(space.metric, space.mode))
        self.num_epochs = base.optim.epochs
        self.counts: Callable[[Settings], dict[str, int]] | None = None  # of a model, if an objective is a count
        self.on_end: Callable[[int], None] | None = None  # called for a trial that ends before it is handed out
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        warnings.filterwarnings("ignore", LISTS, UserWarning)
        self.drawing = Drawing(space, self.base.to_dict(), options, self.base.run.seed)
        self.study = self._open()
        self._standings = Standings(self.storage, self.storage.get_study_id_from_name(STUDY))
        self._live: dict[int, Trial] = {}
        self._to_resume = [trial.number for trial in self.trials if trial.state == TrialState.RUNNING]

    @property
    def trials(self) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False)

    @property
    def standings(self) -> Standings:
        """The trials as they are now, ranked and grouped."""
        self._standings.look()
        return self._standings

    @property
    def distinct(self) -> list[FrozenTrial]:
        """The trials without copies, which an older journal may hold."""
        known = self.standings
        return [trial for trial in known.trials if trial.number not in known.copies]

    @property
    def limit(self) -> int:
        """Total number of trials: as requested, or fewer if the space has fewer settings."""
        if self.is_exhausted:
            return len(self.standings.tried)
        return min(self.options.num_samples, self.drawing.num_points or self.options.num_samples)

    @property
    def is_exhausted(self) -> bool:
        """Whether repeated draws have only returned earlier trials, in a space whose points cannot be counted."""
        return EXHAUSTED in self.study.user_attrs

    @property
    def shortage(self) -> str:
        """Why there are fewer trials than requested; empty if there are not."""
        space, wanted, limit = self.space.name, self.options.num_samples, self.limit
        if limit >= wanted:
            return ""
        if self.is_exhausted:
            return f"the space {space} draws nothing new: the sweep ends after {limit} trials, not {wanted}"
        beside = self.drawing.has_base_beside
        points = f"{limit - beside} point{'s' * (limit - beside != 1)}{' plus the base' if beside else ''}"
        return f"the space {space} has {points}: the sweep ends after {limit} trials, not {wanted}"

    @property
    def num_left(self) -> int:
        """Trials that have not ended."""
        return max(0, self.limit - self.standings.num_ended)

    @property
    def images(self) -> str | None:
        """The digest of the images that the sweep started with; None if none is recorded."""
        return self.study.user_attrs.get(IMAGES)

    @images.setter
    def images(self, digest: str) -> None:
        self.study.set_user_attr(IMAGES, digest)

    def check_teacher(self) -> None:
        """Records the weights that teach a new sweep, and has every trial taught by just these.

        Raises:
            InputError: there are none, or the sweep started with others.
        """
        from volo.training.teacher import check_same_teacher, digest_of, find_teacher  # loads torch

        teacher = find_teacher(self.base)
        if (before := self.study.user_attrs.get(TEACHER)) is None:
            self.study.set_user_attr(TEACHER, digest_of(teacher))
        else:
            had = self.study.user_attrs[IDENTITY][SETTINGS].get("teaching", {}).get("teacher")
            check_same_teacher(before, had, teacher, "a sweep")
        if teacher:  # the best checkpoint of a run that is still training changes
            self.base = build_settings(self.base.to_dict(), {"teaching": {"teacher": str(teacher)}})

    def run_dir(self, number: int) -> Path:
        """A trial's run folder, of which a sweep on object storage holds the records alone."""
        return self.sweep_dir / TRIALS / f"{number:04d}"

    def bring_records(self, number: int) -> None:
        self.home.bring_records(self.run_dir(number))

    def keep(self) -> None:
        """Takes what was written to where the sweep is kept. Raises TrainingError if it cannot."""
        self.home.keep()

    def next_work(self) -> Work | None:
        """A trial that was running when the driver ended, otherwise a new one; None once there are as many as requested
        or the space has no more settings.

        If the space raises, or the settings are refused, the trial fails and the next one is returned.
        """
        while (number := self._next_number()) is not None:
            try:
                if not self.has_ended(number):
                    drawn = self.frozen(number).user_attrs[DRAWN]
                    return Work(number, drawn, self.settings_of(number, drawn))
            except (OSError, TrainingError):
                raise  # the disk that holds the journal, to which a failure is written too
            except Exception as error:
                self.fail(number, f"{type(error).__name__}: {error}")
            if self.on_end:
                self.on_end(number)
        return None

    def settings_of(self, number: int, drawn: dict[str, Any]) -> Settings:
        """The checked settings of a trial's run."""
        run = dict(
            output_dir=f"{self.home.place}/{TRIALS}",
            run_name=f"{number:04d}",
            num_workers=self.options.workers_per_trial,
            keep_checkpoints=1,
            fresh=False,
        )
        return build_settings(self.base.to_dict(), drawn, {"run": run})

    def report(self, number: int, metrics: Metrics) -> bool:
        """Receives an epoch, possibly more than once. Returns whether it ended the trial.

        The last epoch completes the trial; a value that is not finite fails it; the pruner may stop it. The base is
        never stopped early, because all others are compared with it up to the last epoch.
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
        self._tell(trial, TrialState.PRUNED, {METRICS: _kept(metrics)})
        return True

    def fail(self, number: int, reason: str) -> None:
        """Marks a trial as failed, unless it has ended."""
        if not self.has_ended(number):
            self._tell(self._trial(number), TrialState.FAIL, {REASON: reason})

    def give_back(self, number: int) -> None:
        """Has a trial that was handed out handed out again: it resumes from its newest checkpoint."""
        self._to_resume.append(number)

    def has_ended(self, number: int) -> bool:
        return self.frozen(number).state.is_finished()

    def frozen(self, number: int) -> FrozenTrial:
        return self.storage.get_trial(self._id_of(number))

    def _next_number(self) -> int | None:
        while self._to_resume:
            number = self._to_resume.pop(0)
            if not self.has_ended(number):
                self._finish_drawing(number)
                if number not in self.standings.copies:
                    return number
        known = self.standings
        if self.is_exhausted or len(known.tried) >= self.limit:
            return None
        number, trial = len(known.trials), self.drawing.next_trial(self.study, known)
        if trial is None:
            self.study.set_user_attr(EXHAUSTED, True)
            return None
        self.study.add_trial(trial)
        return number

    def _finish_drawing(self, number: int) -> None:
        """Completes a trial that a driver of an older version was drawing when it ended."""
        trial = self._trial(number)
        if DRAWN not in trial.user_attrs:
            try:
                drawn = self.drawing.drawn_by(trial)
            except Exception as error:
                self.fail(number, reason_of(self.space, error))
            else:
                trial.set_user_attr(DRAWN, drawn)

    def _complete(self, trial: Trial, metrics: Metrics) -> None:
        """The value is that of the last epoch: the best of many epochs would be biased upward."""
        found = _kept(metrics)
        if any(objective.metric in COUNTED for objective in self.objectives):
            assert self.counts is not None
            found |= self.counts(self.settings_of(trial.number, trial.user_attrs[DRAWN]))
        values = [float(found[objective.metric]) for objective in self.objectives]
        if len(values) == 1 and metrics["epoch"] not in self.frozen(trial.number).intermediate_values:
            trial.report(values[0], metrics["epoch"])
        self._tell(trial, TrialState.COMPLETE, {METRICS: found}, values)

    def _tell(
        self, trial: Trial, state: TrialState, attributes: dict[str, Any], values: list[float] | None = None
    ) -> None:
        for name, value in attributes.items():
            trial.set_user_attr(name, value)
        self.study.tell(trial.number, values, state)
        self._live.pop(trial.number, None)

    def _trial(self, number: int) -> Trial:
        if number not in self._live:
            self._live[number] = Trial(self.study, self._id_of(number))
        return self._live[number]

    def _id_of(self, number: int) -> int:
        """What the storage calls a trial of the study."""
        return self.storage.get_trial_id_from_study_id_trial_number(self._standings.study_id, number)

    def _open(self) -> optuna.Study:
        directions: list[Literal["maximize", "minimize"]] = [
            "maximize" if one.mode == "max" else "minimize" for one in self.objectives
        ]
        numbers = [StudyDirection[direction.upper()] for direction in directions]
        storage = self.storage = open_journal(self.sweep_dir, numbers)
        plan = {number: point.params for number, point in enumerate(self.drawing.plan)}  # for older journals
        sampler = NumberedSampler(MAKERS[self.options.sampler], self.base.run.seed, plan)
        pruner = pruner_of(self.options, self.num_epochs, lambda: self.standings.copies)
        parts: dict[str, Any] = dict(storage=storage, study_name=STUDY, sampler=sampler, pruner=pruner)
        if any(study.study_name == STUDY for study in storage.get_all_studies()):
            study = optuna.load_study(**parts)
        else:
            study = optuna.create_study(**parts, directions=directions)
        identity = self._identity()
        if IDENTITY not in study.user_attrs:
            if study.get_trials(deepcopy=False):
                warnings.warn(
                    f"{self.sweep_dir} has lost the settings that it started with: those of this command are taken, "
                    "which must be the same",
                    stacklevel=2,
                )
            study.set_user_attr(IDENTITY, identity)
        _check_same(study.user_attrs[IDENTITY], identity, self.sweep_dir)
        return study

    def _identity(self) -> dict[str, Any]:
        """What must be the same to continue a sweep."""
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
            f"a sweep must continue with the space and settings it started with, got different ones for {sweep_dir}:\n"
            f"{listed(changes)}\n"
            "use the old ones, or --fresh to rename the sweep and start again, or another --sweep-name"
        )


def _kept(metrics: Metrics) -> Metrics:
    """Only the reported values that measure how good a trial was."""
    return {name: metrics[name] for name in ("epoch", "step", *MEASURED) if name in metrics}


def _is_finite(objective: SweepObjective, metrics: Metrics) -> bool:
    if objective.metric in COUNTED:
        return True
    value = metrics.get(objective.metric)
    return isinstance(value, int | float) and math.isfinite(value)
