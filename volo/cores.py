"""The cores of this machine that this process may use."""

import contextlib
import math
import os
from collections.abc import Iterator
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
OWN_GROUPS = Path("/proc/self/cgroup")  # a line for each hierarchy: NUMBER:CONTROLLERS:/GROUP, of version 2 0::/GROUP

_shared_out = math.inf


def num_cores() -> int:
    """Those that the system schedules it on, no more than a container's or a service's quota of time is worth, rounded
    up, and no more than `heed` was told."""
    found = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min(found, *_quotas(), _shared_out)))


def heed(num_shared_out: float) -> None:
    """From here on counts no more cores than a scheduler, such as Ray, shares out on this machine."""
    global _shared_out
    _shared_out = num_shared_out


def _quotas() -> Iterator[float]:
    """Seconds of computing per second, by the files of cgroups of version 2 or 1: of the process's own group, and of
    those that it is in. A container may show the group's name as the host knows it, and only the files at the top."""
    own = ""
    with contextlib.suppress(OSError):
        own = OWN_GROUPS.read_text()
    folders = {CGROUP, CGROUP / "cpu"}
    for _, controllers, group in (line.split(":", 2) for line in own.splitlines() if line.count(":") > 1):
        if not controllers or "cpu" in controllers.split(","):
            folder = (CGROUP / "cpu" if controllers else CGROUP) / group.lstrip("/")
            folders |= {one for one in (folder, *folder.parents) if CGROUP in one.parents and ".." not in one.parts}
    for folder in folders:
        yield from _quota_of(folder)


def _quota_of(folder: Path) -> Iterator[float]:
    """Nothing without a limit."""
    with contextlib.suppress(OSError, ValueError, ZeroDivisionError):
        limit, period = (folder / "cpu.max").read_text().split()
        yield int(limit) / int(period)
    with contextlib.suppress(OSError, ValueError, ZeroDivisionError):
        quota, of = (int((folder / f"cpu.cfs_{name}_us").read_text()) for name in ("quota", "period"))
        if quota > 0:
            yield quota / of
