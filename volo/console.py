"""Console output: progress bars and tables on a terminal, plain lines elsewhere."""

import math
import shutil
import sys
import textwrap
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress
from rich.table import Table
from rich.text import Text

from volo.errors import visible

PLAIN_INTERVAL_S = 10.0
REMINDER_S = 60.0
UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


class Progress:
    """Counts toward a total, with rate and time left. A context manager.

    Shows a bar on a terminal; elsewhere (a log file, a Ray job) at most one line every PLAIN_INTERVAL_S, so that logs
    stay readable. A total of None is set later, by `begin`.
    """

    def __init__(self, title: str, total: int | None, unit: str):
        self.title, self.unit = title, unit
        self._bar = _bar() if sys.stdout.isatty() else None
        self._task = self._bar.add_task(title, total=total, note="", rate="") if self._bar else TaskID(0)
        self.begin(0, total)

    def __enter__(self) -> "Progress":
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, *_) -> None:
        if self._bar:
            self._bar.stop()

    def begin(self, done: int, total: int | None) -> None:
        """Starts the clock with `done` already counted, so that a resumed run shows its true rate."""
        self._done_before, self._total = done, total
        self._started = self._said = time.monotonic()
        if self._bar:
            self._bar.reset(self._task, total=total, completed=done)

    def update(self, done: int, note: str = "") -> None:
        """Sets the count and the note after it. May be called any number of times."""
        now = time.monotonic()
        rate = (done - self._done_before) / max(now - self._started, 1e-9)
        if self._bar:
            shown = f"{done:,}/{self._total or 0:,} {self.unit}  {rate:,.0f}/s"
            self._bar.update(self._task, completed=done, note=note, rate=shown)
        elif now - self._said >= PLAIN_INTERVAL_S:
            self._said = now
            left = _duration(((self._total or done) - done) / max(rate, 1e-9))
            count = f"{done:,} of {self._total or 0:,} {self.unit}"
            print(f"{self.title}: {count}, {rate:,.0f}/s, {left} left  {note}", flush=True)

    def say(self, line: str) -> None:
        """Prints a separate line, above the bar if there is one."""
        if self._bar:
            self._bar.console.print(line, markup=False, highlight=False)
        else:
            print(line, flush=True)


class Patience:
    """Says what a command waits for, once it has waited for PLAIN_INTERVAL_S, and again every REMINDER_S."""

    def __init__(self, say: Callable[[str], None] = lambda line: print(line, flush=True)):
        self._say = say
        self.begin()

    def begin(self) -> None:
        """Starts the clock, for something new to wait for."""
        self._due = time.monotonic() + PLAIN_INTERVAL_S

    def end(self) -> None:
        """What was awaited has come."""
        self._due = math.inf

    def wait_for(self, what: Callable[[], str]) -> None:
        """Called repeatedly during the wait; `what` only when something is said."""
        if time.monotonic() >= self._due:
            self._due = time.monotonic() + REMINDER_S
            self._say(f"waiting for {what()}")


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]], num_left: int = 1) -> None:
    """Prints columns under their names, the first `num_left` left-aligned; plain text if not on a terminal."""
    rows = [[visible(cell).replace("\n", "\\n") for cell in row] for row in rows]
    sides: list[Literal["left", "right"]] = ["left" if place < num_left else "right" for place in range(len(columns))]
    if sys.stdout.isatty():
        table = Table()
        for column, side in zip(columns, sides, strict=True):
            table.add_column(column, justify=side, overflow="fold")
        for row in rows:
            table.add_row(*map(Text, row))
        Console().print(table)
        return
    widths = [max(map(len, column)) for column in zip(columns, *rows, strict=True)]
    for row in (columns, *rows):
        cells = [
            cell.ljust(width) if side == "left" else cell.rjust(width)
            for cell, width, side in zip(row, widths, sides, strict=True)
        ]
        print("  ".join(cells).rstrip())


def print_entries(entries: Mapping[str, Sequence[str]]) -> None:
    """Each name, its lines beside it, wrapped to the width of the terminal."""
    indent = max(map(len, entries), default=0) + 2
    width = max(shutil.get_terminal_size((120, 24)).columns, indent + 40)
    for name, lines in entries.items():
        wrapped = [part for line in lines for part in textwrap.wrap(line, width - indent, break_on_hyphens=False)]
        print(name.ljust(indent) + f"\n{' ' * indent}".join(wrapped))


def percent(fraction: float, digits: int = 1) -> str:
    """0.125 is 12.5%."""
    return f"{fraction:.{digits}%}"


def format_bytes(num_bytes: int) -> str:
    """Three or four digits and the unit: 1.4 MiB, 512 KiB."""
    power = max(0, min(len(UNITS) - 1, (num_bytes.bit_length() - 1) // 10))
    value = num_bytes / 1024**power
    return f"{value:.{1 if power and value < 100 else 0}f} {UNITS[power]}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"


def _bar() -> RichProgress:
    return RichProgress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
        console=Console(),
    )
