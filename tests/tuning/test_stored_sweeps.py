"""Sweeps on object storage: kept as in a folder, by one driver at a time, and resumed by a driver anywhere."""

import contextlib
import csv
import io
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cluster.conftest import ROOT, Head, own_environment, started_head
from tests.cluster.processes import started
from tests.limits import LIMIT_S
from tests.storage.conftest import s3 as s3
from tests.storage.conftest import server as server
from tests.storage.copies import machine
from tests.storage.server import DROP
from tests.tuning.sweeps import base, drawn, opened, play, play_epoch, states
from tests.tuning.test_sweeps import config as config
from volo.cli import runs
from volo.cli.outcome import exit_code
from volo.errors import InputError, TrainingError
from volo.runs import checkpoint, stored
from volo.runs.places import BEST, CHECKPOINTS, CONFIG, ENVIRONMENT, JOURNAL, LAST, TABLE
from volo.runs.records import FILE
from volo.settings.config import Settings
from volo.storage.bucket import Bucket
from volo.storage.lease import LEASE, Lease
from volo.tuning.confirm import Confirmation
from volo.tuning.home import sweep_home
from volo.tuning.recovery import recover
from volo.tuning.results import best_trial, write_report, write_results
from volo.tuning.study import SweepStudy
from volo.tuning.winner import take_over, winner_settings

OPTIONS = dict(num_samples=4, pruner="none")


@dataclass
class Machine:
    """One whose driver runs a sweep that is kept in a bucket."""

    bucket: str
    environment: dict[str, str]

    @contextlib.contextmanager
    def drives(self, monkeypatch, **options) -> Iterator[SweepStudy]:
        for name, value in self.environment.items():
            monkeypatch.setenv(name, value)
        home = sweep_home(f"{self.bucket}/runs", "mine")
        with home.held():
            yield opened(home.sweep_dir, home=home, **{**OPTIONS, **options})


@pytest.fixture
def machines(s3, tmp_path) -> list[Machine]:
    bucket = s3.new_bucket()
    return [Machine(bucket, machine(tmp_path, name)) for name in ("one", "another")]


def trained(study: SweepStudy, most: int = 10**6, hears_last: bool = True) -> None:
    """As `play`, with each trial's run taken to where a trial's process would have."""
    recover(study)
    while most > 0 and (work := study.next_work()):
        study.keep()
        has_ended = False
        while most > 0 and not has_ended:
            metrics = play_epoch(study, work)
            take_run(study, work.number, work.settings)
            most -= 1
            has_ended = (most > 0 or hears_last) and study.report(work.number, metrics)


def take_run(study: SweepStudy, number: int, settings: Settings) -> None:
    run_dir, bucket = study.run_dir(number), Bucket(settings.home)
    bucket.write(CONFIG, settings.to_yaml().encode())
    bucket.write(ENVIRONMENT, b"{}")
    bucket.write(FILE, (run_dir / FILE).read_bytes())
    newest = checkpoint.newest(run_dir)
    stored.take_checkpoint(bucket, newest)
    stored.make_valid(bucket, newest)
    for name in (BEST, LAST):
        stored.point(bucket, run_dir, name)


def table(bucket: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(Bucket(f"{bucket}/runs/mine").read(TABLE)[0].decode())))


@pytest.mark.parametrize("hears_last", [True, False])
def test_a_driver_on_another_machine_continues_a_sweep_with_the_trials_of_an_undisturbed_one(
    machines, monkeypatch, tmp_path, hears_last
):
    whole = play(opened(tmp_path / "whole", **OPTIONS))
    one, another = machines
    with contextlib.suppress(InterruptedError), one.drives(monkeypatch) as study:
        trained(study, most=6, hears_last=hears_last)
        raise InterruptedError
    with another.drives(monkeypatch) as study:
        assert drawn(study) == drawn(whole)[:2]
        trained(study)
        write_results(study)
        study.keep()
        assert drawn(study) == drawn(whole) and states(study) == states(whole)
        place = Bucket(study.home.place)
        assert [epochs_there(place, number) for number in range(4)] == [[1, 2, 3, 4]] * 4
    assert [row["state"] for row in table(one.bucket)] == ["complete"] * 4
    assert LEASE not in Bucket(f"{one.bucket}/runs/mine").names()


def test_a_trial_is_known_there_before_it_can_start(machines, monkeypatch):
    with machines[0].drives(monkeypatch) as study:
        study.next_work()
        study.keep()
        lines = Bucket(f"{machines[0].bucket}/runs/mine").read(JOURNAL)[0].splitlines()
        assert sum(json.loads(line)["op_code"] == 4 for line in lines) == 1  # optuna's JournalOperation.CREATE_TRIAL


