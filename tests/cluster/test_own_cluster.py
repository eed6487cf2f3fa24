"""The cluster that a command starts for itself: stopped while it starts, or it loses a process. Nothing is left."""

import contextlib
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cluster.processes import Training, long_training, started
from tests.conftest import draw_folder
from tests.training.runs import small_run, train
from volo.cluster.folder import PREFIX
from volo.runs.listing import read_failure

pytestmark = [
    pytest.mark.ray,
    pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads processes from Linux's /proc"),
]

LOST = "(the system kills processes when memory runs out); the same command resumes"


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> Path:
    return long_training(tmp_path_factory.mktemp("own"))


@pytest.fixture
def temporary() -> Iterator[Path]:
    """A folder for temporary files, with a path that is short enough for sockets."""
    folder = Path(tempfile.mkdtemp(prefix="r", dir="/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def launch(ray_env, temporary, tmp_path):
    """Starts a command in a session of its own: `with launch("jobs.train", flag, ...) as training`."""

    @contextlib.contextmanager
    def start(module: str, *flags: str) -> Iterator[Training]:
        command = [sys.executable, "-m", module, *flags, "--address", "local"]
        run_dir = tmp_path / "outputs" / "run"
        with started(command, ray_env | {"TMPDIR": str(temporary)}, run_dir, start_new_session=True) as training:
            try:
                yield training
            finally:
                for pid in session_of(training):
                    os.kill(pid, signal.SIGKILL)

    return start


@pytest.fixture
def launch_training(launch, config, tmp_path):
    flags = ["--config", str(config), "--output-dir", str(tmp_path / "outputs"), "--run-name", "run"]
    return lambda: launch("jobs.train", *flags)


def session_of(training: Training) -> dict[int, str]:
    """The names of the processes that a command has started, and of those that these have."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            before, _, after = (entry / "stat").read_text().rpartition(")")
            state, session = after.split()[0], int(after.split()[3])
            if session == training.process.pid != int(entry.name) and state != "Z":
                found[int(entry.name)] = before.partition("(")[2]
    return found


def pid_of(name: str, training: Training) -> int:
    """0 if there is none yet."""
    return next((pid for pid, found in session_of(training).items() if found.startswith(name)), 0)


def assert_nothing_is_left(training: Training, temporary: Path) -> None:
    """Not at the end, and nothing comes later: no process is left that could make it."""
    assert not session_of(training)
    assert not [path for path in temporary.iterdir() if path.name.startswith((PREFIX, "ray"))]


MOMENTS: dict[str, Callable[[Training, Path], object]] = {
    "its folder": lambda _, temporary: list(temporary.glob(f"{PREFIX}*")),
    "Ray's folder": lambda _, temporary: list(temporary.glob(f"{PREFIX}*/ray")),
    "a session": lambda _, temporary: list(temporary.glob(f"{PREFIX}*/ray/session_*/logs")),
    "gcs_server": lambda training, _: pid_of("gcs_server", training),
    "raylet": lambda training, _: pid_of("raylet", training),
    "a worker": lambda training, _: pid_of("ray::", training),
}
RARE = pytest.mark.slow


@pytest.mark.parametrize(
    ("moment", "number", "to_all"),
    [
        pytest.param("its folder", signal.SIGTERM, False, marks=RARE),
        pytest.param("Ray's folder", signal.SIGTERM, False, marks=RARE),
        pytest.param("a session", signal.SIGINT, False, marks=RARE),
        ("gcs_server", signal.SIGUSR1, True),
        pytest.param("raylet", signal.SIGTERM, False, marks=RARE),
        pytest.param("raylet", signal.SIGTERM, True, marks=RARE),
        pytest.param("a worker", signal.SIGHUP, True, marks=RARE),
    ],
)
def test_a_command_that_is_stopped_while_ray_starts_leaves_nothing(launch_training, temporary, moment, number, to_all):
    with launch_training() as training:
        training.until(lambda: bool(MOMENTS[moment](training, temporary)), moment)
        (os.killpg if to_all else os.kill)(training.process.pid, number)
        assert training.ends_with() == 128 + number, training.output.read_text()
        assert_nothing_is_left(training, temporary)
    said = training.output.read_text()
    was_early = moment == "its folder"  # which is made before Ray begins to start: there may be nothing to stop yet
    assert "stopping Ray, which is still starting" in said or was_early
    assert f"interrupted by {number.name}; the same command resumes" in said
    assert "Traceback" not in said and "StartInterrupted" not in said


@pytest.mark.parametrize(
    "names", [["gcs_server"], *(pytest.param(one, marks=RARE) for one in (["raylet"], ["gcs_server", "raylet"]))]
)
def test_a_training_whose_cluster_loses_a_process_ends_with_code_3(launch_training, temporary, names):
    with launch_training() as training:
        training.until_step(3)
        lose(names, training)
        assert training.ends_with() == 3, training.output.read_text()
        assert_nothing_is_left(training, temporary)
    said = training.output.read_text()
    assert f"training failed: the cluster has lost Ray's {' and '.join(names)} {LOST}" in said
    assert LOST in (read_failure(training.run_dir) or "")
    assert "Traceback" not in said


def lose(names: list[str], training: Training) -> None:
    for pid in [pid_of(name, training) for name in names]:
        os.kill(pid, signal.SIGKILL)


@RARE
def test_a_signal_after_the_loss_ends_a_training_with_the_signals_code(launch_training, temporary):
    with launch_training() as training:
        training.until_step(3)
        lose(["gcs_server"], training)
        training.process.terminate()
        assert training.ends_with() == 128 + signal.SIGTERM, training.output.read_text()
        assert_nothing_is_left(training, temporary)


@RARE
@pytest.mark.parametrize("name", ["gcs_server", "raylet"])
@pytest.mark.parametrize("command", ["predict", "analyze"])
def test_a_prediction_or_an_analysis_whose_cluster_loses_a_process_ends_with_code_3(
    launch, temporary, tmp_path, command, name
):
    classes = {"cat": 40, "dog": 40}
    images = draw_folder(tmp_path / "images", {"train": classes, "test": classes})
    run_dir = train(small_run(tmp_path, images))
    flags = {
        "predict": ["--input", str(images), "--output", str(tmp_path / "predictions.csv")],
        "analyze": ["--output-dir", str(tmp_path / "analysis"), "--no-show"],
    }
    with launch(f"jobs.{command}", "--checkpoint", str(run_dir), *flags[command]) as job:
        job.until(lambda: bool(pid_of("ray::", job)), "a worker, which loads the model")
        lose([name], job)
        assert job.ends_with() == 3, job.output.read_text()
        assert_nothing_is_left(job, temporary)
    said = job.output.read_text()
    assert f"inference failed: the cluster has lost Ray's {name} {LOST}" in said
    assert "Traceback" not in said


@RARE
@pytest.mark.parametrize("name", ["gcs_server", "raylet"])
def test_a_sweep_whose_cluster_loses_a_process_ends_with_code_3(launch, config, temporary, tmp_path, name):
    sweep = ["--space", "optimizer", "--config", str(config), "--num-samples", "2", "--workers-per-trial", "1"]
    with launch("jobs.tune", *sweep, "--output-dir", str(tmp_path / "outputs"), "--sweep-name", "sweep") as job:
        job.until(lambda: any((tmp_path / "outputs").glob("sweep/trials/*/metrics.jsonl")), "a trial")
        lose([name], job)
        assert job.ends_with() == 3, job.output.read_text()
        assert_nothing_is_left(job, temporary)
    said = job.output.read_text()
    assert f"training failed: the cluster has lost Ray's {name} {LOST}" in said
    assert "Traceback" not in said
