"""Training jobs in processes of their own: started, waited for, ended within a hard limit."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.limits import LIMIT_S
from tests.ports import free_ports
from volo.settings.config import Settings

ROOT = Path(__file__).parents[3]


def written(settings: Settings, folder: Path) -> list[str]:
    """Flags of a job with these settings."""
    values = settings.to_dict()
    values["run"]["num_workers"] = None
    (folder / "config.json").write_text(json.dumps(values))  # JSON is YAML
    return ["--config", str(folder / "config.json")]


def in_one_process(fault: str, flags: list[str]) -> subprocess.Popen:
    return start([sys.executable, "-m", "tests.faults.tools.faulty", fault, *flags, "--num-workers", "0"])


def under_torchrun(fault: str, flags: list[str]) -> subprocess.Popen:
    elastic = ["-m", "torch.distributed.run", "--nproc_per_node=2", f"--master_port={free_ports(1)[0]}"]
    return start([sys.executable, *elastic, "-m", "tests.faults.tools.faulty", fault, *flags])


def start(command: list[str], env: dict[str, str] | None = None) -> subprocess.Popen:
    return subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def ended(process: subprocess.Popen) -> tuple[int, str, str]:
    """Exit code, output and errors."""
    try:
        output, errors = process.communicate(timeout=LIMIT_S)
        return process.returncode, output, errors
    finally:
        end(process)


def end(process: subprocess.Popen) -> None:
    """Leaves nothing of it, of torchrun's ranks neither."""
    for pid in [*children_of(process.pid), process.pid] if process.poll() is None else []:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()


def until(condition: Callable[[], bool], process: subprocess.Popen) -> None:
    """Waits for it while the process lives, LIMIT_S at most."""
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        if process.poll() is not None or time.monotonic() > deadline:
            end(process)
            pytest.fail(f"did not come to it: {process.communicate()}")
        time.sleep(0.02)


def names_of_threads() -> list[str]:
    """Of this process."""
    names = []
    for path in Path("/proc/self/task").glob("*/comm"):
        with contextlib.suppress(OSError):  # it has just ended
            names.append(path.read_text().strip())
    return names


def workers_of(session: int) -> list[int]:
    """Training workers on Ray, by what they call themselves."""
    pids = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            if b"TrainWorker" in (entry / "cmdline").read_bytes() and os.getsid(int(entry.name)) == session:
                pids.append(int(entry.name))
    return sorted(pids)


def pid_of_rank(rank: int, parent: int) -> int:
    """Of torchrun's children."""
    for pid in children_of(parent):
        with contextlib.suppress(OSError):  # it has just ended
            if f"RANK={rank}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                return pid
    raise AssertionError(f"torchrun has no rank {rank}")


def children_of(parent: int) -> list[int]:
    pids = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            if int(fields[1]) == parent:
                pids.append(int(entry.name))
    return pids