def test_a_sweep_has_one_driver(machines, monkeypatch):
    one, another = machines
    refused = pytest.raises(InputError, match="is being trained by process")
    with one.drives(monkeypatch), refused, another.drives(monkeypatch):
        raise AssertionError("two drivers")
    with another.drives(monkeypatch) as study:
        assert study.trials == []


def test_a_driver_that_has_lost_the_lease_writes_nothing_more(machines, monkeypatch):
    one, _ = machines
    place = Bucket(f"{one.bucket}/runs/mine")
    with one.drives(monkeypatch) as study:
        study.keep()
        before = place.read(JOURNAL)[0]
        place.delete([LEASE])
        other = Lease.take(place, "the sweep")
        study.next_work()
        with pytest.raises(TrainingError, match="another process took it over"):
            study.keep()
        other.release()
    assert place.read(JOURNAL)[0] == before


def test_only_the_best_few_keep_their_weights_there(machines, monkeypatch):
    with machines[0].drives(monkeypatch, keep_checkpoints=1) as study:
        trained(study)
        write_results(study)
        kept = best_trial(study).number
        for number in range(4):
            names = Bucket(study.home.place).names(f"trials/{number:04d}")
            has_weights = any(f"/{CHECKPOINTS}/" in name for name in names)
            assert has_weights == (number == kept)
            assert f"trials/{number:04d}/{FILE}" in names


def test_the_best_trials_run_is_the_winners_which_any_machine_finds_finished(machines, monkeypatch, capsys):
    with machines[0].drives(monkeypatch) as study:
        trained(study)
        write_results(study)
        winner = winner_settings(study)
        assert winner.home == f"{study.home.place}/winner-{best_trial(study).number:04d}"
        take_over(study, winner)
        assert "its run is the winner's" in capsys.readouterr().out
        there = Bucket(winner.home)
        manifest = stored.newest_manifest(there, there.names())
        assert manifest.step == manifest.total_steps
        assert there.read(CONFIG)[0].decode() == winner.to_yaml()
        take_over(study, winner)
        assert not capsys.readouterr().out, "what is there is not taken over again"


def test_runs_that_confirm_are_handed_out_once_whoever_drives(machines, monkeypatch):
    one, another = machines
    with one.drives(monkeypatch, confirm_top=1) as study:
        trained(study)
        confirmation = Confirmation(study)
        work = confirmation.next_work()
        assert work.settings.home == f"{study.home.place}/confirm/0000/seed1"
        folder = confirmation.run_dir(work.number)
        for _ in range(study.num_epochs):
            play_epoch(of_run(study, folder), work)
        take_run(of_run(study, folder), work.number, work.settings)
        confirmation.fail(1, "for a test")
        study.keep()
    with another.drives(monkeypatch, confirm_top=1) as study:
        confirmation = Confirmation(study)
        assert confirmation.has_ended(0) and confirmation.has_ended(1) and not confirmation.has_ended(2)


def of_run(study: SweepStudy, folder: Path):
    """What `play_epoch` asks of a study, for one folder."""
    return type("Run", (), {"run_dir": lambda self, number: folder})()


def test_fresh_sets_a_sweep_aside_there_and_begins_another(machines, monkeypatch, capsys):
    one, another = machines
    with one.drives(monkeypatch) as study:
        trained(study)
    home = sweep_home(f"{one.bucket}/runs", "mine")
    assert not home.is_empty()
    home.check_is_ours()
    home.set_aside()
    assert f"renamed the previous run to {home.place}.1" in capsys.readouterr().out
    assert home.is_empty() and JOURNAL in Bucket(f"{home.place}.1").names()
    with another.drives(monkeypatch) as study:
        assert study.trials == []


def test_a_sweep_is_not_set_aside_under_a_trial_that_still_trains(machines, monkeypatch):
    with machines[0].drives(monkeypatch) as study:
        trained(study)
    home = sweep_home(f"{machines[0].bucket}/runs", "mine")
    lease = Lease.take(Bucket(f"{home.place}/trials/0002"), "a trial")
    try:
        with pytest.raises(InputError, match=r"trials/0002 is being trained by another process"):
            home.set_aside()
    finally:
        lease.release()


def test_something_else_in_its_place_is_refused(machines, monkeypatch):
    Bucket(f"{machines[0].bucket}/runs/mine").write("notes.txt", b"")
    refused = pytest.raises(InputError, match=f"must hold a sweep or nothing, got notes.txt and no {JOURNAL}")
    with refused, machines[0].drives(monkeypatch):
        raise AssertionError("a sweep over a user's files")


