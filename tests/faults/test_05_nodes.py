"""Row 5: a node lost, the number of workers changed. Training continues, and no sample of the epoch is lost or repeated

Nodes are processes with a core each: killed with all that runs on them, as where the power fails.
"""

import contextlib
import json
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import ray.train
import torch

from tests.cluster.conftest import ROOT, Head, end_session, started_head
from tests.cluster.conftest import ray_env as ray_env
from tests.cluster.metadata import metadata_service
from tests.cluster.processes import Training, started
from tests.conftest import draw_folder
from tests.limits import LIMIT_S
from tests.training.runs import losses, small_run
from volo.cluster.metadata import ENDPOINT_VARIABLE
from volo.data.decoded.cache import Images
from volo.data.pipeline import Pixels, TrainingBatches
from volo.runs import checkpoint
from volo.runs.records import read_records
from volo.settings.augment import AugmentSettings

NUM_IMAGES, BATCH_SIZE = 131, 17
SPACE = """
METRIC, MODE = "val/acc1", "max"
def space(trial):
    return {"optim": {"lr": trial.suggest_float("lr", 1e-3, 4e-3)}}
"""


def batches(rank: int, world_size: int) -> TrainingBatches:
    """Of images that each have a colour of their own, which nothing changes: an image can be told in a batch."""
    images = np.zeros((NUM_IMAGES, 4, 4, 3), np.uint8)
    images[:] = np.arange(NUM_IMAGES)[:, None, None, None]
    data = Images(images, np.zeros(NUM_IMAGES, np.int64), ("one",))
    pixels = Pixels(data, (0.0,) * 3, (1 / 255,) * 3, torch.device("cpu"))
    augment = AugmentSettings(hflip=0.0, crop_padding=0).resolved(4)
    return TrainingBatches(
        data, np.arange(NUM_IMAGES), pixels, augment,
        batch_size=BATCH_SIZE, seed=0, epochs=4, rank=rank, world_size=world_size,
    )  # fmt: skip


def seen(step: int, world_size: int) -> list[int]:
    """The images of one step of an epoch, over all workers."""
    parts = [batches(rank, world_size).batch(epoch=3, step=step).images for rank in range(world_size)]
    return torch.cat(parts)[:, 0, 0, 0].round().int().tolist()


def test_an_epoch_begun_by_two_workers_and_ended_by_any_number_sees_the_same_images_each_once():
    num_steps = NUM_IMAGES // BATCH_SIZE
    whole = [seen(step, world_size=1) for step in range(num_steps)]
    for after in (1, 3):
        changing = [seen(step, world_size=2 if step < 3 else after) for step in range(num_steps)]
        assert changing == whole
    flat = [image for step in whole for image in step]
    assert len(flat) == len({*flat}) == num_steps * BATCH_SIZE


# As ray.cluster_utils.Cluster.add_node, in a process of its own: `ray start` takes no second node on loopback.
NODE = """
import signal, sys
from ray._private.node import Node
from ray._private.parameter import RayParams

ports = dict(min_worker_port=0, max_worker_port=0, node_manager_port=0, dashboard_agent_listen_port=None)
params = RayParams(gcs_address=sys.argv[1], node_ip_address="127.0.0.1", num_cpus=1, num_gpus=0, **ports)
params.update(object_store_memory=150 * 1024**2, include_log_monitor=False)
Node(params, head=False, shutdown_at_exit=False, spawn_reaper=False)
print("started", flush=True)
signal.pause()
"""


@pytest.fixture
def small_head(ray_env) -> Iterator[Head]:
    with started_head(ray_env, num_cpus=1) as head:
        yield head


@contextlib.contextmanager
def node_of(head: Head, **environment: str) -> Iterator[subprocess.Popen]:
    """One more node with a core, and with this added to its environment."""
    command, name = [sys.executable, "-c", NODE, head.address], secrets.token_hex(28)
    env = head.env | {"RAY_OVERRIDE_NODE_ID_FOR_TESTING": name} | environment
    process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True, start_new_session=True)
    process.node_id = name
    try:
        assert process.stdout.readline() == "started\n"
        yield process
    finally:
        end_session(process)


