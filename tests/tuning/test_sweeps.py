"""Whole sweeps on a Ray cluster, run as commands whose driver is killed with SIGKILL or interrupted."""

import contextlib
import csv
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.analysis.test_report import Page
from tests.cluster.conftest import ROOT, Head
from tests.cluster.processes import Training, started
from tests.conftest import draw_folder
from tests.limits import LIMIT_S
from tests.training.runs import small_run
from volo.cli.parse import parse_settings
from volo.runs.records import read_records
from volo.tuning.journal import JOURNAL

pytestmark = pytest.mark.ray
EPOCHS = 3
SPACE = """
METRIC, MODE = "val/acc1", "max"
FIRST_POINTS = ({"lr": 2e-3, "drop_rate": 0.0}, {"lr": 1e30, "drop_rate": 0.0})
def space(trial):
    lr = trial.suggest_categorical("lr", [2e-3, 1e-5, 1e30])
    return {
        "model": {"drop_rate": trial.suggest_float("drop_rate", 0.0, 0.3)},
        "optim": {"lr": lr} if lr < 1 else {"lr": lr, "grad_clip": 0.0, "warmup_epochs": 0.0},
    }
"""

DIVERGING = """
METRIC, MODE = "val/acc1", "max"
def space(trial):
    lr = trial.suggest_categorical("lr", [1e30, 2e30])
    return {"optim": {"lr": lr, "grad_clip": 0.0, "warmup_epochs": 0.0}}
"""


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> Path:
    """Three epochs of four steps; in its space, some trials diverge and some learn almost nothing."""
    folder = tmp_path_factory.mktemp("sweeps")
    images = draw_folder(folder / "images", {"train": {"cat": 40, "dog": 40}})
    values = small_run(folder, images, optim=dict(epochs=EPOCHS)).to_dict()
    values["run"] |= {"num_workers": None, "run_name": None}
    (folder / "config.json").write_text(json.dumps(values))  # JSON is YAML
    (folder / "rates.py").write_text(SPACE)
    (folder / "diverging.py").write_text(DIVERGING)
    return folder / "config.json"


def command(config: Path, head: Head, name: str, *flags: str, space: str = "rates") -> list[str]:
    job = [sys.executable, "-m", "jobs.tune", "--space", str(config.parent / f"{space}.py"), "--config", str(config)]
    return [*job, "--sweep-name", name, "--address", head.address, *flags]


def finished(config: Path, head: Head, name: str, *flags: str, space: str = "rates", code: int = 0) -> str:
    job = command(config, head, name, *flags, space=space)
    done = subprocess.run(job, env=head.env, cwd=ROOT, capture_output=True, text=True, timeout=3 * LIMIT_S)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr * bool(code)


def driver(config: Path, head: Head, name: str, *flags: str) -> contextlib.AbstractContextManager[Training]:
    return started(command(config, head, name, *flags), head.env, config.parent / "outputs" / name)


def await_epochs(driven: Training, wanted: int, runs: str = "trials/*") -> None:
    driven.until(lambda: sum(map(len, all_epochs(driven.run_dir, runs).values())) >= wanted, f"{wanted} epochs")


def all_epochs(sweep_dir: Path, runs: str = "trials/*") -> dict[str, list[int]]:
    """Of every trial, or other run, those in its records, in their order."""
    return {
        "/".join(folder.relative_to(sweep_dir).parts[1:]): [
            record["epoch"] for record in read_records(folder) if record["kind"] == "epoch"
        ]
        for folder in sorted(sweep_dir.glob(runs))
    }


def trials_of(sweep_dir: Path) -> dict[int, dict[str, str]]:
    with open(sweep_dir / "trials.csv", newline="") as file:
        return {int(row["trial"]): row for row in csv.DictReader(file)}


def assert_stands_alone(report: Path, *texts: str) -> None:
    """A page with embedded pictures that loads nothing and contains all of `texts`."""
    page = Page(report)
    sources = [attrs["src"] for attrs in page.attributes("img")]
    assert sources and all(source.startswith("data:image/png;base64,") for source in sources)
    assert not page.attributes("script") and not page.attributes("link")
    assert [text for text in texts if text not in page.text] == []


def num_created(sweep_dir: Path) -> int:
    lines = [json.loads(line) for line in (sweep_dir / JOURNAL).read_text().splitlines()]
    return sum(line["op_code"] == 4 for line in lines)  # optuna's JournalOperation.CREATE_TRIAL


