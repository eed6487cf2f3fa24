"""Sweep, winner, analysis as one command on a Ray cluster: submitted as a job, and killed at each stage."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cluster.conftest import ROOT, Head
from tests.cluster.processes import started, submitted
from tests.conftest import draw_folder
from tests.limits import LIMIT_S
from tests.training.runs import small_run
from tests.tuning.test_sweeps import all_epochs, num_created
from volo.runs.records import read_records

pytestmark = [pytest.mark.ray, pytest.mark.slow]
SPACE = """
METRIC, MODE = "val/acc1", "max"
def space(trial):
    return {"optim": {"lr": trial.suggest_float("lr", 1e-3, 4e-3)}}
"""


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> Path:
    """Two epochs of four steps, with ten images of each class to analyze."""
    folder = tmp_path_factory.mktemp("pipeline")
    images = draw_folder(folder / "images", {"train": {"cat": 40, "dog": 40}, "test": {"cat": 10, "dog": 10}})
    values = small_run(folder, images, optim=dict(epochs=2)).to_dict()
    values["run"] |= {"num_workers": None, "run_name": None}
    (folder / "config.json").write_text(json.dumps(values))  # JSON is YAML
    (folder / "rates.py").write_text(SPACE)
    return folder / "config.json"


def job(config: Path, name: str) -> list[str]:
    space = ["--space", str(config.parent / "rates.py"), "--config", str(config), "--sweep-name", name]
    return ["-m", "jobs.pipeline", *space, "--num-samples", "2", "--pruner", "none", "--no-show"]


def finished(command: list[str], head: Head) -> str:
    done = subprocess.run(command, env=head.env, cwd=ROOT, capture_output=True, text=True, timeout=2 * LIMIT_S)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def killed_when(is_time: Callable[[], bool], command: list[str], head: Head, sweep_dir: Path) -> None:
    """Starts a command and kills it with -9 as soon as `is_time`."""
    with started(command, head.env, sweep_dir) as driven:
        driven.until(is_time, "the moment to kill it")
        driven.process.kill()


def winner_of(sweep_dir: Path) -> Path:
    [folder] = sweep_dir.glob("winner-*")
    return folder


def epochs_of(run_dir: Path) -> list[int]:
    return [record["epoch"] for record in read_records(run_dir) if record["kind"] == "epoch"]


def test_a_submitted_job_searches_and_analyzes_the_winner(config, head):
    """The winner is to be trained as long as the trials, so that its trial's run is taken over."""
    printed = finished(submitted(head, *job(config, "submitted")), head)
    sweep_dir = config.parent / "outputs" / "submitted"
    assert "was trained with exactly these settings, so its run is the winner's" in printed
    assert epochs_of(winner_of(sweep_dir)) == [1, 2]
    assert f"report: {winner_of(sweep_dir) / 'analysis' / 'report.html'}" in printed
    assert (winner_of(sweep_dir) / "analysis" / "report.html").exists()
    assert (sweep_dir / "sweep_report.html").exists()


def test_a_pipeline_killed_at_each_stage_resumes_there_and_trains_no_epoch_twice(config, head):
    command = [sys.executable, *job(config, "killed"), "--winner-epochs", "8", "--address", head.address]
    command += ["--num-workers", "2"]
    sweep_dir = config.parent / "outputs" / "killed"
    winner = "winner-*-epochs8"

    def trials_trained() -> int:
        return sum(map(len, all_epochs(sweep_dir).values()))

    killed_when(lambda: trials_trained() >= 1, command, head, sweep_dir)
    killed_when(lambda: any(len(epochs_of(run)) >= 2 for run in sweep_dir.glob(winner)), command, head, sweep_dir)
    assert num_created(sweep_dir) == 2
    assert all_epochs(sweep_dir) == {"0000": [1, 2], "0001": [1, 2]}
    assert (sweep_dir / "sweep_report.html").exists()
    killed_when(lambda: any(sweep_dir.glob(f"{winner}/analysis/*")), command, head, sweep_dir)

    printed = finished(command, head)
    assert "this sweep is finished, with 2 trials" in printed
    assert "this run is finished, at step 32" in printed
    assert (num_created(sweep_dir), trials_trained()) == (2, 4)
    assert epochs_of(winner_of(sweep_dir)) == list(range(1, 9))
    assert printed.splitlines()[-1] == f"report: {winner_of(sweep_dir) / 'analysis' / 'report.html'}"
