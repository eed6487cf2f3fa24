"""A container that may use half of the machine's time does not start as many processes as the machine has cores."""

import os

import pytest

from volo import cores

MAX, QUOTA, PERIOD = "cpu.max", "cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({MAX: "150000 100000\n"}, 2),
        ({MAX: "20000 100000"}, 1),
        ({MAX: "9900000 100000"}, 8),
        ({MAX: "max 100000\n"}, 8),
        ({QUOTA: "300000\n", PERIOD: "100000\n"}, 3),
        ({QUOTA: "-1\n", PERIOD: "100000\n"}, 8),
        ({MAX: "what"}, 8),
        ({}, 8),
    ],
    ids=str,
)
def test_a_quota_of_either_version_bounds_the_cores(tmp_path, monkeypatch, files, expected):
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    monkeypatch.setattr(cores, "CGROUP", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    assert cores.num_cores() == expected