CONFIRMING = ("--confirm-top", "1", "--confirm-seeds", "2")


@pytest.mark.parametrize("more", [(), pytest.param(CONFIRMING, marks=pytest.mark.slow)], ids=["alone", "confirmed"])
def test_a_sweep_whose_driver_is_killed_resumes_with_every_trial_once_and_every_epoch_once(config, head, more):
    """Trials that diverge fail, and some of those that report after others are stopped early; then the best one may be
    confirmed."""
    flags = ("--num-samples", "5", "--max-concurrent", "2", "--pruner", "asha", "--objectives", "train/loss:min", *more)
    name = f"killed{len(more)}"
    sweep_dir = config.parent / "outputs" / name
    with driver(config, head, name, *flags) as driven:
        await_epochs(driven, 2)
        driven.process.kill()
    printed = finished(config, head, name, *flags)
    assert printed.splitlines()[0] == printed.splitlines()[-1] == f"sweep folder: {sweep_dir}"
    assert num_created(sweep_dir) == 5
    trials, epochs = trials_of(sweep_dir), all_epochs(sweep_dir)
    assert sorted(trials) == [0, 1, 2, 3, 4]
    for number, trial in trials.items():
        has_diverged = trial["lr"] == "1e+30"
        assert has_diverged == (trial["state"] == "fail") == ("must stay finite" in trial["reason"])
        assert has_diverged or epochs[f"{number:04d}"] == list(range(1, 1 + int(trial["epochs"])))
    assert {"complete", "fail"} <= {trial["state"] for trial in trials.values()} <= {"complete", "pruned", "fail"}

    best = parse_settings(["--config", str(sweep_dir / "best_config.yaml")], prog="train", description="")
    assert best.optim.lr == float(next(row["lr"] for row in trials.values() if row["rank"] == "1"))
    report = sweep_dir / "sweep_report.html"
    assert f"report: {report}" in printed.splitlines()
    assert_stands_alone(report, "up to 3 epochs per trial", "quickstart on imagefolder", "must stay finite")
    report.unlink()
    if more:
        assert_confirmed(sweep_dir, printed)
    printed = finished(config, head, name, *flags)
    assert "this sweep is finished, with 5 trials" in printed
    assert "confirmation runs to run" not in printed
    assert report.exists()


def assert_confirmed(sweep_dir: Path, printed: str) -> None:
    """The base and another trial, each run trained to its end once, with the result printed last."""
    confirmed = json.loads((sweep_dir / "confirm.json").read_text())
    other = next(one["trial"] for name, one in confirmed.items() if name != "base")
    assert len(confirmed) == 2
    for one in confirmed.values():
        assert one["epochs"] == EPOCHS
        assert all(isinstance(value, float) for value in one["seeds"].values())
    runs = {f"{trial:04d}/seed{seed}" for trial in (0, other) for seed in confirmed["base"]["seeds"]}
    assert all_epochs(sweep_dir, "confirm/*/seed*") == {run: list(range(1, EPOCHS + 1)) for run in runs}
    assert "train/loss on new seeds: " in printed


@pytest.mark.slow
def test_a_sweep_whose_drawn_trials_all_fail_says_why_for_each_and_exits_with_code_3(config, head):
    """The base is trained to the end; the space has two points."""
    printed = finished(config, head, "diverging", "--num-samples", "20", space="diverging", code=3).splitlines()
    said = "the space diverging has 2 points plus the base: the sweep ends after 3 trials, not 20"
    assert printed.count(said) == 2
    assert any(line.startswith(f"trial 0 complete after {EPOCHS} epochs: val/acc1 ") for line in printed)
    trials = trials_of(config.parent / "outputs" / "diverging")
    assert [trials[number]["state"] for number in range(3)] == ["complete", "fail", "fail"]
    for number in (1, 2):
        reason = trials[number]["reason"].splitlines()[0]
        assert "must stay finite" in reason
        assert any(line.startswith(f"trial {number} failed: {reason}") for line in printed)
    assert any(line.startswith("training failed: every trial that the space drew failed, the") for line in printed)


