"""The display of a running sweep: a live table on a terminal, plain lines elsewhere."""

import datetime
import sys
import time
from collections.abc import Iterator
from itertools import chain, islice
from typing import Any

from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from volo.settings.differences import flatten
from volo.tuning.results import best_trial, shown, values_of
from volo.tuning.study import DRAWN, REASON, SweepStudy, Work
from volo.tuning.table import num_epochs

NUM_SHOWN = 12
COLUMNS = ("trial", "settings", "epoch", "metric", "state")
WORDS = {"COMPLETE": "complete", "PRUNED": "stopped early", "FAIL": "failed", "RUNNING": "running"}


class Board:
    """Receives the events of trials and shows them. A context manager."""

    def __init__(self, study: SweepStudy):
        self.study = study
        self._started = time.monotonic()
        self._num_left_at_start = study.num_left
        self._running: dict[int, dict[str, Any]] = {}
        self._live = Live(get_renderable=self._render, refresh_per_second=2) if sys.stdout.isatty() else None

    def __enter__(self) -> "Board":
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_) -> None:
        if self._live:
            self._live.stop()

    def start(self, work: Work) -> None:
        self._running[work.number] = {}
        if not self._live:
            print(f"trial {work.number} starts: {in_short(work.drawn)}", flush=True)

    def epoch(self, number: int, metrics: dict[str, Any]) -> None:
        self._running[number] = metrics

    def end(self, number: int) -> None:
        self._running.pop(number, None)
        progress = "" if self._live else f"; {self._progress()}"
        self.say(f"trial {number} {outcome(self.study, number)}{progress}")

    def say(self, line: str) -> None:
        """Prints a separate line, above the table if there is one."""
        if self._live:
            self._live.console.print(line, markup=False, highlight=False)
        else:
            print(line, flush=True)

    def _progress(self) -> str:
        limit, left = self.study.limit, self.study.num_left
        text = f"{limit - left} of {limit} trials"
        done = self._num_left_at_start - left
        if left and done:
            seconds = round((time.monotonic() - self._started) / done * left)
            text += f", about {datetime.timedelta(seconds=seconds)} left"
        best = best_trial(self.study)
        return f"{text}, best {values_of(self.study, best)} (trial {best.number})" if best is not None else text

    def _render(self) -> Group:
        table = Table(title=Text(self.study.sweep_dir.name), title_justify="left")
        for name in COLUMNS:
            table.add_column(name, justify="right" if name in ("trial", "epoch") else "left", overflow="fold")
        for row in self._rows():
            table.add_row(*map(Text, row))
        return Group(table, Text(self._progress()))

    def _rows(self) -> Iterator[tuple[str, ...]]:
        """The running trials, then the best of the others."""
        running = [self.study.frozen(number) for number in sorted(self._running)]
        others = (trial for trial in self.study.standings.ranked() if trial.number not in self._running)
        for trial in islice(chain(running, others), NUM_SHOWN):
            metric = self.study.objectives[0].metric
            now = self._running.get(trial.number)
            values = values_of(self.study, trial) if not now else f"{metric} {shown(metric, now.get(metric))}"
            epoch = f"{now['epoch'] if now else num_epochs(trial)}/{self.study.num_epochs}"
            yield str(trial.number), in_short(trial.user_attrs.get(DRAWN, {})), epoch, values, WORDS[trial.state.name]


def outcome(study: SweepStudy, number: int) -> str:
    """The outcome of a trial, in words."""
    trial = study.frozen(number)
    state = trial.state.name
    if state == "FAIL":
        return f"failed: {trial.user_attrs.get(REASON, 'unknown')}"
    if state == "RUNNING":
        return "saved; it resumes at the next start"
    num = num_epochs(trial)
    return f"{WORDS[state]} after {num} epoch{'s' * (num > 1)}: {values_of(study, trial)}"


def in_short(drawn: dict[str, Any]) -> str:
    """Such as `form=flat, embed_dim=96`; for the base, that nothing was changed."""
    parts = [f"{name.split('.')[-1]}={_plain(value)}" for name, value in flatten(drawn).items() if value is not None]
    return ", ".join(parts) or "unchanged"


def _plain(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    return "-".join(map(str, value)) if isinstance(value, list) else str(value)
