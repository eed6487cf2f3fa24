"""Row 1 and 2 of the fault table on Ray: a killed run resumes to the weights of an undisturbed one, bit for bit."""

import os
import shutil
import signal
import sys
from pathlib import Path

import pytest

from tests.cluster.processes import started, submitted
from tests.faults.tools.forked import Command
from tests.faults.tools.runs import assert_same, begun_at, draw_images
from tests.training.runs import small_run
from volo.allocator import variables
from volo.data.packed.packing import pack
from volo.settings.config import merge

pytestmark = pytest.mark.ray

EVERY, IN_MID_EPOCH = 5, 20  # steps between checkpoints; an epoch has sixteen
RUN = dict(num_workers=None, checkpoint_every=EVERY)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return draw_images(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, images):
    """The run of two ranks, which are the same whoever starts them."""
    command = two_ranks(tmp_path_factory.mktemp("undisturbed"), images)
    command.finish(num_ranks=2)
    return command.run_dir


def two_ranks(folder, images, **overrides) -> Command:
    optim = dict(epochs=5, batch_size=4, use_amp=False)
    return Command.of(small_run(folder, images, **merge(dict(optim=optim, run=RUN), overrides)))


def job(command: Command) -> list[str]:
    return ["-m", "jobs.train", "--config", str(command.config), "--num-workers", "2"]


def on_ray(command: Command, head):
    return started([sys.executable, *job(command), "--address", head.address], head.env, command.run_dir)


def keeps_memory(worker: int) -> bool:
    given = Path(f"/proc/{worker}/environ").read_bytes().split(b"\0")
    return all(f"{name}={value}".encode() in given for name, value in variables().items())


def test_a_worker_of_a_submitted_job_killed_in_mid_epoch_costs_the_steps_since_the_last_checkpoint_alone(
    head, tmp_path, images, undisturbed
):
    command = two_ranks(tmp_path, images)
    with started(submitted(head, *job(command)), head.env, command.run_dir) as training:
        training.until_step(IN_MID_EPOCH)
        training.until_saved(IN_MID_EPOCH - EVERY)
        assert keeps_memory(training.pid_of(0)) and keeps_memory(training.pid_of(1))
        training.kill_worker(rank=1)
        assert training.ends_with() == 0, training.output.read_text()
    said = training.output.read_text().partition("starting again from the newest checkpoint, 1 of 3 times")[2]
    assert begun_at(said) >= IN_MID_EPOCH - EVERY
    assert_same(command.run_dir, undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("state", ["truncated", "removed"])
def test_a_driver_killed_on_ray_in_mid_epoch_goes_on_by_the_same_command_without_rays_state(
    head, tmp_path, images, undisturbed, state
):
    command = two_ranks(tmp_path, images)
    with on_ray(command, head) as training:
        training.until_step(IN_MID_EPOCH)
        training.until_saved(IN_MID_EPOCH - EVERY)
        training.process.kill()
        assert training.ends_with() == -signal.SIGKILL
    if state == "removed":
        shutil.rmtree(command.run_dir / ".ray")
    else:
        for path in (command.run_dir / ".ray").rglob("*"):
            if path.is_file():
                os.truncate(path, path.stat().st_size // 2)

    with on_ray(command, head) as training:
        assert training.ends_with() == 0, training.output.read_text()
    assert begun_at(training.output.read_text()) >= IN_MID_EPOCH - EVERY
    assert_same(command.run_dir, undisturbed)


@pytest.mark.slow
def test_packed_images_cut_anew_by_readers_give_the_weights_of_their_folder_though_a_worker_on_ray_is_killed(
    head, tmp_path, images
):
    """Two ranks of torchrun read the folder themselves; two workers on Ray have two processes each that read shards."""
    cut = dict(augment=dict(crop_area=(0.3, 1.0)))
    whole = two_ranks(tmp_path / "whole", images, run=dict(num_readers=0), **cut)
    whole.finish(num_ranks=2)
    pack(images, tmp_path / "packed", 20_000)
    command = two_ranks(tmp_path / "packed-run", tmp_path / "packed", run=dict(num_readers=2), **cut)
    with on_ray(command, head) as training:
        training.until_step(IN_MID_EPOCH)
        training.until_saved(IN_MID_EPOCH - EVERY)
        training.kill_worker(rank=1)
        assert training.ends_with() == 0, training.output.read_text()
    assert "starting again from the newest checkpoint, 1 of 3 times" in training.output.read_text()
    assert_same(command.run_dir, whole.run_dir)
