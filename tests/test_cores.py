"""A process that may use half of the machine's time does not start as many others as the machine has cores."""

import os

import pytest

from volo import cores

MAX, QUOTA, PERIOD = "cpu.max", "cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us"
OF_A_SERVICE = "system.slice/head.service"


@pytest.mark.parametrize(
    ("groups", "files", "expected"),
    [
        ("0::/\n", {MAX: "150000 100000\n"}, 2),
        ("0::/\n", {MAX: "20000 100000"}, 1),
        ("0::/\n", {MAX: "9900000 100000"}, 8),
        ("0::/\n", {MAX: "max 100000\n"}, 8),
        ("0::/\n", {MAX: "what"}, 8),
        ("0::/\n", {MAX: "1 0"}, 8),
        ("0::/\n", {}, 8),
        ("", {MAX: "150000 100000\n"}, 2),
        (None, {}, 8),
        (f"0::/{OF_A_SERVICE}\n", {f"{OF_A_SERVICE}/{MAX}": "300000 100000"}, 3),
        (f"0::/{OF_A_SERVICE}\n", {f"{OF_A_SERVICE}/{MAX}": "max 100000", f"system.slice/{MAX}": "200000 100000"}, 2),
        ("0::/of/the/host\n", {MAX: "150000 100000\n"}, 2),
        ("0::/../outside\n", {MAX: "150000 100000\n"}, 2),
        ("4:memory:/\n3:cpu,cpuacct:/\n", {QUOTA: "300000\n", PERIOD: "100000\n"}, 3),
        ("3:cpu,cpuacct:/\n", {QUOTA: "-1\n", PERIOD: "100000\n"}, 8),
        ("3:cpu,cpuacct:/docker/a:b\n", {QUOTA: "300000\n", PERIOD: "100000\n"}, 3),
    ],
    ids=str,
)
def test_a_quota_of_either_version_bounds_the_cores(tmp_path, monkeypatch, groups, files, expected):
    for name, content in files.items():
        (tmp_path / "top" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "top" / name).write_text(content)
    if groups is not None:
        (tmp_path / "groups").write_text(groups)
    monkeypatch.setattr(cores, "CGROUP", tmp_path / "top")
    monkeypatch.setattr(cores, "OWN_GROUPS", tmp_path / "groups")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    assert cores.num_cores() == expected


@pytest.mark.parametrize(("shared_out", "expected"), [(3.0, 3), (0.5, 1), (0.0, 1), (64.0, 8)])
def test_what_a_scheduler_shares_out_bounds_the_cores(monkeypatch, shared_out, expected):
    monkeypatch.setattr(cores, "_shared_out", cores._shared_out)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    cores.heed(shared_out)
    assert cores.num_cores() == expected
