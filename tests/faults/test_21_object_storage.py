"""Row 21: a run kept on object storage survives what its machines, its network and the server do."""

import subprocess
import sys
import warnings

import pytest

from tests.faults.tools.forked import Command
from tests.faults.tools.kills import Kill
from tests.faults.tools.runs import assert_same, begun_at, draw_images
from tests.storage.conftest import s3 as s3
from tests.storage.conftest import server as server
from tests.storage.copies import EPOCHS, KillThere, checkpoints, machine, seen, stored_run
from tests.storage.server import DROP, DROP_AFTER_SOME, LOSE_ANSWER, PASS, during, first
from tests.storage.test_lease import HOLDER
from tests.training.runs import losses, small_run, train, weights
from volo.cli import analyze, runs
from volo.cli import train as job
from volo.cli.outcome import exit_code
from volo.errors import TrainingError
from volo.runs import checkpoint, home, stored
from volo.runs.places import CHECKPOINTS, CONFIG, FAILURE, LAST
from volo.settings.config import Settings
from volo.storage import lease as leases
from volo.storage.bucket import Bucket
from volo.storage.lease import LEASE, Owner
from volo.training.launch import train_here

STEPS = 4 * EPOCHS


def rarely(name: str):
    return pytest.param(name, marks=pytest.mark.slow)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return draw_images(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, images):
    """The same run, kept on a disk."""
    folder = tmp_path_factory.mktemp("undisturbed")
    return train(small_run(folder, images, optim=dict(epochs=EPOCHS), run=dict(checkpoint_every=2)))


def command(settings: Settings, tmp_path) -> Command:
    written = Command.of(settings)
    config = tmp_path / "run.json"
    config.write_text(written.config.read_text())
    return Command(settings, config)


def test_a_run_is_kept_there_as_on_a_disk(s3, tmp_path, images, undisturbed):
    settings = stored_run(f"{s3.new_bucket()}/runs", tmp_path, images)
    train_here(settings)
    assert_same(seen(settings), undisturbed)
    names = Bucket(settings.home).names()
    assert LEASE not in names
    assert {name.split("/")[0] for name in names} == {
        path.name for path in undisturbed.iterdir() if path.name[0] != "."
    }
    assert not [name for name in names if "partial" in name]


KILLS = (
    Kill("in the midst of a record", 2),
    KillThere("take_checkpoint", 1, is_after=True),
    KillThere("make_valid", 1, is_after=True),
    KillThere("point", 1, is_after=True),
    KillThere("bring_files", 1, is_after=True),
    KillThere("prune", 1),
    Kill("before an update", 1),
)


def test_a_run_killed_at_seven_places_is_continued_each_time_by_another_machine_to_the_same_weights(
    s3, tmp_path, images, undisturbed
):
    settings = stored_run(f"{s3.new_bucket()}/runs", tmp_path, images)
    disturbed, step = command(settings, tmp_path), 0
    for number, kill in enumerate(KILLS):
        killed = disturbed.start(kill, **machine(tmp_path, f"machine-{number}"), **s3.env)
        assert killed.ends_with() == -9, f"{kill}: {killed.said()}"
        assert begun_at(killed.said()) in (step, None), f"{kill}: {killed.said()}"
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # nothing half-written counts
            step = max(checkpoints(settings), default=0)
    assert 0 < step < STEPS
    [said] = disturbed.finish(**machine(tmp_path, "the last"), **s3.env)
    assert begun_at(said) == step
    assert_same(seen(settings), undisturbed)
    assert LEASE not in Bucket(settings.home).names()


OFTEN_TRIED = ("fails for seconds", "drops what is read")  # by tests/storage/test_bucket.py
FAULTS = {
    "gone for seconds": lambda: during(4, DROP),
    "fails for seconds": lambda: during(4, 503),
    "drops what is sent": lambda: first(6, DROP_AFTER_SOME, "PUT"),
    "loses its answers": lambda: first(9, LOSE_ANSWER, "PUT"),
    "drops what is read": lambda: first(3, DROP, "GET"),
}


@pytest.mark.parametrize(
    "fault", [rarely(name) if name in ("fails for seconds", "drops what is read") else name for name in FAULTS]
)
def test_a_server_that_fails_for_a_while_costs_time_alone(s3, tmp_path, images, undisturbed, fault):
    settings = stored_run(f"{s3.new_bucket()}/runs", tmp_path, images)
    with s3.proxy.failing(FAULTS[fault]()):
        assert exit_code(job.main, ["--config", str(command(settings, tmp_path).config)]) == 0
    assert_same(seen(settings), undisturbed)


