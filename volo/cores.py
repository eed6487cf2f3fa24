"""The cores of this machine that this process may use."""

import contextlib
import math
import os
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")


def num_cores() -> int:
    """Those that the system schedules it on, and no more than a container's quota of time is worth, rounded up."""
    found = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _quota(CGROUP)
    return found if quota is None else max(1, min(found, math.ceil(quota)))


def _quota(root: Path) -> float | None:
    """Seconds of computing per second, by the files of cgroups of version 2 or 1; None without a limit."""
    with contextlib.suppress(OSError, ValueError):
        limit, period = (root / "cpu.max").read_text().split()
        return None if limit == "max" else int(limit) / int(period)
    with contextlib.suppress(OSError, ValueError):
        quota, of = (int((root / "cpu" / f"cpu.cfs_{name}_us").read_text()) for name in ("quota", "period"))
        return quota / of if quota > 0 else None
    return None
