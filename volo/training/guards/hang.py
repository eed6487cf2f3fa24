"""Finds the rank that hangs from the reports of all ranks: the others wait for it."""

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

# In the order in which the loop reaches them after the same number of updates.
PHASES = ("start", "validate", "save", "data", "update")
# Frames in which a rank waits for the others: collectives, the backward pass (in which DDP exchanges gradients), DDP's
# buffers, reading what a collective has summed, and Ray's report of an epoch.
WAITING_FILES = ("torch/distributed/",)
WAITING_FUNCTIONS = ("_engine_run_backward", "_sync_buffers", "flush", "report")


@dataclass(frozen=True)
class Report:
    """What a rank is doing: `phase` began after `step` updates; `place` is the innermost frame of this project's or the
    user's code, and `stack` has every frame, outermost first."""

    rank: int
    host: str
    pid: int
    step: int
    phase: str
    waited_s: float
    place: str
    stack: Sequence[str]

    @property
    def progress(self) -> tuple[int, int]:
        return self.step, PHASES.index(self.phase)

    @property
    def waits(self) -> bool:
        """Whether it waits for the other ranks, by its stack."""
        return any(
            any(file in frame for file in WAITING_FILES) or frame.endswith(tuple(f" in {f}" for f in WAITING_FUNCTIONS))
            for frame in self.stack
        )


def accuse(reports: Mapping[int, Report], num_ranks: int) -> int | None:
    """The rank that hangs, or None if the ranks cannot be told apart.

    It is one without a report; otherwise the one that is behind; otherwise the only one that does not wait for others.
    """
    silent = [rank for rank in range(num_ranks) if rank not in reports]
    if silent:
        return silent[0]
    last = min(report.progress for report in reports.values())
    behind = [rank for rank, report in reports.items() if report.progress == last]
    suspects = behind if len(behind) == 1 else [rank for rank in behind if not reports[rank].waits]
    return suspects[0] if len(suspects) == 1 else None


def describe(
    accused: int | None, reports: Mapping[int, Report], ranks: Sequence[str], timeout_s: float, folder: Path
) -> str:
    """The error message. `ranks` has the host and pid of each rank."""
    speaker = reports[min(reports)]
    if accused is None:
        found = f"all {len(ranks)} ranks {_where(speaker)}"
    elif accused in reports:
        found = f"rank {accused} ({ranks[accused]}) hanging {_where(reports[accused])}"
    else:
        found = (
            f"no answer from rank {accused} ({ranks[accused]}), which is frozen or gone; rank {speaker.rank} waits for "
            f"it {_where(speaker)}"
        )
    return (
        f"training must make progress within hang_timeout={timeout_s:g} s, got {found}. The stacks are in {folder}; "
        "the same command resumes. If a step takes longer, raise --hang-timeout"
    )


def _where(report: Report) -> str:
    return f"in phase {report.phase} after step {report.step:,}, at {report.place}"


def reports_in(folder: Path) -> dict[int, Report]:
    """The reports written so far."""
    reports = {}
    for path in folder.glob("rank_*.json"):
        with contextlib.suppress(OSError, ValueError, TypeError):
            report = Report(**json.loads(path.read_text()))
            reports[report.rank] = report
    return reports