@contextlib.contextmanager
def training_on(head: Head, folder: Path, num_workers: str, cwd: Path = ROOT, **run) -> Iterator[Training]:
    """Longer than any test lets it run; a checkpoint every four steps."""
    images = draw_folder(folder / "images", {"train": {"cat": 40, "dog": 40}})
    values = small_run(folder, images, optim=dict(epochs=2000, use_amp=False)).to_dict()
    values["run"] |= {"num_workers": num_workers, "address": head.address} | run
    (folder / "config.json").write_text(json.dumps(values))  # JSON is YAML
    command = [sys.executable, "-m", "jobs.train", "--config", str(folder / "config.json")]
    with started(command, head.env, folder / "outputs" / "run", cwd) as training:
        yield training


def begun_with(training: Training, num_workers: int) -> bool:
    return f"; {num_workers} worker" in training.output.read_text().rpartition("M parameters")[2]


def resumed_at(training: Training) -> int:
    return int(training.output.read_text().rpartition("resuming at step ")[2].split()[0].replace(",", ""))


def lose(node: subprocess.Popen, training: Training) -> int:
    """Kills all processes of a node in mid-epoch; returns the step of the newest checkpoint then."""
    training.until_saved(4)
    training.until(lambda: training.last_step() % 4 in (1, 2), "the midst of an epoch")
    end_session(node)
    return checkpoint.verify(checkpoint.newest(training.run_dir)).step


@pytest.mark.ray
@pytest.mark.slow
def test_with_an_elastic_number_training_goes_on_with_the_nodes_left_and_takes_a_new_one(small_head, tmp_path):
    with contextlib.ExitStack() as nodes:
        first = nodes.enter_context(node_of(small_head))
        with training_on(small_head, tmp_path, "1:2") as training:
            training.until(lambda: begun_with(training, 2), "two workers")
            saved = lose(first, training)
            training.until(lambda: begun_with(training, 1), "one worker")
            assert resumed_at(training) >= saved
            training.until_step(training.last_step() + 5)
            nodes.enter_context(node_of(small_head))
            training.until(lambda: begun_with(training, 2), "two workers again")
            training.until_step(training.last_step() + 5)
            training.process.terminate()
            assert training.ends_with() == 143
            assert list(losses(training.run_dir)) == list(range(1, training.last_step() + 1))
            said = training.output.read_text()
            assert "was lost: its node is gone; starting again" in said and "1 of 3 times" in said
            assert "memory runs out" not in said


@pytest.mark.ray
@pytest.mark.slow
def test_with_a_fixed_number_training_waits_for_the_node_that_replaces_a_lost_one(small_head, tmp_path):
    with contextlib.ExitStack() as nodes:
        first = nodes.enter_context(node_of(small_head))
        with training_on(small_head, tmp_path, "2") as training:
            saved = lose(first, training)
            nodes.enter_context(node_of(small_head))
            training.until(lambda: "resuming at step" in training.output.read_text(), "a new start")
            assert resumed_at(training) >= saved
            training.until_step(training.last_step() + 5)
            training.process.terminate()
            assert training.ends_with() == 143
            assert list(losses(training.run_dir)) == list(range(1, training.last_step() + 1))
            assert " was lost: its node is gone" in training.output.read_text()


def drain(head: Head, node_id: str, seconds: int) -> None:
    """As a daemon on a spot machine does that has been told when the machine will be taken away."""
    command = [
        str(Path(sys.executable).with_name("ray")), "drain-node", "--address", head.address, "--node-id", node_id,
        "--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot", "--deadline-remaining-seconds",
        str(seconds),
    ]  # fmt: skip
    subprocess.run(command, env=head.env, check=True, capture_output=True)


@contextlib.contextmanager
def told_by_hand(head: Head, node_id: str) -> Iterator[Callable[[int], None]]:
    yield partial(drain, head, node_id)


@contextlib.contextmanager
def told_by_aws(head: Head, node_id: str) -> Iterator[Callable[[int], None]]:
    """By the notice of a metadata service, which `volo spot` passes on."""
    command = [sys.executable, "-m", "volo", "spot", "--address", head.address, "--node-id", node_id]
    with metadata_service() as aws:
        aws.slow_s = 3600
        env = head.env | {ENDPOINT_VARIABLE: aws.url}
        daemon = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True, start_new_session=True)
        try:
            assert daemon.stdout.readline() == f"watching for the end of this machine, to drain node {node_id}\n"
            yield partial(aws.announce, "terminate")
            assert daemon.wait(timeout=LIMIT_S) == 0
            said = daemon.stdout.read()
            assert said.startswith("AWS will terminate this machine in ")
            assert said.endswith(f" s\nRay drains node {node_id}\n")
        finally:
            end_session(daemon)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.skipif(not hasattr(ray.train, "get_preemption_info"), reason="Ray gives notices from 2.60 on")