@pytest.mark.parametrize("what", ["/model.safetensors", rarely("/manifest.json"), rarely("metrics.jsonl")])
def test_a_save_that_fails_for_good_ends_training_as_a_full_disk_does_and_the_same_command_resumes(
    s3, tmp_path, images, undisturbed, monkeypatch, capsys, what
):
    settings = stored_run(f"{s3.new_bucket()}/runs", tmp_path, images)
    asked = ["--config", str(command(settings, tmp_path).config)]
    monkeypatch.setattr(leases, "LAPSE_S", 1.0)  # this process lives on, and could not give its lease back
    monkeypatch.setattr(home, "Bucket", lambda url, patience_s=1.0: Bucket(url, min(patience_s, 1.0)))
    asked_for: list[str] = []

    def fault(asking):
        """The third of these objects, and all after it, cannot be written."""
        if asking.method == "PUT" and what in asking.path:
            asked_for.append(asking.path)
        return DROP if len({*asked_for}) > 2 or (what == "metrics.jsonl" and len(asked_for) > 2) else PASS

    with s3.proxy.failing(fault):
        assert exit_code(job.main, asked) == 3
    said = capsys.readouterr().err
    assert "could not be written: s3://" in said and "the server does not answer" in said
    assert "earlier checkpoints are intact, and the same command resumes" in said
    saved = max(checkpoints(settings))
    assert 0 < saved < STEPS
    assert exit_code(job.main, asked) == 0
    assert begun_at(capsys.readouterr().out) == saved
    assert_same(seen(settings), undisturbed)


def test_a_second_driver_is_refused_while_the_first_lives(s3, tmp_path, images, capsys):
    settings = stored_run(f"{s3.new_bucket()}/runs", tmp_path, images)
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, settings.home], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert holder.stdout.readline() == b"taken\n"
        assert exit_code(job.main, ["--config", str(command(settings, tmp_path).config)]) == 2
    finally:
        holder.kill()
        holder.communicate()
    assert f"{settings.home} is being trained by process {holder.pid} on " in capsys.readouterr().err
    assert [*Bucket(settings.home).names()] == [LEASE]


def test_a_run_that_was_taken_over_in_the_meantime_ends_and_overwrites_nothing(s3, tmp_path, images, monkeypatch):
    settings, taken = stored_run(f"{s3.new_bucket()}/runs", tmp_path, images), []
    real = stored.take_checkpoint

    def lose(bucket, folder):
        real(bucket, folder)
        if folder.name == "step_00000006":
            bucket.write(LEASE, Owner("of another", "far", "", 1, "", 0).to_bytes())
            taken.append(bucket.names())

    monkeypatch.setattr(stored, "take_checkpoint", lose)
    with pytest.raises(TrainingError, match="another process took it over: process 1 on far; nothing was overwritten"):
        train_here(settings)
    assert max(checkpoints(settings)) == 4
    now = Bucket(settings.home).names()
    assert {name: stat.etag for name, stat in now.items()} == {name: stat.etag for name, stat in taken[0].items()}


HARMS = ("a byte of the weights", "half of the state", "no state", "another manifest", "no manifest")


@pytest.mark.parametrize("harm", [rarely(harm) if "state" in harm else harm for harm in HARMS])
def test_a_damaged_checkpoint_there_is_skipped_by_name(s3, tmp_path, images, undisturbed, harm):
    settings = stored_run(f"{s3.new_bucket()}/runs", tmp_path, images, optim=dict(max_steps=6))
    train_here(settings)
    bucket = Bucket(settings.home)
    newest = f"{CHECKPOINTS}/step_00000006"
    files = {name.rpartition("/")[2]: name for name in bucket.names(newest)}
    weights_there = bucket.read(files["model.safetensors"])[0]
    match harm:
        case "a byte of the weights":
            bucket.write(files["model.safetensors"], weights_there[:-1] + bytes([weights_there[-1] ^ 1]))
        case "half of the state":
            bucket.write(files["training_state.pt"], bucket.read(files["training_state.pt"])[0][:1000])
        case "no state":
            bucket.delete([files["training_state.pt"]])
        case "another manifest":
            bucket.write(files["manifest.json"], b'{"files": {"../../../escaped": {}}}')
        case "no manifest":
            bucket.delete([files["manifest.json"]])
    again = stored_run(settings.run.output_dir, tmp_path, images)
    resumed = command(again, tmp_path)
    [said] = resumed.finish(**machine(tmp_path, "another"), **s3.env)
    assert begun_at(said) == 4
    assert ("skipped a damaged checkpoint" in said) == (harm != "no manifest")
    assert_same(seen(again), undisturbed)
    assert not [*tmp_path.rglob("escaped")]


def test_a_checkpoint_of_a_later_version_there_is_refused_and_not_passed_over(
    s3, tmp_path, images, monkeypatch, capsys
):
    settings = stored_run(f"{s3.new_bucket()}/runs", tmp_path, images, optim=dict(max_steps=4))
    with monkeypatch.context() as later:
        later.setattr(checkpoint, "SCHEMA_VERSION", checkpoint.SCHEMA_VERSION + 1)
        train_here(settings)
    monkeypatch.setenv("VOLO_CACHE_DIR", machine(tmp_path, "another")["VOLO_CACHE_DIR"])
    assert exit_code(job.main, ["--config", str(command(settings, tmp_path).config)]) == 2
    said = capsys.readouterr().err
    assert f"{settings.home}/{CHECKPOINTS}/step_00000004/manifest.json is of another version" in said
    assert "update the project" in said
    assert LEASE not in Bucket(settings.home).names()


