"""`volo submit`: a job is as a command here, in its log, its exit code and its report."""

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from ray.job_submission import JobStatus, JobSubmissionClient

from tests.cluster.processes import Training
from tests.conftest import draw_folder
from tests.limits import LIMIT_S
from tests.training.runs import small_run
from volo.cli import submit
from volo.cli.outcome import exit_code
from volo.runs import checkpoint


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ([], "-- must be followed by one of train, tune"),
        (["--", "export", "--checkpoint", "x"], "-- must be followed by one of train, tune"),
        (["train", "--recipe", "nano"], "unrecognized"),
        (["--address", "10.0.0.1:6379", "--", "train"], "--address must be http://HOST:PORT, the dashboard's"),
    ],
)
def test_what_is_no_job_is_refused(argv, said, capsys):
    assert exit_code_of(argv) == 2
    assert said.lower() in capsys.readouterr().err.lower()


def exit_code_of(argv: list[str]) -> int:
    try:
        return exit_code(submit.main, argv)
    except SystemExit as end:
        return end.code


@pytest.mark.ray
def test_without_a_dashboard_it_says_where_one_is(capsys):
    assert exit_code_of(["--address", "http://127.0.0.1:1", "--", "train", "--recipe", "nano"]) == 2
    assert "--address must be the dashboard of a cluster that takes jobs" in capsys.readouterr().err


@pytest.fixture
def place(tmp_path) -> Path:
    """A folder without a checkout, with images and a settings file."""
    images = draw_folder(tmp_path / "images", {"train": {"cat": 40, "dog": 40}, "test": {"cat": 8, "dog": 8}})
    settings = small_run(tmp_path, images, optim=dict(epochs=1), run=dict(run_name="here"))
    (tmp_path / "my.yaml").write_text(settings.to_yaml())
    return tmp_path


def submitted(head, place: Path, *words: str, name: str) -> list[str]:
    command = [sys.executable, "-m", "volo", "submit", "--address", head.dashboard, "--name", name]
    return [*command, "--fetch-to", str(place / "fetched"), "--", *words]


def environment(head) -> dict[str, str]:
    return head.env | {"PYTHONPATH": str(Path(__file__).parents[2])}


def run(head, place: Path, *words: str, name: str) -> subprocess.CompletedProcess:
    argv = submitted(head, place, *words, name=name)
    return subprocess.run(argv, cwd=place, env=environment(head), capture_output=True, text=True, timeout=LIMIT_S)


@pytest.mark.slow
@pytest.mark.ray
def test_a_job_carries_its_settings_file_shows_its_log_and_ends_with_its_code(head, place):
    done = run(head, place, "pipeline", "--config", "my.yaml", "--num-workers", "1", name="whole")
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"uploading [\d.]+ [KM]iB in \d+ files", done.stdout)
    assert "best validation top-1" in done.stdout
    assert f"report here: {place}" in done.stdout
    assert checkpoint.newest(place / "outputs" / "here") is not None

    wrong = run(head, place, "train", "--config", "my.yaml", "--lr", "0", "--num-workers", "1", name="wrong")
    assert wrong.returncode == 2
    assert "--lr must be greater than 0" in wrong.stdout
    again = run(head, place, "train", "--config", "my.yaml", name="wrong")
    assert again.returncode == 2
    assert "already exists" in again.stderr


@pytest.mark.slow
@pytest.mark.ray
def test_a_report_that_this_machine_does_not_see_is_fetched(head, place, monkeypatch):
    from volo.cluster import submission

    monkeypatch.chdir(place)
    for name, value in environment(head).items():
        monkeypatch.setenv(name, value)
    job = submission.Submission(head.dashboard, ["pipeline", "--config", "my.yaml", "--num-workers", "1"], "far")
    assert job.follow() == 0
    report = place / "outputs" / "here" / "analysis" / "report.html"
    monkeypatch.setattr(submission.Path, "is_file", lambda path: False)
    fetched = job.fetch_report(place / "fetched")
    monkeypatch.undo()
    assert fetched == place / "fetched" / "far-report.html"
    assert fetched.read_bytes() == report.read_bytes()


@pytest.mark.slow
@pytest.mark.ray
def test_an_interrupt_without_a_terminal_leaves_the_job_and_says_how_to_find_it(head, place, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    argv = submitted(head, place, "train", "--config", "my.yaml", "--epochs", "2000", "--num-workers", "1", name="left")
    output = place / "output.txt"
    with open(output, "w") as file:
        process = subprocess.Popen(argv, cwd=place, env=environment(head), stdout=file, stderr=file)
    training = Training(process, output, place / "outputs" / "here")
    try:
        training.until_step(3)
        process.send_signal(signal.SIGINT)
        assert process.wait(LIMIT_S) == 130
        assert (
            f"the job goes on; to follow it: ray job logs --address {head.dashboard} --follow left"
            in output.read_text()
        )
        assert JobSubmissionClient(head.dashboard).get_job_status("left") == JobStatus.RUNNING
    finally:
        process.kill()
        stop = [str(Path(sys.executable).with_name("ray")), "job", "stop", "--address", head.dashboard, "left"]
        subprocess.run(stop, env=head.env, check=True, capture_output=True)