@pytest.mark.slow
def test_a_confirmation_resumes_after_an_interruption_and_after_its_driver_was_killed(config, head):
    """Of one sweep, which is not touched by it."""
    sweep = ("--num-samples", "3", "--max-concurrent", "2", "--pruner", "none", "--objectives", "train/loss:min")
    flags = (*sweep, "--confirm-top", "1")
    sweep_dir, runs = config.parent / "outputs" / "confirmed", "confirm/*/seed*"
    with driver(config, head, "confirmed", *flags) as driven:
        await_epochs(driven, 1, runs)
        driven.process.send_signal(signal.SIGINT)
        code, printed = driven.ends_with(), driven.output.read_text()
    assert code == 130, printed
    assert "the same command resumes" in printed
    trials = all_epochs(sweep_dir)
    num_before = sum(map(len, all_epochs(sweep_dir, runs).values()))
    with driver(config, head, "confirmed", *flags) as driven:
        await_epochs(driven, num_before + 3, runs)
        driven.process.kill()
    printed = finished(config, head, "confirmed", *flags)
    assert_confirmed(sweep_dir, printed)
    assert all_epochs(sweep_dir) == trials
    assert "confirmation runs to run" not in finished(config, head, "confirmed", *flags)


@pytest.mark.slow
def test_an_interrupted_sweep_saves_says_how_to_resume_and_does(config, head):
    flags = ("--num-samples", "3", "--max-concurrent", "1", "--pruner", "none", "--epochs", "2000")
    sweep_dir = config.parent / "outputs" / "interrupted"
    with driver(config, head, "interrupted", *flags) as driven:
        await_epochs(driven, 3)
        driven.process.send_signal(signal.SIGINT)
        code, printed = driven.ends_with(), driven.output.read_text()
    assert code == 130, printed
    assert "saving 1 running trial" in printed
    assert "the same command resumes" in printed
    assert_stands_alone(sweep_dir / "sweep_report.html", "1 running")
    before = all_epochs(sweep_dir)["0000"]
    printed = finished(config, head, "interrupted", *flags, "--budget-minutes", "0.3")
    assert "the time is up: saving 1 running trial" in printed
    assert "3 of 3 trials are left; the same command continues" in printed
    assert f"report: {sweep_dir / 'sweep_report.html'}" in printed.splitlines()
    after = all_epochs(sweep_dir)["0000"]
    assert after == list(range(1, len(after) + 1))
    assert len(after) > len(before)


@pytest.mark.slow
def test_a_driver_killed_five_times_at_any_moment_loses_and_repeats_nothing(config, head):
    flags = ("--num-samples", "12", "--max-concurrent", "2")
    sweep_dir = config.parent / "outputs" / "five"
    for kill in range(1, 6):
        with driver(config, head, "five", *flags) as driven:
            await_epochs(driven, 3 * kill)
            driven.process.kill()
    finished(config, head, "five", *flags)
    assert num_created(sweep_dir) == 12
    trials, epochs = trials_of(sweep_dir), all_epochs(sweep_dir)
    assert sorted(trials) == list(range(12))
    for number, trial in trials.items():
        assert trial["state"] in ("complete", "pruned", "fail")
        if trial["state"] != "fail":
            assert epochs[f"{number:04d}"] == list(range(1, int(trial["epochs"]) + 1))


@pytest.mark.slow
def test_a_trial_of_two_workers_is_trained_by_ray_train(config, head):
    flags = ("--num-samples", "2", "--workers-per-trial", "2", "--max-concurrent", "1", "--pruner", "none")
    printed = finished(config, head, "two", *flags, code=3)
    assert "1 trial at a time, each with 2 workers" in printed
    sweep_dir = config.parent / "outputs" / "two"
    assert trials_of(sweep_dir)[0]["state"] == "complete"
    assert all_epochs(sweep_dir)["0000"] == [1, 2, 3]
    assert trials_of(sweep_dir)[1]["state"] == "fail"
    assert "must stay finite" in trials_of(sweep_dir)[1]["reason"].splitlines()[0]


@pytest.mark.slow
def test_what_can_never_be_scheduled_is_refused(config, head):
    flags = ("--workers-per-trial", "9", "--batch-size", "16")
    done = subprocess.run(
        command(config, head, "many", *flags), env=head.env, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT_S
    )
    assert done.returncode == 2
    assert "a trial must fit into the cluster, got trials of 9 cores and 0 GPUs for 3 cores and 0 GPUs on 1 node" in (
        done.stderr
    )
