"""Open files: the limit of the system is raised as far as it may be, or the command is refused before Ray starts."""

import subprocess
import sys

import pytest

ALLOW = "from volo.cluster.limits import allow_open_files; import resource; "
TRAIN = [sys.executable, "-m", "jobs.train", "--recipe", "quickstart", "--num-workers", "1", "--output-dir"]


def under(soft: int, hard: int, *command: str) -> subprocess.CompletedProcess:
    limited = ["bash", "-c", f'ulimit -Sn {soft}; ulimit -Hn {hard}; exec "$@"', "bash", *command]
    return subprocess.run(limited, capture_output=True, text=True)


@pytest.mark.parametrize(("soft", "hard", "allowed"), [(64, 2048, 2048), (64, 8192, 4096), (8192, 8192, 8192)])
def test_as_many_open_files_as_may_be_are_allowed(soft, hard, allowed):
    code = ALLOW + "allow_open_files(); print(resource.getrlimit(resource.RLIMIT_NOFILE))"
    assert under(soft, hard, sys.executable, "-c", code).stdout == f"({allowed}, {hard})\n"


def test_too_few_open_files_are_refused_before_ray_starts(tmp_path):
    ended = under(64, 64, *TRAIN, str(tmp_path))
    assert ended.returncode == 2, ended.stderr
    assert "needs at least 1,024 open files, got a limit of 64; raise it (ulimit -Hn 4096" in ended.stderr
    assert "starting Ray" not in ended.stdout
