"""Memory that a step frees is kept for the next one without a variable of the user, and not if there is one."""

import os
import platform
import subprocess
import sys

import pytest

from volo.allocator import SETTINGS, memory_kept_by_children, variables

STEPS = """
import resource, sys
import torch
from volo.allocator import keep_memory
if sys.argv[1] == "keep":
    keep_memory()
def step():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    kept = [torch.ones(size) for size in (2**24, 2**16, 2**23)]  # 64 MiB, 256 KiB, 32 MiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
for _ in range(20):  # until the first free places are large enough
    step()
print(max(step() for _ in range(5)))
"""
NAMES = [name for name, _, _ in SETTINGS]

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc alone")


def faults(what: str, **environment: str) -> int:
    """Pages that a later step asks the system for."""
    clean = {name: value for name, value in os.environ.items() if name not in NAMES}
    command = [sys.executable, "-c", STEPS, what]
    said = subprocess.run(command, env=clean | environment, capture_output=True, text=True, check=True)
    return int(said.stdout)


def test_a_process_keeps_what_it_frees_and_so_do_processes_with_the_variables(monkeypatch):
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    assert faults("as it is") > 100
    assert faults("keep") < 10
    assert faults("as it is", **variables()) < 10


def test_what_the_user_has_set_stays(monkeypatch):
    monkeypatch.setenv("MALLOC_ARENA_MAX", "4")
    assert variables() == {}
    with memory_kept_by_children():
        assert [os.environ.get(name) for name in NAMES] == ["4", None, None]
    assert faults("keep", MALLOC_ARENA_MAX="4") > 100


def test_processes_started_inside_alone_have_the_variables(monkeypatch):
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    with memory_kept_by_children():
        assert all(name in os.environ for name in NAMES)
    assert not any(name in os.environ for name in NAMES)
