"""`confirm.json`: the best trials and the base, trained again on several seeds, for the same number of epochs.

    {"base":     {"trial": 0,  "epochs": 20, "seeds": {"0": 0.512, "1": 0.508, "2": 0.519}},
     "best":     {"trial": 17, "epochs": 20, "seeds": {"0": 0.561, "1": 0.553, "2": null}},
     "trial 9":  {"epochs": 20, "seeds": {"0": 0.540, "1": 0.549, "2": 0.551}}}

For each of `base`, `best` and `trial N`: its trial number (optional for `trial N`), the number of epochs of each of its
runs, and, by seed, the first objective after the last epoch; null for a run that failed or has not ended. These runs
are separate from the sweep's own run, which was selected for its result.

A trial is better than the base if each of its seeds is better than every seed of the base and chance alone would rarely
cause that: with n and m seeds it does in 1 of (n + m choose n) cases, 1 in 20 for three each.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from volo.errors import InputError
from volo.files import read_json
from volo.plots.curves import is_number

FILE = "confirm.json"
SELDOM = 1 / 20


@dataclass(frozen=True)
class Confirmed:
    """Runs of one trial's settings: the `values` of successful runs by seed, and the number of others, `num_failed`."""

    name: str
    trial: int | None
    epochs: int
    values: Mapping[str, float]
    num_failed: int

    @property
    def mean(self) -> float:
        return fmean(self.values.values())

    @property
    def lowest(self) -> float:
        return min(self.values.values())

    @property
    def highest(self) -> float:
        return max(self.values.values())

    @property
    def spread(self) -> float:
        """The difference between its highest and lowest seeds."""
        return self.highest - self.lowest

    @property
    def label(self) -> str:
        return self.name if self.trial is None or self.name.startswith("trial") else f"{self.name} (trial {self.trial})"


@dataclass(frozen=True)
class Verdict:
    """A comparison with the base. `gain` is the difference of the means, more is better; `separation` is 1 if all seeds
    are better than all of the base, -1 if all are worse, otherwise 0; `chance` is the probability that chance alone
    separates them in that direction."""

    one: Confirmed
    base: Confirmed
    gain: float
    separation: int
    chance: float

    @property
    def holds(self) -> bool:
        return self.separation != 0 and self.chance <= SELDOM


def read_confirmation(sweep_dir: Path) -> list[Confirmed]:
    """The entries with at least one value, the base first; empty if there is no file.

    Raises:
        InputError: a file that does not have this format.
    """
    path = sweep_dir / FILE
    try:
        content = read_json(path)
        found = [_confirmed(name, entry) for name, entry in content.items()]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
        raise InputError(
            f'{FILE} must map base, best or trial N to {{"trial", "epochs", "seeds"}}, got {path} '
            f"({type(error).__name__}: {error}); remove it, or confirm again"
        ) from None
    return sorted((one for one in found if one.values), key=lambda one: one.name != "base")


def verdicts(confirmed: list[Confirmed], is_maximized: bool) -> list[Verdict]:
    """Compares each entry that was trained for as long as the base with the base."""
    base = next((one for one in confirmed if one.name == "base"), None)
    if base is None:
        return []
    return [_verdict(one, base, is_maximized) for one in confirmed if one is not base and one.epochs == base.epochs]


def _verdict(one: Confirmed, base: Confirmed, is_maximized: bool) -> Verdict:
    sign = 1 if is_maximized else -1
    above, below = one.lowest > base.highest, one.highest < base.lowest
    n, m = len(one.values), len(base.values)
    return Verdict(one, base, sign * (one.mean - base.mean), sign * (above - below), 1 / math.comb(n + m, n))


def _confirmed(name: str, entry: dict[str, Any]) -> Confirmed:
    number = name.removeprefix("trial ")
    if name not in ("base", "best") and not (name.startswith("trial ") and number.isdecimal()):
        raise ValueError(f"the name {name!r}")
    values = {seed: value for seed, value in entry["seeds"].items() if is_number(value)}
    trial = int(number) if number.isdecimal() else entry.get("trial")
    return Confirmed(name, trial, int(entry["epochs"]), values, len(entry["seeds"]) - len(values))
