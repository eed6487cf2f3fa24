"""What a process may use: open files, whose limit is raised as far as it may be, or the command is refused before Ray
starts; and the cores that Ray shares out on a worker's node."""

import subprocess
import sys

import pytest

ALLOW = "from volo.cluster.limits import allow_open_files; import resource; "
TRAIN = [sys.executable, "-m", "jobs.train", "--model", "quickstart", "--dataset", "imagefolder", "--num-workers", "1"]
ON_A_NODE_OF_ONE_CORE = """
from volo.cluster.connect import connected

def num_threads():
    import torch
    from volo.cluster.workers import heed_node
    from volo.threads import set_threads

    heed_node()
    set_threads(num_local_workers=1)
    return torch.get_num_threads()

with connected(None, num_cpus=1):
    import ray
    print(ray.get(ray.remote(num_threads).remote()), "threads")
"""


def under(soft: int, hard: int, *command: str) -> subprocess.CompletedProcess:
    limited = ["bash", "-c", f'ulimit -Sn {soft}; ulimit -Hn {hard}; exec "$@"', "bash", *command]
    return subprocess.run(limited, capture_output=True, text=True)


@pytest.mark.parametrize(("soft", "hard", "allowed"), [(64, 2048, 2048), (64, 8192, 4096), (8192, 8192, 8192)])
def test_as_many_open_files_as_may_be_are_allowed(soft, hard, allowed):
    code = ALLOW + "allow_open_files(); print(resource.getrlimit(resource.RLIMIT_NOFILE))"
    assert under(soft, hard, sys.executable, "-c", code).stdout == f"({allowed}, {hard})\n"


def test_too_few_open_files_are_refused_before_ray_starts(tmp_path, folder):
    ended = under(64, 64, *TRAIN, "--data-dir", str(folder), "--batch-size", "8", "--output-dir", str(tmp_path))
    assert ended.returncode == 2, ended.stderr
    assert "needs at least 1,024 open files, got a limit of 64; raise it (ulimit -Hn 4096" in ended.stderr
    assert "starting Ray" not in ended.stdout


@pytest.mark.ray
@pytest.mark.slow
def test_a_worker_starts_no_more_threads_than_ray_shares_out_on_its_node(ray_env):
    """Here the node has one core, of all that the machine has."""
    command = [sys.executable, "-c", ON_A_NODE_OF_ONE_CORE]
    done = subprocess.run(command, env=ray_env, capture_output=True, text=True)
    assert done.stdout.endswith("1 threads\n"), done.stdout + done.stderr
