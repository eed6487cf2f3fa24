"""Maps the values of a parameter, of any kind, to positions on an axis."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from volo.plots.figures import shorten
from volo.tuning.report.trials import Sweep, plain

MOST_CHOICES = 8  # a parameter with more values is drawn as continuous
LABEL = 9  # columns


@dataclass(frozen=True)
class Scale:
    """An axis from 0 to 1. `choices` are the values of a parameter that has few; otherwise the axis goes from `low` to
    `high`."""

    name: str
    choices: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 1.0
    is_log: bool = False

    def place(self, value: Any) -> float:
        if self.choices:
            where = next((at for at, choice in enumerate(self.choices) if same(choice, value)), 0)
            return where / (len(self.choices) - 1) if len(self.choices) > 1 else 0.5
        low, high, value = (math.log(x) if self.is_log else x for x in (self.low, self.high, value))
        return (value - low) / (high - low) if high > low else 0.5

    @property
    def ticks(self) -> list[tuple[float, str]]:
        """(place, label)."""
        if self.choices:
            return [(self.place(choice), shorten(plain(choice), LABEL)) for choice in self.choices]
        middle = math.sqrt(self.low * self.high) if self.is_log else (self.low + self.high) / 2
        values = dict.fromkeys((self.low, middle, self.high))
        return [(self.place(value), plain(float(value))) for value in values]

    @property
    def gap(self) -> float:
        """The distance between two choices; 0 for a continuous parameter."""
        return 1 / max(len(self.choices) - 1, 1) if self.choices else 0.0


def scales(sweep: Sweep) -> list[Scale]:
    """The scale of every parameter, over all values that its trials could have drawn."""
    return [_scale(name, [t.distributions[name] for t in sweep.trials if name in t.params]) for name in sweep.params]


def same(one: Any, other: Any) -> bool:
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, abs_tol=1e-12)
    return type(one) is type(other) and one == other


def _scale(name: str, distributions: Sequence[BaseDistribution]) -> Scale:
    first = distributions[0]
    if isinstance(first, CategoricalDistribution):
        return Scale(name, first.choices)
    assert isinstance(first, IntDistribution | FloatDistribution), "Optuna has no other kind"
    ranges = [one for one in distributions if isinstance(one, IntDistribution | FloatDistribution)]
    low, high = min(one.low for one in ranges), max(one.high for one in ranges)
    step = None if first.log else first.step
    if step and (count := round((high - low) / step) + 1) <= MOST_CHOICES:
        return Scale(name, tuple(low + number * step for number in range(count)))
    return Scale(name, (), low, high, first.log)
