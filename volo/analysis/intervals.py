"""Statistics over images: confidence intervals, and whether a difference is more than chance.

Every interval covers its value with probability LEVEL at least; the rest is split evenly between both ends.
"""

import math
from collections.abc import Callable
from statistics import NormalDist

import numpy as np

LEVEL = 0.95
TAIL = (1 - LEVEL) / 2
NORMAL = NormalDist().inv_cdf(1 - TAIL)
STEPS = 40  # of bisection: twelve digits

Interval = tuple[float, float]


def share_interval(hits: int, total: int) -> Interval:
    """For the probability behind `hits` of `total` (at least 1) independent trials (Clopper and Pearson, 1934).

    Exact, and conservative if the trials' probabilities differ (Hoeffding, 1956).
    """
    if not 0 <= hits <= total or total < 1:
        raise ValueError(f"hits must lie in [0, total] and total be at least 1, got {hits} of {total}")
    choices = _log_choices(total)
    low = _solved(lambda p: _tail(choices, p, hits, total + 1) < TAIL) if hits else 0.0
    high = _solved(lambda p: _tail(choices, p, 0, hits + 1) > TAIL) if hits < total else 1.0
    return low, high


def mean_interval(values: np.ndarray) -> Interval:
    """For the mean behind (N,) independent values, by the central limit theorem; infinite for a single value."""
    if len(values) < 2:
        return -math.inf, math.inf
    reach = NORMAL * float(values.std(ddof=1)) / math.sqrt(len(values))
    return float(values.mean()) - reach, float(values.mean()) + reach


def compared(interval: Interval, exact: float) -> str:
    """Whether something happens more or less often than something else whose probability is known: in words.

    Where both are equally likely, "more often" is said 25 times in 1000 at most, and "less often" as rarely.
    """
    low, high = interval
    return "more often" if low > exact else "less often" if high < exact else "cannot be told"


def _log_choices(total: int) -> np.ndarray:
    """(total + 1,) logarithms of the binomial coefficients."""
    factorials = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, total + 1)))])
    return factorials[-1] - factorials - factorials[::-1]


def _tail(choices: np.ndarray, p: float, first: int, end: int) -> float:
    """Probability of `first` to `end` - 1 hits, each having probability p."""
    hits = np.arange(first, end)
    logs = choices[first:end] + hits * math.log(p) + (len(choices) - 1 - hits) * math.log1p(-p)
    return float(np.exp(logs).sum())


def _solved(holds: Callable[[float], bool]) -> float:
    """The point in (0, 1) below which a condition holds and above which it does not."""
    low, high = 0.0, 1.0
    for _ in range(STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low
