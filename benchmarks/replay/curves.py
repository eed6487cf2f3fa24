"""Learning curves of a sweep's trials, kept in a file of their own."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna

from volo.errors import InputError
from volo.runs.records import read_records
from volo.tuning.journal import held, open_journal
from volo.tuning.options import SweepObjective
from volo.tuning.report.confirmation import read_confirmation
from volo.tuning.report.words import spread_of
from volo.tuning.study import IDENTITY, SETTINGS, STUDY, TRIALS


@dataclass(frozen=True)
class Curve:
    """A trial that was trained to its end: the objective after each epoch, and the seconds of training each took."""

    number: int
    params: Mapping[str, Any]
    values: Sequence[float]
    seconds: Sequence[float]


@dataclass(frozen=True)
class Recording:
    """`settings` of the base; `noise` is the widest spread over seeds that the sweep has confirmed, if it has."""

    space: str
    objective: str
    settings: dict[str, Any]
    noise: float | None
    curves: Sequence[Curve]

    @classmethod
    def read(cls, path: Path) -> "Recording":
        content = json.loads(path.read_text())
        return cls(**content | {"curves": [Curve(**curve) for curve in content["curves"]]})

    @property
    def metric(self) -> str:
        return SweepObjective.parse(self.objective).metric

    @property
    def sign(self) -> int:
        return 1 if SweepObjective.parse(self.objective).mode == "max" else -1

    @property
    def ends(self) -> list[float]:
        """The last value of each curve, such that more is better."""
        return [self.sign * curve.values[-1] for curve in self.curves]


def recorded(sweep_dir: Path) -> Recording:
    """The curves of the trials that were trained to the end, by their first objective.

    Raises:
        InputError: no sweep, or none of its trials was.
    """
    if not (sweep_dir / TRIALS).is_dir():
        raise InputError(f"record takes a sweep's folder, got {sweep_dir}, in which there are no trials")
    with held(sweep_dir):
        study = optuna.load_study(study_name=STUDY, storage=open_journal(sweep_dir))
    identity = study.user_attrs[IDENTITY]
    objective, settings = identity["objectives"][0], identity[SETTINGS]
    found = (_curve(trial, sweep_dir, objective, settings["optim"]) for trial in study.trials)
    curves = [curve for curve in found if curve]
    if not curves:
        raise InputError(f"some trials of {sweep_dir} must have been trained to the end; use --pruner none")
    return Recording(identity["space"], objective, settings, spread_of(read_confirmation(sweep_dir)), curves)


def _curve(trial: optuna.trial.FrozenTrial, sweep_dir: Path, objective: str, optim: Mapping[str, Any]) -> Curve | None:
    records = read_records(sweep_dir / TRIALS / f"{trial.number:04d}")
    epochs = [record for record in records if record["kind"] == "epoch"]
    if len(epochs) < optim["epochs"]:
        return None
    batch_size = trial.params.get("batch_size", optim["batch_size"])
    steps = epochs[0]["step"]  # of an epoch
    seconds = [steps * batch_size / record["images_per_s"] for record in epochs]
    values = [record[SweepObjective.parse(objective).metric] for record in epochs]
    return Curve(trial.number, trial.params, values, seconds)