def test_a_fresh_start_sets_the_old_run_aside_there(s3, tmp_path, images, capsys):
    settings = stored_run(f"{s3.new_bucket()}/runs", tmp_path, images, optim=dict(max_steps=4))
    train_here(settings)
    before = weights(seen(settings))
    fresh = stored_run(settings.run.output_dir, tmp_path, images, optim=dict(max_steps=2), run=dict(fresh=True, seed=1))
    train_here(fresh)
    assert f"renamed the previous run to {settings.home}.1" in capsys.readouterr().out
    moved = stored_run(settings.run.output_dir, tmp_path, images, run=dict(run_name="run.1"))
    assert before.keys() == weights(seen(moved)).keys()
    assert all((before[name] == tensor).all() for name, tensor in weights(seen(moved)).items())
    assert max(losses(seen(fresh))) == 2 and max(losses(seen(moved))) == 4


def test_other_files_in_the_runs_place_are_left_alone(s3, tmp_path, images, capsys):
    settings = stored_run(f"{s3.new_bucket()}/runs", tmp_path, images)
    bucket = Bucket(settings.home)
    bucket.write("thesis.txt", b"years of work")
    for flags in ([], ["--fresh"]):
        assert exit_code(job.main, ["--config", str(command(settings, tmp_path).config), *flags]) == 2
        assert f"{settings.home} must hold a run or nothing, got thesis.txt" in capsys.readouterr().err
        assert [*bucket.names()] == ["thesis.txt"]


def test_a_users_own_copy_of_a_checkpoint_there_is_not_pruned(s3, tmp_path, images):
    settings = stored_run(f"{s3.new_bucket()}/runs", tmp_path, images)
    train_here(settings)
    bucket, copy = Bucket(settings.home), f"{CHECKPOINTS}/step_00000002-paper/model.safetensors"
    bucket.write(copy, b"a copy")
    bucket.write(f"{CHECKPOINTS}/step_00000002/0123456789abcdef/model.safetensors", b"never made valid")
    stored.prune(bucket, settings.run_dir, 2)
    assert copy in bucket.names()
    assert not [name for name in bucket.names() if "0123456789abcdef" in name]


def test_what_failed_is_told_there_as_well(s3, tmp_path, images):
    settings = stored_run(f"{s3.new_bucket()}/runs", tmp_path, images, optim=dict(lr=1e9, warmup_epochs=0))
    with pytest.raises(TrainingError):
        train_here(settings)
    bucket = Bucket(settings.home)
    assert b"must stay finite" in bucket.read(FAILURE)[0]
    assert [name for name in bucket.names() if name.startswith("nonfinite_step_")]
    assert CONFIG in bucket.names() and (LAST in bucket.names()) == bool(checkpoints(settings))


def test_a_copy_that_is_fetched_replaces_no_run_of_the_users_own(s3, tmp_path, images, capsys):
    settings = stored_run(f"{s3.new_bucket()}/runs", tmp_path, images, optim=dict(max_steps=4))
    train_here(settings)
    own = train(small_run(tmp_path / "own", images, optim=dict(max_steps=2)))
    kept = {path: path.read_bytes() for path in own.rglob("*") if path.is_file()}
    fetch = ["--fetch", settings.home, "--output-dir"]
    assert exit_code(runs.main, [*fetch, str(own.parent)]) == 2
    assert "must be an earlier copy of this run in which nobody has trained" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in own.rglob("*") if path.is_file()} == kept

    copies = tmp_path / "copies"
    for _ in range(2):
        assert exit_code(runs.main, [*fetch, str(copies)]) == 0
        assert max(losses(copies / "run")) == 4
    train(small_run(tmp_path, images, optim=dict(epochs=EPOCHS), run=dict(checkpoint_every=2, output_dir=str(copies))))
    assert exit_code(runs.main, [*fetch, str(copies)]) == 2
    assert max(losses(copies / "run")) == STEPS


def test_results_that_are_taken_there_leave_other_objects_alone(s3, tmp_path, images, monkeypatch):
    settings = stored_run(f"{s3.new_bucket()}/runs", tmp_path, images, optim=dict(max_steps=2))
    train_here(settings)
    there = Bucket(f"{settings.home}/analysis")
    there.write("notes.txt", b"a person's")
    there.write("occlusion_heatmap.png", b"of an earlier analysis")
    asked = ["--checkpoint", settings.home, "--analysis", "eval", "--num-workers", "0", "--no-show"]
    assert exit_code(analyze.main, asked) == 0
    names = there.names()
    assert {"notes.txt", "analysis.json", "eval_metrics.json"} <= {*names} and "occlusion_heatmap.png" not in names
