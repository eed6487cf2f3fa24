"""Workers that are killed, code that fails, signals: what a training on Ray does about it, and what it says."""

import os
import platform
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest

from tests.cluster.conftest import ROOT
from tests.cluster.processes import long_training, started
from tests.faults.tools.processes import children_of
from tests.limits import LIMIT_S
from tests.training.runs import losses
from volo.runs import checkpoint

pytestmark = pytest.mark.ray

HOST = platform.node()
BUG = """
_update = Learner.update


def _faulty(self, *args):
    if self.step == 5 and self.world.rank == 1:
        raise KeyError("colour")
    return _update(self, *args)


Learner.update = _faulty
"""


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> Path:
    return long_training(tmp_path_factory.mktemp("failures"))


@pytest.fixture
def launch(config, head):
    """Starts a training of two workers: `with launch(name, flag, ...) as training`."""

    def start(name: str, *flags: str, cwd: Path = ROOT):
        command = [sys.executable, "-m", "jobs.train", "--config", str(config), "--run-name", name]
        command += ["--num-workers", "2", "--address", head.address, *flags]
        return started(command, head.env, config.parent / "outputs" / name, cwd)

    return start


@pytest.mark.slow
def test_a_killed_worker_is_started_again_and_one_too_many_ends_with_code_4(launch):
    with launch("killed", "--max-failures", "1") as training:
        training.until_step(6)
        first = training.kill_worker(rank=1)
        before = training.last_step()
        training.until(lambda: training.pid_of(1) not in (0, first), "a new worker")
        training.until_step(before + 1)
        training.kill_worker(rank=1)
        assert training.ends_with() == 4
        said = training.output.read_text()
    assert said.count(f"worker 1 of 2 on {HOST} was lost: ") == 2
    assert "starting again from the newest checkpoint, 1 of 1 times" in said
    assert "gave up after --max-failures 1; the same command resumes" in said
    assert "the system kills processes when memory runs out" in said
    assert said.count("\n  log: ") == 2
    assert "Traceback" not in said and "raylet" not in said


@pytest.mark.slow
def test_an_error_that_comes_twice_at_the_same_step_ends_with_code_3_and_names_the_line(launch, tmp_path):
    for package in ("volo", "jobs"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    with open(tmp_path / "volo" / "training" / "learner.py", "a") as file:
        file.write(BUG)
    with launch("faulty", cwd=tmp_path) as training:
        assert training.ends_with() == 3
        said = training.output.read_text()
    assert f"training failed: worker 1 of 2 on {HOST} raised KeyError: 'colour'" in said
    assert "learner.py:" in said and " in _faulty" in said
    assert "it came twice in a row at the same step" in said
    assert said.count("starting again from the newest checkpoint") == 1
    assert "Traceback" not in said
    log = Path(said.partition("\n  log: ")[2].splitlines()[0])
    assert "KeyError: 'colour'" in log.read_text()


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_to_the_driver_ends_every_rank_at_one_step_which_is_saved(launch, number, code):
    with launch(f"signalled-{code}") as training:
        training.until_step(6)
        training.process.send_signal(number)
        assert training.ends_with() == code
        last = training.last_step()
    assert checkpoint.verify(checkpoint.newest(training.run_dir)).step == last < 8000
    assert "the same command resumes" in training.output.read_text()


def driver(config: Path, env: dict[str, str], name: str, *flags: str):
    command = [sys.executable, "-m", "jobs.train", "--config", str(config), "--run-name", name, *flags]
    return started(command, env, config.parent / "outputs" / name, ROOT)


def family(pid: int) -> list[int]:
    """A process and all that descend from it."""
    found = [pid]
    for one in found:  # grows while it is read
        found += children_of(one)
    return found


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, *(pytest.param(one, marks=pytest.mark.slow) for one in (signal.SIGHUP, signal.SIGUSR1))]
)
def test_a_signal_to_every_process_of_a_run_saves_and_leaves_none(config, ray_env, number):
    with driver(config, ray_env, f"all-{number}", "--num-workers", "2", "--address", "local") as training:
        training.until_step(6)
        pids = family(training.process.pid)
        assert len(pids) > 5  # Ray's own and the workers
        for pid in pids:
            os.kill(pid, number)
        assert training.ends_with() == 128 + number, training.output.read_text()
        said, last = training.output.read_text(), training.last_step()
    assert checkpoint.verify(checkpoint.newest(training.run_dir)).step == last < 8000
    assert f"{number.name}: asking the workers to save" in said
    assert f"stopped by {number.name} after saving; the same command resumes" in said
    assert "Traceback" not in said
    assert_gone(pids)


def assert_gone(pids: list[int]) -> None:
    """Killed processes need a moment to go."""
    deadline = time.monotonic() + LIMIT_S
    while left := [pid for pid in pids if is_running(pid)]:
        assert time.monotonic() < deadline, left
        time.sleep(0.02)


def is_running(pid: int) -> bool:
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.slow
def test_on_a_busy_cluster_a_run_says_what_it_waits_for_and_a_signal_ends_it(config, head):
    with driver(config, head.env, "busy", "--num-workers", "3", "--address", head.address) as first:
        first.until_step(1)
        with driver(config, head.env, "waiting", "--num-workers", "2", "--address", head.address) as second:
            said = "waiting for 2 CPU workers to start: needed 2 cores, free 0 cores of 3 cores"
            second.until(lambda: said in second.output.read_text(), said)
            second.process.send_signal(signal.SIGTERM)
            assert second.ends_with() == 128 + signal.SIGTERM
        assert "stopped by SIGTERM while no worker trained" in second.output.read_text()
        assert first.process.poll() is None


@pytest.mark.slow
def test_a_killed_controller_ends_the_driver_and_the_same_command_goes_on(launch, head):
    with launch("leaderless") as training:
        training.until_step(6)
        [controller] = pids_of("ray::TrainController", head.session)
        os.kill(controller, signal.SIGKILL)
        assert training.ends_with() == 3
        assert "Ray's controller was lost" in training.output.read_text()
    saved = checkpoint.verify(checkpoint.newest(training.run_dir)).step
    with launch("leaderless", "--max-steps", str(saved + 3)) as training:
        assert training.ends_with() == 0
        assert f"resuming at step {saved}" in training.output.read_text()
    assert list(losses(training.run_dir)) == list(range(1, saved + 4))


def pids_of(title: str, session: int) -> list[int]:
    """Processes of a session by how they call themselves."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                named = (entry / "cmdline").read_bytes().decode(errors="replace")
                if named.startswith(title) and os.getsid(int(entry.name)) == session:
                    found.append(int(entry.name))
            except OSError:
                continue
    return found
