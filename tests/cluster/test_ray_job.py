"""Inside a Ray job: results that would go with it are refused, and a job that is stopped has time to save."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster.conftest import ROOT
from tests.cluster.processes import Training, submitted
from tests.cluster.test_launchers import run
from tests.faults.tools.processes import written
from tests.limits import LIMIT_S
from tests.training.runs import losses, small_run
from volo.cli import analyze, compare, doctor, export, pipeline, predict, train, tune
from volo.cli.outcome import exit_code
from volo.runs import checkpoint
from volo.settings.ray_job import IN_JOB, STOP_WAIT, check_lasts, hurry

RECIPE = ["--recipe", "quickstart"]
CHECKPOINT = ["--checkpoint", "/shared/outputs/run"]
COMMANDS = {
    "train": (train.main, RECIPE, "--output-dir"),
    "train here": (train.main, [*RECIPE, "--num-workers", "0"], "--output-dir"),
    "train, relative": (train.main, [*RECIPE, "--output-dir", "outputs/mine"], "--output-dir"),
    "tune": (tune.main, ["--space", "mix", "--num-samples", "1"], "--output-dir"),
    "pipeline": (pipeline.main, RECIPE, "--output-dir"),
    "doctor": (doctor.main, RECIPE, "--output-dir"),
    "analyze": (analyze.main, [*CHECKPOINT, "--output-dir", "mine"], "--output-dir"),
    "predict": (predict.main, [*CHECKPOINT, "--input", "/shared/photos"], "--output"),
    "export": (export.main, [*CHECKPOINT, "--output", "volo.onnx"], "--output"),
    "compare": (compare.main, ["/shared/one", "/shared/other"], "--output-dir"),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_results_that_would_go_with_the_job_are_refused(command, monkeypatch, capsys, tmp_path):
    main, flags, name = COMMANDS[command]
    monkeypatch.setenv(IN_JOB, "{}")
    monkeypatch.chdir(tmp_path)
    assert exit_code(main, flags) == 2
    said = capsys.readouterr().err
    assert f"error: {name} must be an absolute path in a Ray job, whose working directory is a copy" in said
    assert f"such as {name} /shared/" in said
    assert list(tmp_path.iterdir()) == []


def test_an_absolute_path_is_taken_in_a_job_and_a_relative_one_outside(monkeypatch):
    monkeypatch.setenv(IN_JOB, "{}")
    check_lasts("/shared/outputs", "--output-dir")
    check_lasts("~/outputs", "--output-dir")
    monkeypatch.delenv(IN_JOB)
    check_lasts("./outputs", "--output-dir")


@pytest.mark.parametrize(
    ("value", "too_short"), [(None, 3), ("", 3), ("soon", 3), ("10", 10), ("30", None), ("120", None)]
)
def test_a_stop_that_kills_too_soon_to_save_is_told(value, too_short):
    found = hurry(value)
    assert (f"kills after {too_short} s" in found) if too_short else not found


@pytest.mark.slow
@pytest.mark.ray
def test_a_submitted_job_without_an_absolute_output_dir_fails_and_says_so(head, tmp_path, folder):
    flags = ("--recipe", "quickstart", "--dataset", "imagefolder", "--data-dir", str(folder))
    done = run(submitted(head, "-m", "jobs.train", *flags), head.env)
    assert done.returncode == 1, done.stdout
    assert "--output-dir must be an absolute path in a Ray job" in done.stdout


@pytest.mark.slow
@pytest.mark.ray
def test_a_job_that_is_stopped_saves_in_the_time_it_was_given(head, tmp_path, folder):
    settings = small_run(tmp_path, folder, optim=dict(epochs=1000))
    name, ray = "stopped-in-time", str(Path(sys.executable).with_name("ray"))
    submit = submitted(head, "-m", "jobs.train", *written(settings, tmp_path), "--num-workers", "2")
    given = ["--submission-id", name, "--runtime-env-json", json.dumps({"env_vars": {STOP_WAIT: "100"}})]
    output = tmp_path / "output.txt"
    with open(output, "w") as file:
        process = subprocess.Popen([*submit[:3], *given, *submit[3:]], env=head.env, cwd=ROOT, stdout=file, stderr=file)
    training = Training(process, output, settings.run_dir)
    try:
        training.until_step(3)
        run([ray, "job", "stop", "--address", head.dashboard, name], head.env)
        process.wait(LIMIT_S)
    finally:
        process.kill()
    said = output.read_text()
    assert "stopped by SIGTERM after saving; the same command resumes" in said
    assert "may be too short to save" not in said
    assert checkpoint.verify(checkpoint.newest(settings.run_dir)).step == max(losses(settings.run_dir))
