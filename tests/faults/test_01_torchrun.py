"""Row 1 under torchrun itself, each time as whole processes: a rank killed, or all of them and torchrun too."""

import contextlib
import os
import signal
import sys
import time
import uuid
from pathlib import Path

import pytest

from tests.cluster.processes import Training, started
from tests.faults.tools.forked import Command
from tests.faults.tools.runs import assert_same, begun_at, draw_images
from tests.limits import LIMIT_S
from tests.ports import free_ports
from tests.training.runs import small_run
from volo.runs import checkpoint

pytestmark = pytest.mark.slow

EPOCHS, EVERY, IN_MID_EPOCH = 20, 5, 20  # steps; an epoch has sixteen


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    return draw_images(tmp_path_factory.mktemp("data"))


def two_ranks(folder: Path, images: Path) -> Command:
    run = dict(num_workers=None, checkpoint_every=EVERY)
    return Command.of(small_run(folder, images, optim=dict(epochs=EPOCHS, batch_size=4), run=run))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, images) -> Path:
    command = two_ranks(tmp_path_factory.mktemp("undisturbed"), images)
    command.finish(num_ranks=2)
    return command.run_dir


def under_torchrun(command: Command, name: str, max_restarts: int):
    """`name` is torchrun's for this start; its ranks have it in their environment."""
    elastic = ["--nproc_per_node=2", f"--master_port={free_ports(1)[0]}", f"--rdzv-id={name}"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", *elastic, f"--max-restarts={max_restarts}"]
    return started([*torchrun, "-m", "jobs.train", "--config", str(command.config)], dict(os.environ), command.run_dir)


def ranks(name: str) -> dict[int, int]:
    """Process ids by rank of what torchrun has started under this name."""
    found = {}
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            lines = (entry / "environ").read_bytes().decode(errors="replace").split("\0")
            environment = dict(line.partition("=")[::2] for line in lines)
            if environment.get("TORCHELASTIC_RUN_ID") == name:
                found[int(environment["RANK"])] = int(entry.name)
    return found


def kill(training: Training, name: str, whom: str) -> None:
    pids = ranks(name)
    assert sorted(pids) == [0, 1]
    if whom == "all":
        training.process.kill()
    for pid in pids.values() if whom == "all" else [pids[1]]:
        os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize(("whom", "max_restarts"), [("a rank", 1), ("a rank", 0), ("all", 0)])
def test_what_is_killed_under_torchrun_in_mid_epoch_ends_with_the_same_weights(
    tmp_path, images, undisturbed, whom, max_restarts
):
    command, name = two_ranks(tmp_path, images), uuid.uuid4().hex
    with under_torchrun(command, name, max_restarts) as training:
        training.until_step(IN_MID_EPOCH)
        training.until_saved(IN_MID_EPOCH - EVERY)
        kill(training, name, whom)
        code = training.ends_with()
    if max_restarts == 0:
        assert code == (-signal.SIGKILL if whom == "all" else 1), training.output.read_text()
        with under_torchrun(command, uuid.uuid4().hex, 0) as training:
            code = training.ends_with()
    said = training.output.read_text()
    assert code == 0, said
    assert begun_at(said[said.index("resuming") :]) >= IN_MID_EPOCH - EVERY
    assert_same(command.run_dir, undisturbed)


def test_the_ranks_of_a_torchrun_that_is_killed_save_and_end(tmp_path, images, undisturbed):
    command, name = two_ranks(tmp_path, images), uuid.uuid4().hex
    with under_torchrun(command, name, 0) as training:
        training.until_step(IN_MID_EPOCH)
        training.process.kill()
        training.ends_with()
        deadline = time.monotonic() + LIMIT_S
        while ranks(name):
            assert time.monotonic() < deadline, training.output.read_text()
            time.sleep(0.02)
    assert "stopped by SIGTERM after saving" in training.output.read_text()
    assert IN_MID_EPOCH <= checkpoint.verify(checkpoint.newest(command.run_dir)).step < EPOCHS * 16
    with under_torchrun(command, uuid.uuid4().hex, 0) as training:
        assert training.ends_with() == 0, training.output.read_text()
    assert_same(command.run_dir, undisturbed)
