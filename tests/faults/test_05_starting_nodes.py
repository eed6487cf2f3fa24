"""Row 5: a node lost while workers start. The others train, and nothing is charged: here, one failure would be too many

The workers are held where they are to be lost, in a copy of the package, until the node has been killed.
"""

import contextlib
import shutil
from pathlib import Path

import pytest

from tests.cluster.conftest import ROOT, end_session
from tests.cluster.conftest import ray_env as ray_env
from tests.cluster.processes import Training
from tests.faults.test_05_nodes import begun_with, node_of, training_on
from tests.faults.test_05_nodes import small_head as small_head
from tests.training.runs import losses

HOLD = '''

def _hold() -> None:
    """In a worker: says where it is, and waits for leave to continue."""
    import pathlib
    import time

    import ray

    folder = pathlib.Path("FOLDER")
    if pathlib.Path("/proc/self/cmdline").read_text().startswith("ray::RayTrainWorker"):
        (folder / f"held-{ray.get_runtime_context().get_node_id()}").touch()
        while not (folder / "go").exists():
            time.sleep(0.02)


'''
AT_IMPORT = "_hold()\n"
AT_JOINING = """
_joined_group = joined_group


def joined_group():
    _hold()
    return _joined_group()
"""
# Where, in words: the module that a worker loads there, and what it does.
MOMENTS = {
    "Ray sets them up": ("group.py", AT_IMPORT),
    "Ray tells them to train": ("trainer.py", AT_IMPORT),
    "they are about to meet": ("trainer.py", AT_JOINING),
}


def package_held_at(moment: str, folder: Path) -> Path:
    """A folder with the package, whose workers wait there for `folder`/go."""
    name, held = MOMENTS[moment]
    for package in ("volo", "jobs"):
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    with open(folder / "volo" / "cluster" / name, "a") as file:
        file.write(HOLD.replace("FOLDER", str(folder)) + held)
    return folder


def num_held(folder: Path) -> int:
    return len([*folder.glob("held-*")])


def trains_with_one(training: Training) -> None:
    training.until(lambda: begun_with(training, 1), "one worker")
    training.until_step(training.last_step() + 5)
    training.process.terminate()
    assert training.ends_with() == 143
    assert list(losses(training.run_dir)) == list(range(1, training.last_step() + 1))


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS)
def test_with_an_elastic_number_a_node_lost_while_workers_start_leaves_the_others_to_train(
    small_head, tmp_path, moment
):
    package = package_held_at(moment, tmp_path / "package")
    with contextlib.ExitStack() as nodes:
        lost = nodes.enter_context(node_of(small_head))
        with training_on(small_head, tmp_path, "1:2", cwd=package, max_failures=0) as training:
            training.until(lambda: num_held(package) == 2, "two held workers")
            end_session(lost)
            (package / "go").touch()
            trains_with_one(training)
            assert "memory runs out" not in training.output.read_text()