@pytest.mark.parametrize(("telling", "seconds"), [(told_by_hand, 20), (told_by_aws, 60)])
def test_a_notice_that_a_node_will_be_taken_away_has_the_run_save_within_the_deadline_and_is_no_failure(
    small_head, tmp_path, telling, seconds
):
    """With --max-failures 0 a single failure that counts would end the training."""
    with contextlib.ExitStack() as nodes:
        taken = nodes.enter_context(node_of(small_head))
        tell = nodes.enter_context(telling(small_head, taken.node_id))
        with training_on(small_head, tmp_path, "1:2", max_failures=0, checkpoint_every=10_000) as training:
            training.until(lambda: begun_with(training, 2), "two workers")
            training.until_step(6)
            tell(seconds)
            training.until(lambda: "will be taken away in " in training.output.read_text(), "the notice")
            left = int(training.output.read_text().rpartition("will be taken away in ")[2].split()[0])
            assert 0 <= left <= seconds
            noticed = training.last_step()
            training.until_saved(noticed)
            training.until(lambda: begun_with(training, 1), "one worker")
            end_session(taken)
            assert resumed_at(training) >= noticed
            training.until_step(training.last_step() + 5)
            training.process.terminate()
            assert training.ends_with() == 143
            said = training.output.read_text()
            assert "of 0 times" not in said and "saving now" in said
            assert list(losses(training.run_dir)) == list(range(1, training.last_step() + 1))


@pytest.mark.ray
@pytest.mark.slow
def test_a_trial_of_a_sweep_that_is_lost_with_its_node_resumes_on_another(small_head, tmp_path):
    images = draw_folder(tmp_path / "images", {"train": {"cat": 40, "dog": 40}})
    values = small_run(tmp_path, images, optim=dict(epochs=60, use_amp=False)).to_dict()
    values["run"] |= {"num_workers": None, "run_name": None}
    (tmp_path / "config.json").write_text(json.dumps(values))
    (tmp_path / "rates.py").write_text(SPACE)
    command = [sys.executable, "-m", "jobs.tune", "--space", str(tmp_path / "rates.py"), "--config"]
    command += [str(tmp_path / "config.json"), "--sweep-name", "sweep", "--address", small_head.address]
    command += ["--num-samples", "2", "--max-concurrent", "2", "--pruner", "none"]
    sweep_dir = tmp_path / "outputs" / "sweep"
    trials = [sweep_dir / "trials" / name for name in ("0000", "0001")]
    with node_of(small_head) as node, started(command, small_head.env, sweep_dir) as driven:
        driven.until(lambda: all(checkpoint.newest(trial) for trial in trials), "a checkpoint of both trials")
        end_session(node)
        driven.until(lambda: "was lost with its node; starting again" in driven.output.read_text(), "the loss")
        assert driven.ends_with() == 0
    for trial in trials:
        epochs = [record["epoch"] for record in read_records(trial) if record["kind"] == "epoch"]
        assert epochs == list(range(1, 61))
    assert driven.output.read_text().count(" complete after 60 epochs") == 2


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.skipif(not hasattr(ray.train, "get_preemption_info"), reason="Ray gives notices from 2.60 on")
def test_a_node_that_goes_before_its_announced_end_is_no_failure_either(small_head, tmp_path):
    """Nor does the other worker wait for the deadline, ten minutes later."""
    with contextlib.ExitStack() as nodes:
        taken = nodes.enter_context(node_of(small_head))
        with training_on(small_head, tmp_path, "1:2", max_failures=0, checkpoint_every=10_000) as training:
            training.until(lambda: begun_with(training, 2), "two workers")
            training.until_step(6)
            drain(small_head, taken.node_id, 600)
            training.until(lambda: "will be taken away in " in training.output.read_text(), "the notice")
            noticed = training.last_step()
            training.until_saved(noticed)
            end_session(taken)
            training.until(lambda: begun_with(training, 1), "one worker")
            assert resumed_at(training) >= noticed
            training.until_step(training.last_step() + 5)
            training.process.terminate()
            assert training.ends_with() == 143
            assert "which costs no --max-failures" in training.output.read_text()
            assert list(losses(training.run_dir)) == list(range(1, training.last_step() + 1))
