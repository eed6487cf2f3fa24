"""Clusters of two real nodes: what `volo doctor` says of them, and trainings whose nodes have the data elsewhere."""

import contextlib
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.test_doctor import table
from tests.cluster.conftest import ROOT, Head, started_head
from tests.cluster.conftest import ray_env as ray_env
from tests.conftest import draw_folder
from tests.faults.test_05_nodes import node_of
from tests.limits import LIMIT_S
from tests.training.runs import same, small_run, weights
from volo.settings.ray_job import IN_JOB

pytestmark = [pytest.mark.ray, pytest.mark.slow]

NO_INTERFACE = "nosuch0"


@contextlib.contextmanager
def two_nodes(env: dict[str, str], **other: str) -> Iterator[tuple[Head, str]]:
    """A head with a core, and how a second node is named that has this added to its environment."""
    with started_head(env, num_cpus=1) as head, node_of(head, **other) as node:
        yield head, f"127.0.0.1 (node {node.node_id[:8]})"


@pytest.fixture
def images(tmp_path) -> Path:
    """An image folder, and beside it an equal one named `copy`."""
    draw_folder(tmp_path / "images", {"train": {"cat": 40, "dog": 40}})
    shutil.copytree(tmp_path / "images", tmp_path / "copy", copy_function=shutil.copyfile)
    return tmp_path / "images"


def command(job: str, head: Head, images: Path, *flags: str) -> list[str]:
    values = small_run(images.parent, images, optim=dict(use_amp=False)).to_dict()
    values["run"] |= {"num_workers": 2, "address": head.address}
    config = images.parent / "config.json"  # JSON is YAML
    config.write_text(json.dumps(values))
    return [sys.executable, "-m", "volo", job, "--config", str(config), *flags]


def finished(args: list[str], env: dict[str, str], cwd: Path = ROOT) -> subprocess.CompletedProcess:
    return subprocess.run(args, cwd=cwd, env=env, capture_output=True, text=True, timeout=LIMIT_S)


def diagnosed(head: Head, images: Path, env: dict[str, str] | None = None, cwd: Path = ROOT):
    """The exit code, and status and text by check."""
    done = finished(command("doctor", head, images), env or head.env, cwd)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, table(done.stdout)


def lacking(images: Path) -> Path:
    (images.with_name("copy") / "train" / "dog" / "0004.png").unlink()
    return images.with_name("copy")


def test_two_nodes_that_are_alike_pass_with_the_data_in_different_places(ray_env, images):
    copy = images.with_name("copy")
    with two_nodes(ray_env, VOLO_DATA_DIR=str(copy)) as (head, other):
        code, found = diagnosed(head, images)
    assert code == 0, found
    assert {found[name][0] for name in ("node versions", "node data", "clocks", "network", "caches")} == {"ok"}
    assert found["node data"][1].startswith("the same on 2 nodes: 80 images of 2 classes (64 to train on, 16 to")
    assert found["node data"][1].endswith(f"in {copy} on {other}")
    assert found["network"][1].startswith("workers on 2 nodes sum over gloo: 127.0.0.1 (node ")
    assert f"{other} at lo" in found["network"][1]


def test_a_node_whose_data_differ_and_whose_interface_does_not_exist_is_named_for_both(ray_env, images):
    copy = lacking(images)
    with two_nodes(ray_env, VOLO_DATA_DIR=str(copy), GLOO_SOCKET_IFNAME=NO_INTERFACE) as (head, other):
        code, found = diagnosed(head, images)
    assert code == 6
    status, said = found["node data"]
    assert status == "failure"
    assert said.startswith(f"{other} has 79 images of 2 classes") and f" in {copy} where this machine has 80" in said
    assert "they differ in images and split: 1 only here (train/dog/0004.png); make the folders the same" in said
    status, said = found["network"]
    assert status == "failure"
    assert f"{other} cannot sum over gloo: {other} says " in said or f" and {other} cannot sum over gloo" in said
    assert NO_INTERFACE in said and "GLOO_SOCKET_IFNAME to the interface of their common network" in said


def test_of_three_nodes_the_pairs_with_the_unreachable_one_are_named(ray_env, images):
    with two_nodes(ray_env) as (head, good), node_of(head, GLOO_SOCKET_IFNAME=NO_INTERFACE) as node:
        code, found = diagnosed(head, images)
    bad = f"127.0.0.1 (node {node.node_id[:8]})"
    status, said = found["network"]
    assert (code, status) == (6, "failure")
    pairs = said.removeprefix("cannot sum over gloo: ").partition("; let the nodes")[0].split("), ")
    assert len(pairs) == 2 and all(bad in pair.partition(" says ")[0] for pair in pairs), said
    assert sum(good in pair.partition(" says ")[0] for pair in pairs) == 1


def test_a_node_of_another_version_of_the_code_is_named(ray_env, images, tmp_path):
    """As a Ray job without a working directory, which runs what is installed on each node."""
    shutil.copytree(ROOT / "volo", tmp_path / "older" / "volo", ignore=shutil.ignore_patterns("__pycache__"))
    with open(tmp_path / "older" / "volo" / "hosts.py", "a") as file:
        file.write("# a line more\n")
    env = ray_env | {"PYTHONPATH": str(ROOT)}
    (tmp_path / "here").mkdir()
    with two_nodes(env, PYTHONPATH=str(tmp_path / "older")) as (head, other):
        code, found = diagnosed(head, images, head.env | {IN_JOB: "{}"}, tmp_path / "here")
    status, said = found["node versions"]
    assert (code, status) == (6, "failure")
    assert said.startswith(f"{other} has volo 0.1.0 of sources ")
    assert "where this machine has 0.1.0 of sources " in said and "install the same versions" in said


def test_a_node_that_has_the_data_elsewhere_trains_to_the_same_weights(ray_env, images):
    """The second time, the folder that the settings name is not on the second node: it is known by its copy alone."""
    with two_nodes(ray_env) as (head, _):
        done = finished(command("train", head, images, "--run-name", "together"), head.env)
        assert done.returncode == 0, done.stdout + done.stderr
    with two_nodes(ray_env, VOLO_DATA_DIR=str(images.with_name("copy"))) as (head, _):
        done = finished(command("train", head, images, "--run-name", "apart"), head.env)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "2 workers on cpu, 1 threads each" in done.stdout  # of a node that shares out one core
    outputs = images.parent / "outputs"
    assert same(weights(outputs / "together"), weights(outputs / "apart"))
    assert str(images) in (outputs / "apart" / "config.yaml").read_text()
    assert str(images.with_name("copy")) not in (outputs / "apart" / "config.yaml").read_text()


def test_a_run_whose_node_has_other_data_than_the_driver_is_refused_before_the_first_step(ray_env, images):
    """With one worker, on a node other than the driver's: no other rank could tell."""
    copy = lacking(images)
    with started_head(ray_env, num_cpus=0) as head, node_of(head, VOLO_DATA_DIR=str(copy)):
        done = finished(command("train", head, images, "--num-workers", "1"), head.env)
    assert done.returncode == 2, done.stdout + done.stderr
    said = done.stdout + done.stderr
    assert "all ranks must have the same data, got 80 images of 2 classes" in said
    assert f"in {copy} on rank 0. They differ in images and split" in said
    assert "1 only where it was started (train/dog/0004.png); make the folders the same on all nodes" in said
    assert "Traceback" not in said
    assert not list(images.parent.rglob("step_*"))