def test_a_server_that_is_gone_ends_a_sweep_which_then_continues(s3, machines, monkeypatch):
    with machines[0].drives(monkeypatch) as study:
        trained(study, most=5)
        monkeypatch.setattr(study.home._copy, "bucket", Bucket(study.home.place, 1.0))
        study.next_work()
        with s3.proxy.failing(lambda asking: DROP), pytest.raises(TrainingError, match="the same command resumes"):
            study.keep()
    with machines[1].drives(monkeypatch) as study:
        trained(study)
        assert states(study) == ["COMPLETE"] * 4


def test_a_sweep_is_listed_and_fetched_with_its_trials(machines, monkeypatch, tmp_path, capsys):
    with machines[0].drives(monkeypatch) as study:
        trained(study)
        write_results(study)
        study.keep()
        place = study.home.place
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        assert exit_code(runs.main, ["--fetch", place, "--output-dir", "outputs"]) == 0
    here = opened(tmp_path / "outputs" / "mine", **OPTIONS, settings=base())
    assert states(here) == ["COMPLETE"] * 4 and drawn(here) == drawn(study)
    assert checkpoint.newest(here.run_dir(best_trial(here).number)) is not None


def test_curves_of_trials_that_another_driver_ran_are_in_the_report(machines, monkeypatch, caplog):
    options = dict(objectives=("val/acc1:max", "train/loss:min"), num_samples=2)
    with machines[0].drives(monkeypatch, **options) as study:
        trained(study)
        study.keep()
    with machines[1].drives(monkeypatch, **options) as study:
        write_report(study)
        assert not caplog.records and (study.sweep_dir / "figures" / "front.png").exists()


@pytest.mark.ray
@pytest.mark.slow
def test_a_killed_driver_is_replaced_by_one_elsewhere_and_every_epoch_is_trained_once(s3, config, tmp_path):
    with started_head(own_environment() | s3.env | machine(tmp_path, "node"), num_cpus=1) as head:
        drive_from_two_machines(s3, config, head, tmp_path)


def drive_from_two_machines(s3, config: Path, head: Head, tmp_path: Path) -> None:
    place = f"{s3.new_bucket()}/runs"
    flags = ["--config", str(config), "--output-dir", place, "--sweep-name", "mine", "--num-samples", "4"]
    flags += ["--max-concurrent", "1", "--pruner", "none", "--address", head.address]
    command = [sys.executable, "-m", "jobs.tune", "--space", str(config.parent / "rates.py"), *flags]
    one, another = ({**head.env, **machine(tmp_path, name)} for name in ("one", "another"))
    there = Bucket(f"{place}/mine")
    with started(command, one, tmp_path / "one") as driven:
        driven.until(lambda: len(epochs_there(there, 0)) >= 2, "two epochs")
        driven.process.kill()
    done = subprocess.run(command, env=another, cwd=ROOT, capture_output=True, text=True, timeout=3 * LIMIT_S)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == f"sweep folder: {place}/mine"
    rows = {int(row["trial"]): row for row in csv.DictReader(io.StringIO(there.read(TABLE)[0].decode()))}
    assert sorted(rows) == [0, 1, 2, 3] and "sweep_report.html" in there.names()
    for number, row in rows.items():
        assert row["state"] == "fail" or epochs_there(there, number) == [1, 2, 3]
    assert not [*(tmp_path / "machines").rglob("model.safetensors")], "a node keeps nothing of a trial"


@pytest.mark.ray
@pytest.mark.slow
def test_a_sweep_whose_nodes_cannot_reach_the_place_ends_and_no_trial_fails(s3, config, head, tmp_path):
    """The driver has the credentials, the nodes have none."""
    place = f"{s3.new_bucket()}/runs"
    flags = ["--config", str(config), "--output-dir", place, "--sweep-name", "mine", "--num-samples", "2"]
    command = [sys.executable, "-m", "jobs.tune", "--space", str(config.parent / "rates.py"), *flags]
    env = {**head.env, **s3.env, **machine(tmp_path, "one")}
    done = subprocess.run(
        [*command, "--address", head.address], env=env, cwd=ROOT, capture_output=True, text=True, timeout=3 * LIMIT_S
    )
    assert done.returncode == 3 and "--output-dir must be a place that can be written" in done.stderr, done.stdout
    lines = map(json.loads, Bucket(f"{place}/mine").read(JOURNAL)[0].splitlines())
    assert not [line for line in lines if line.get("state") == 3], "optuna's TrialState.FAIL"


def epochs_there(sweep: Bucket, number: int) -> list[int]:
    """The epochs in the records of a trial."""
    try:
        lines = sweep.read(f"trials/{number:04d}/{FILE}")[0].splitlines()
    except FileNotFoundError:
        return []
    return [record["epoch"] for record in map(json.loads, lines) if record["kind"] == "epoch"]
