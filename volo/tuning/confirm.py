"""Trains the best trials and the base again on other seeds before calling any of them better: `--confirm-top K`.

    <sweep>/confirm/0017/seed1/      trial 17 with seed 1, a run folder like any other
    <sweep>/confirm/failures.json    runs that failed, and why; without this file they are tried again
    <sweep>/confirm.json             the results of all runs, for volo/tuning/report/confirmation.py

The run folders determine which runs have ended, so a new start continues with the rest, however the last one ended.
"""

import json
import warnings
from dataclasses import dataclass
from pathlib import Path

from optuna.trial import TrialState

from volo.files import read_json, replace_synced
from volo.plots.curves import is_number
from volo.runs.checkpoint import writing
from volo.settings.config import Settings
from volo.tuning.options import NUM_CONFIRM_SEEDS
from volo.tuning.report.confirmation import FILE, read_confirmation, verdicts
from volo.tuning.report.words import verdict_in_words
from volo.tuning.results import shown
from volo.tuning.study import BASE, DRAWN, Metrics, SweepStudy, Work

FOLDER, FAILURES = "confirm", "failures.json"


@dataclass(frozen=True)
class Rerun:
    """A trial's settings with another seed."""

    trial: int
    seed: int

    def __str__(self) -> str:
        return f"{'the base' if self.trial == BASE else f'trial {self.trial}'} with seed {self.seed}"

    @property
    def folder(self) -> str:
        return f"{self.trial:04d}/seed{self.seed}"


class Confirmation:
    """Hands out the runs that confirm a sweep and receives their epochs, as the study does for trials.

    Works are numbered by their index in `runs`: seed by seed, so that all settings progress together. There are none if
    only the base was trained to the end.
    """

    def __init__(self, study: SweepStudy):
        self.study, self.num_epochs = study, study.num_epochs
        self.metric = study.objectives[0].metric
        self.names = named(study, study.options.confirm_top)
        first = study.base.run.seed + 1
        seeds = range(first, first + (study.options.confirm_seeds or NUM_CONFIRM_SEEDS))
        self.runs = [Rerun(trial, seed) for seed in seeds for trial in self.names.values()]
        self.failures = self._read_failures()
        self.values: dict[Rerun, float] = {}
        for number in range(len(self.runs)):
            for record in study.home.saved_epochs(self.run_dir(number))[-1:]:
                self.report(number, record)
        self._to_hand_out = [number for number in range(len(self.runs)) if not self.has_ended(number)]

    @property
    def num_left(self) -> int:
        return sum(not self.has_ended(number) for number in range(len(self.runs)))

    def has_ended(self, number: int) -> bool:
        return self.runs[number] in self.values or self.runs[number].folder in self.failures

    def run_dir(self, number: int) -> Path:
        return self.study.sweep_dir / FOLDER / self.runs[number].folder

    def bring_records(self, number: int) -> None:
        self.study.home.bring_records(self.run_dir(number))

    def keep(self) -> None:
        self.study.keep()

    def next_work(self) -> Work | None:
        if not self._to_hand_out:
            return None
        number = self._to_hand_out.pop(0)
        drawn = self._drawn(self.runs[number].trial)
        return Work(number, drawn, self._settings(number, drawn))

    def report(self, number: int, metrics: Metrics) -> bool:
        """Receives an epoch and returns whether it ended the run."""
        if self.has_ended(number):
            return True
        value = metrics.get(self.metric)
        if not is_number(value):
            self.fail(number, f"{self.metric} must be a finite number, got {value} after epoch {metrics['epoch']}")
        elif metrics["epoch"] >= self.num_epochs:
            self.values[self.runs[number]] = value
        return self.has_ended(number)

    def fail(self, number: int, reason: str) -> None:
        """Records the reason, so that the run is not tried again."""
        if not self.has_ended(number):
            self.failures[self.runs[number].folder] = reason
            with writing(str(self._failures_path)):
                self._failures_path.parent.mkdir(exist_ok=True)
                replace_synced(self._failures_path, json.dumps(self.failures, indent=1) + "\n")

    def give_back(self, number: int) -> None:
        """As of a study."""
        self._to_hand_out.append(number)

    def write(self) -> None:
        """Writes confirm.json with the results so far."""
        seeds = sorted({run.seed for run in self.runs})
        content = {
            name: {
                "trial": trial,
                "epochs": self.num_epochs,
                "seeds": {str(seed): self.values.get(Rerun(trial, seed)) for seed in seeds},
            }
            for name, trial in self.names.items()
        }
        with writing(str(self.study.sweep_dir / FILE)):
            replace_synced(self.study.sweep_dir / FILE, json.dumps(content, indent=1) + "\n")

    def outcome(self, number: int) -> str:
        """The outcome of a run, in words."""
        run = self.runs[number]
        if run in self.values:
            return f"{run}: {self.metric} {shown(self.metric, self.values[run])}"
        if run.folder in self.failures:
            return f"{run} failed: {self.failures[run.folder]}"
        return f"{run}: saved; it resumes at the next start"

    def conclusion(self) -> list[str]:
        """Writes confirm.json and returns what the runs show, in sentences."""
        if not self.runs:
            return ["nothing to confirm: no trial but the base was trained to the end"]
        self.write()
        if self.num_left:
            return [f"{self.num_left} of {len(self.runs)} confirmation runs are left; the same command continues"]
        judged = verdicts(read_confirmation(self.study.sweep_dir), self.study.objectives[0].mode == "max")
        words = (verdict_in_words(self.metric, verdict, len(judged)) for verdict in judged)
        said = [f"{self.metric} on new seeds: {sentence}" for sentence in words]
        reached = {run.trial for run in self.values}
        return said + [f"every run of {name} failed" for name, trial in self.names.items() if trial not in reached]

    def _drawn(self, trial: int) -> dict:
        return {} if trial == BASE else self.study.frozen(trial).user_attrs[DRAWN]

    def _settings(self, number: int, drawn: dict) -> Settings:
        """The trial's settings with another run folder and seed."""
        run = self.runs[number]
        settings = self.study.settings_of(run.trial, drawn)
        above, _, name = f"{self.study.home.place}/{FOLDER}/{run.folder}".rpartition("/")
        moved = dict(output_dir=above, run_name=name, seed=run.seed)
        return settings.model_copy(update={"run": settings.run.model_copy(update=moved)})

    @property
    def _failures_path(self) -> Path:
        return self.study.sweep_dir / FOLDER / FAILURES

    def _read_failures(self) -> dict[str, str]:
        """By folder. If the file is damaged, all are tried again."""
        path = self._failures_path
        try:
            failures = read_json(path)
        except FileNotFoundError:
            return {}
        except (OSError, ValueError):
            failures = None
        if isinstance(failures, dict):
            return {str(name): str(reason) for name, reason in failures.items()}
        warnings.warn(f"skipped {path}, which is damaged: the runs that it names are tried again", stacklevel=2)
        return {}


def named(study: SweepStudy, top: int) -> dict[str, int]:
    """The trials to confirm, by their names in confirm.json: the base and the best `top` others, without repeats."""
    base = study.frozen(BASE).user_attrs.get(DRAWN, {})
    found: dict[str, int] = {}
    seen = [base]
    for place, trial in enumerate(study.standings.ranked()):
        drawn = trial.user_attrs.get(DRAWN)
        if trial.state != TrialState.COMPLETE or len(found) == top:
            break
        if drawn is not None and drawn not in seen:
            seen.append(drawn)
            found["best" if place == 0 else f"trial {trial.number}"] = trial.number
    return {"base": BASE} | found if found else {}
