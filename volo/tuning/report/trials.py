"""A study as shown in the report: its trials, their learning curves, and which of their values can be compared."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from volo.plots.curves import is_number
from volo.plots.figures import percent
from volo.runs.records import read_records
from volo.tuning.search.distinct import copies
from volo.tuning.study import METRICS, REASON

STATES = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "stopped early",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "waiting",
    TrialState.FAIL: "failed",
}
ORDER = list(STATES)
ENOUGH = 0.5  # the fraction of trials that must have reached an epoch to be compared there


@dataclass(frozen=True)
class SweepFacts:
    """Facts about a sweep for the report that its study does not hold.

    Attributes:
        name: The sweep's name.
        space: The space that was searched.
        recipe: The recipe that the space modifies.
        metrics: The objectives, in the study's order of directions.
        num_epochs: Epochs of a trial that is trained to the end.
        run_dir: Maps a trial's number to its run folder.
        base: Number of the trial that is the unmodified recipe; None if there is none.
        confirm_flags: Flags to add to the command to train the best trials on more seeds; empty if that is impossible.
    """

    name: str
    space: str
    recipe: str
    metrics: Sequence[str]
    num_epochs: int
    run_dir: Callable[[int], Path]
    base: int | None = 0
    confirm_flags: str = ""


@dataclass(frozen=True)
class Tried:
    """One trial. `curve` is the first objective by epoch, without values that are not finite; `values` are all
    objectives of a trial that was trained to the end, and empty if one is not finite."""

    number: int
    state: TrialState
    params: Mapping[str, Any]
    distributions: Mapping[str, BaseDistribution]
    values: tuple[float, ...]
    curve: Mapping[int, float]
    num_epochs: int
    reason: str
    run_dir: Path

    @property
    def is_complete(self) -> bool:
        return bool(self.values)

    @property
    def last(self) -> float | None:
        """The last value of the first objective."""
        if self.values:
            return self.values[0]
        return self.curve[max(self.curve)] if self.curve else None


@dataclass(frozen=True)
class Scores:
    """Values of the first objective by trial, comparable because all are from epoch `epoch`."""

    epoch: int
    values: Mapping[int, float]
    is_final: bool


@dataclass(frozen=True)
class Sweep:
    """The trials of a study, in order of their numbers, without copies."""

    facts: SweepFacts
    trials: Sequence[Tried]
    maximized: Sequence[bool]
    front: frozenset[int] = field(
        default_factory=frozenset
    )  # with several objectives: trials that no other beats in all of them

    @classmethod
    def of(cls, study: Study, facts: SweepFacts) -> "Sweep":
        """Raises ValueError if the facts name other objectives than the study has."""
        if len(facts.metrics) != len(study.directions):
            raise ValueError(
                f"metrics must name each objective of the study, got {', '.join(facts.metrics)} "
                f"for {len(study.directions)} directions"
            )
        found = study.get_trials(deepcopy=False)
        repeated = copies(found)
        trials = [_tried(trial, facts) for trial in found if trial.number not in repeated]
        front = {trial.number for trial in study.best_trials} if len(study.directions) > 1 else set()
        maximized = [direction == StudyDirection.MAXIMIZE for direction in study.directions]
        return cls(facts, trials, maximized, frozenset(t.number for t in trials if t.is_complete and t.number in front))

    @property
    def metric(self) -> str:
        return self.facts.metrics[0]

    @cached_property
    def complete(self) -> list[Tried]:
        return [trial for trial in self.trials if trial.is_complete]

    @cached_property
    def ranked(self) -> list[Tried]:
        """Trials, best first, as in trials.csv: complete, stopped early, running, failed."""

        def place(trial: Tried) -> tuple:
            value = math.inf if trial.last is None else -self.gain(trial.last)
            return ORDER.index(trial.state), trial.number not in self.front, value, trial.number

        return sorted(self.trials, key=place)

    @property
    def best(self) -> Tried | None:
        return self.ranked[0] if self.complete else None

    @property
    def base(self) -> Tried | None:
        return next((trial for trial in self.trials if trial.number == self.facts.base), None)

    def in_state(self, state: TrialState) -> list[Tried]:
        return [trial for trial in self.trials if trial.state == state]

    def gain(self, value: float, objective: int = 0) -> float:
        """The value, with its sign changed if less is better."""
        return value if self.maximized[objective] else -value

    def better(self, values: Sequence[float]) -> float:
        """The best of several values of the first objective."""
        return max(values, key=self.gain)

    @cached_property
    def params(self) -> list[str]:
        """Parameter names, in the order in which the space asks for them, grouped by condition."""
        order: list[str] = []
        for trial in self.trials:
            last = -1
            for name in trial.params:
                if name not in order:
                    order.insert(last + 1, name)
                last = order.index(name)
        return order

    @cached_property
    def scores(self) -> list[Scores]:
        """The scores at the end, and those at the latest epoch that half of all trials reached, if that is earlier."""
        final = {trial.number: trial.values[0] for trial in self.complete}
        found = [Scores(self.facts.num_epochs, final, True)] if final else []
        epoch = self._shared_epoch()
        if epoch is not None:
            early = {trial.number: trial.curve[epoch] for trial in self.trials if epoch in trial.curve}
            if len(early) > len(final):
                found.append(Scores(epoch, early, False))
        return found

    def _shared_epoch(self) -> int | None:
        curves = [trial.curve for trial in self.trials if trial.curve]
        epochs = sorted({epoch for curve in curves for epoch in curve}, reverse=True)
        return next((e for e in epochs if sum(e in curve for curve in curves) >= ENOUGH * len(curves)), None)


def _tried(trial: FrozenTrial, facts: SweepFacts) -> Tried:
    metrics = trial.user_attrs.get(METRICS, {})
    is_complete = trial.state == TrialState.COMPLETE and all(map(is_number, trial.values))
    values = tuple(trial.values) if is_complete else ()
    run_dir = facts.run_dir(trial.number)
    curve = {epoch: value for epoch, value in sorted(trial.intermediate_values.items()) if is_number(value)}
    curve = curve or _recorded(run_dir, facts.metrics[0])
    full = facts.num_epochs if values else 0
    return Tried(
        number=trial.number,
        state=trial.state,
        params=trial.params,
        distributions=trial.distributions,
        values=values,
        curve=curve,
        num_epochs=metrics.get("epoch") or max([*trial.intermediate_values, *curve], default=full),
        reason=str(trial.user_attrs.get(REASON, "")),
        run_dir=run_dir,
    )


def _recorded(run_dir: Path, metric: str) -> dict[int, float]:
    """The curve from the trial's own records: with several objectives the study only receives the last epoch."""
    epochs = [record for record in read_records(run_dir) if record.get("kind") == "epoch" and "epoch" in record]
    return {record["epoch"]: record[metric] for record in epochs if is_number(record.get(metric))}


def is_share(metric: str) -> bool:
    return "acc" in metric


def shown(metric: str, value: float | None) -> str:
    """A value of a metric, formatted for people."""
    if value is None:
        return "none"
    if is_share(metric):
        return percent(value, 2)
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def apart(metric: str, difference: float) -> str:
    """The difference between two values of a metric, without a sign."""
    return f"{100 * abs(difference):.2f} points" if is_share(metric) else shown(metric, abs(difference))


def plain(value: Any) -> str:
    """A short form of a parameter's value."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def num(count: int, noun: str) -> str:
    """Such as `1 epoch`, `2 epochs`."""
    return f"{count:,} {noun}{'s' * (count != 1)}"
