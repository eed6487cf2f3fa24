"""Sweeps on a cluster whose nodes come when they are asked for: here a head without cores, and Ray's own autoscaler."""

import subprocess
from collections.abc import Iterator

import pytest
import torch

from tests.cluster.conftest import ROOT, Head, started_head
from tests.limits import LIMIT_S
from tests.tuning.test_sweeps import all_epochs, command, finished, trials_of
from tests.tuning.test_sweeps import config as config

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture
def growing_head(ray_env) -> Iterator[Head]:
    with started_head(ray_env, num_cpus=0, worker={"CPU": 1, "GPU": 1}) as head:
        yield head


def test_trials_wait_for_nodes_that_are_not_there_yet_and_run_when_they_come(config, growing_head):
    flags = ("--num-samples", "2", "--max-concurrent", "2", "--pruner", "none", "--device", "cpu")
    printed = finished(config, growing_head, "growing", *flags, code=3)
    said = "waiting for the cluster to grow: needed 2 cores for 2 trials at a time, it has 0 cores and 0 GPUs on 1 node"
    assert said in printed.splitlines()
    sweep_dir = config.parent / "outputs" / "growing"
    assert [trials_of(sweep_dir)[number]["state"] for number in (0, 1)] == ["complete", "fail"]
    assert all_epochs(sweep_dir)["0000"] == [1, 2, 3]
    assert "must stay finite" in trials_of(sweep_dir)[1]["reason"]


def test_the_workers_of_a_trial_wait_for_nodes_too(config, growing_head):
    flags = ("--num-samples", "1", "--max-concurrent", "1", "--workers-per-trial", "2", "--device", "cpu")
    printed = finished(config, growing_head, "growing-two", *flags)
    assert "waiting for the cluster to grow: needed 2 cores for a trial, it has 0 cores and 0 GPUs on 1 node" in printed
    assert all_epochs(config.parent / "outputs" / "growing-two")["0000"] == [1, 2, 3]


def test_with_device_cuda_a_head_without_a_gpu_gets_a_node_with_one(config, growing_head):
    """On a machine that has none in fact, the trial starts and fails for want of it."""
    is_true = torch.cuda.is_available()
    flags = ("--num-samples", "1", "--device", "cuda")
    printed = finished(config, growing_head, "growing-gpu", *flags, code=0 if is_true else 3)
    said = "waiting for the cluster to grow: needed 1 core and 1 GPU for a trial, it has 0 cores and 0 GPUs on 1 node; "
    assert said in printed
    [trial] = trials_of(config.parent / "outputs" / "growing-gpu").values()
    assert trial["state"] == ("complete" if is_true else "fail")
    assert is_true or "NVIDIA" in trial["reason"] or "CUDA" in trial["reason"]


def test_a_cluster_that_the_command_starts_cannot_grow_and_is_not_waited_for(config, ray_env):
    here = Head("local", "", 0, ray_env)
    done = subprocess.run(
        command(config, here, "here", "--max-concurrent", "99"),
        env=ray_env, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT_S,
    )  # fmt: skip
    assert done.returncode == 2, done.stdout + done.stderr
    assert "trials at a time must fit into the cluster, got --max-concurrent 99 of 1 cores" in done.stderr
    assert not [*(config.parent / "outputs" / "here").glob("trials/*")]
