"""Whole runs in this process: what they leave, how they resume, what they refuse."""

import contextlib
import json
import shutil
from importlib import metadata

import pytest
from filelock import FileLock
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.conftest import draw_folder
from tests.faults.tools.forked import Command
from tests.faults.tools.kills import Kill
from tests.runs.test_disk_room import full_disk
from tests.training.runs import losses, same, small_run, train, weights
from volo import threads
from volo.analysis.subject import load_subject
from volo.errors import InputError, TrainingError
from volo.runs import checkpoint
from volo.runs.listing import LOCK
from volo.runs.records import read_records
from volo.training import loop
from volo.training.learner import Learner


def test_a_run_writes_all_files_that_the_architecture_page_names(tmp_path, folder):
    run_dir = train(small_run(tmp_path, folder))
    names = {"config.yaml", "environment.json", "metrics.jsonl", "tensorboard", "checkpoints", "best", "last"}
    assert names <= {path.name for path in run_dir.iterdir()}
    epochs = [record for record in read_records(run_dir) if record["kind"] == "epoch"]
    assert [record["epoch"] for record in epochs] == [1, 2, 3]
    assert {"train/loss", "val/loss", "val/acc1", "val/acc5", "lr", "images_per_s"} <= epochs[0].keys()
    assert json.loads((run_dir / "environment.json").read_text())["torch"] == metadata.version("torch")
    board = EventAccumulator(str(run_dir / "tensorboard")).Reload()
    assert {"train/loss", "val/acc1", "train/lr", "train/grad_norm"} <= set(board.Tags()["scalars"])
    assert board.Tags()["images"] == ["train/inputs"]


def test_tensorboard_shows_each_step_once_also_of_a_run_killed_before_its_first_checkpoint(tmp_path, folder):
    command = Command.of(small_run(tmp_path, folder))
    for kill in (Kill("before an update", 4), Kill("before a validation", 2)):
        assert command.start(kill).ends_with() == kill.exit_code
    command.finish()
    board = EventAccumulator(str(command.run_dir / "tensorboard"), size_guidance=dict(scalars=0)).Reload()
    assert [event.step for event in board.Scalars("train/loss")] == list(range(1, 13))
    assert [event.step for event in board.Scalars("val/acc1")] == [4, 8, 12]


def test_a_run_stopped_mid_epoch_and_resumed_ends_with_the_same_weights(tmp_path, folder, capsys):
    drop = {"model": dict(drop_rate=0.1, drop_path_rate=0.2)}
    whole = train(small_run(tmp_path / "a", folder, **drop))
    stopped = small_run(tmp_path / "b", folder, **drop, optim=dict(max_steps=6))
    train(stopped)
    resumed = train(small_run(tmp_path / "b", folder, **drop))
    assert "resuming at step 6" in capsys.readouterr().out
    assert same(weights(whole), weights(resumed))
    assert losses(whole) == losses(resumed)
    assert (whole / "best").read_text() == (resumed / "best").read_text()


@pytest.mark.parametrize(
    "model",
    [
        dict(pooling="cls"),
        dict(pooling="cli"),
        dict(form="pyramid", downsample_kind="map"),
        dict(form="pyramid", downsample_kind="token"),
    ],
    ids=lambda model: "-".join(model.values()),
)
def test_every_form_resumes_to_the_same_weights_and_is_rebuilt_from_its_checkpoint_alone(tmp_path, folder, model):
    model = model | dict(drop_path_rate=0.2)
    whole = train(small_run(tmp_path / "a", folder, model=model))
    train(small_run(tmp_path / "b", folder, model=model, optim=dict(max_steps=6)))
    resumed = train(small_run(tmp_path / "b", folder, model=model))
    assert same(weights(whole), weights(resumed))
    assert losses(whole) == losses(resumed)
    rebuilt = load_subject(checkpoint.newest(resumed)).model.state_dict()
    assert same(rebuilt, checkpoint.load_model(checkpoint.newest(resumed))[0])


def test_the_epoch_in_which_a_run_was_stopped_is_recorded_as_that_of_a_whole_run(tmp_path, folder):
    whole = train(small_run(tmp_path / "a", folder))
    train(small_run(tmp_path / "b", folder, optim=dict(max_steps=6)))
    resumed = train(small_run(tmp_path / "b", folder))
    assert epoch_losses(resumed) == epoch_losses(whole)


@pytest.mark.parametrize(("every", "steps"), [(3, [3, 4, 6, 8, 9, 12]), ("0.001s", None)])
def test_checkpoints_are_saved_as_often_as_requested_besides_those_of_epochs(tmp_path, folder, every, steps):
    run_dir = train(small_run(tmp_path, folder, run=dict(checkpoint_every=every, keep_checkpoints=100)))
    saved = sorted(int(path.name[5:]) for path in (run_dir / "checkpoints").iterdir())
    assert saved == steps if steps else len(saved) > 6


def test_a_run_that_resumes_with_other_threads_says_so(tmp_path, folder, capsys, monkeypatch):
    train(small_run(tmp_path, folder, optim=dict(max_steps=2)))
    assert "before on" not in capsys.readouterr().out
    monkeypatch.setattr(threads, "num_cores", lambda: 7)
    train(small_run(tmp_path, folder, optim=dict(max_steps=3)))
    out = " ".join(capsys.readouterr().out.split())
    assert "7 threads each; previously on 1 worker on cpu" in out
    assert "the same images, summed in another order" in out


def test_the_same_command_on_a_finished_run_says_so_and_changes_nothing(tmp_path, folder, capsys):
    run_dir = train(small_run(tmp_path, folder))
    before = {path: path.stat().st_mtime_ns for path in run_dir.rglob("*") if path.name != ".lock"}
    train(small_run(tmp_path, folder))
    assert "this run is finished, at step 12" in capsys.readouterr().out
    assert before == {path: path.stat().st_mtime_ns for path in run_dir.rglob("*") if path.name != ".lock"}


def test_a_damaged_newest_checkpoint_costs_only_its_epoch(tmp_path, folder):
    whole = train(small_run(tmp_path / "a", folder))
    run_dir = train(small_run(tmp_path / "b", folder, optim=dict(max_steps=8)))
    state = run_dir / "checkpoints" / "step_00000008" / checkpoint.STATE
    state.write_bytes(state.read_bytes()[:-1])
    with pytest.warns(UserWarning, match=r"step_00000008.training_state\.pt"):
        train(small_run(tmp_path / "b", folder))
    assert same(weights(whole), weights(run_dir))


def test_a_run_can_branch_off_another_runs_checkpoint(tmp_path, folder):
    first = train(small_run(tmp_path, folder, optim=dict(max_steps=8)))
    branch = small_run(tmp_path, folder, run=dict(run_name="branch", resume_path=str(first)))
    whole = train(small_run(tmp_path / "a", folder))
    assert same(weights(train(branch)), weights(whole))
    assert (branch.run_dir / "best").exists()


def test_a_branch_finds_its_own_best_however_good_the_other_run_was(tmp_path, folder, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(loop, "evaluate", lambda *_: {"val/loss": 0.0, "val/acc1": 1.0, "val/acc5": 1.0})
        first = train(small_run(tmp_path, folder, optim=dict(max_steps=8)))
        branch = train(small_run(tmp_path, folder, run=dict(run_name="branch", resume_path=str(first))))
    assert (branch / "best").read_text() == "checkpoints/step_00000012\n"


def test_other_settings_are_listed_and_refused_and_fresh_sets_the_run_aside(tmp_path, folder):
    run_dir = train(small_run(tmp_path, folder, optim=dict(max_steps=4)))
    before = weights(run_dir)
    changed = dict(optim=dict(lr=0.1), model=dict(drop_rate=0.5))
    with pytest.raises(InputError) as refused:
        train(small_run(tmp_path, folder, **changed))
    assert "optim.lr: 0.002 before, 0.1 now" in str(refused.value)
    assert "model.drop_rate: 0.0 before, 0.5 now" in str(refused.value)
    assert same(weights(run_dir), before)
    train(small_run(tmp_path, folder, **changed, run=dict(fresh=True)))
    assert same(weights(run_dir.with_name("run.1")), before)


def test_an_older_checkpoint_of_the_run_itself_is_refused(tmp_path, folder):
    run_dir = train(small_run(tmp_path, folder, optim=dict(max_steps=8)))
    older = str(run_dir / "checkpoints" / "step_00000004")
    with pytest.raises(InputError, match="must not name an older checkpoint of the run itself"):
        train(small_run(tmp_path, folder, run=dict(resume_path=older)))


def test_a_run_with_a_checkpoint_no_longer_needs_the_path_it_started_from(tmp_path, folder):
    first = train(small_run(tmp_path, folder, optim=dict(max_steps=4)))
    branch = dict(run_name="branch", resume_path=str(first))
    train(small_run(tmp_path, folder, optim=dict(max_steps=6), run=branch))
    shutil.rmtree(first)
    run_dir = train(small_run(tmp_path, folder, optim=dict(max_steps=7), run=branch))
    assert checkpoint.newest(run_dir).name == "step_00000007"


def test_weights_alone_cannot_be_gone_on_from(tmp_path, folder):
    lone = tmp_path / "model.safetensors"
    lone.write_bytes(b"weights")
    with pytest.raises(InputError, match=r"must name a run or checkpoint folder, got .*, which holds only weights"):
        train(small_run(tmp_path, folder, run=dict(resume_path=str(lone))))


@pytest.mark.parametrize("fresh", [False, True])
@pytest.mark.parametrize("place", ["run", "run/seed1"])
def test_a_run_that_another_process_trains_is_not_touched(tmp_path, folder, fresh, place):
    seeds = (0, 1) if place == "run/seed1" else None
    settings = small_run(tmp_path, folder, run=dict(fresh=fresh, seeds=seeds), optim=dict(max_steps=1))
    in_training = tmp_path / "outputs" / place
    in_training.mkdir(parents=True)
    with FileLock(in_training / LOCK), pytest.raises(InputError, match=f"{in_training} is being trained by another"):
        train(settings)
    assert in_training.exists()
    assert not (tmp_path / "outputs" / "run.1").exists()


@pytest.mark.parametrize("seeds", [None, (0,)])
def test_a_restart_by_torchrun_resumes_the_fresh_run(tmp_path, folder, monkeypatch, seeds):
    settings = [small_run(tmp_path, folder, run=dict(fresh=True, seeds=seeds), optim=dict(max_steps=n)) for n in (2, 3)]
    train(settings[0])
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    run_dir = train(settings[1])
    assert list(losses(run_dir / "seed0" if seeds else run_dir)) == [1, 2, 3]
    assert not run_dir.with_name("run.1").exists()


def test_other_images_or_classes_than_the_checkpoints_are_refused(tmp_path, folder):
    train(small_run(tmp_path, folder, optim=dict(max_steps=4)))
    for split in ("train", "test"):
        (folder / split / "cat").rename(folder / split / "bird")
    with pytest.raises(InputError, match="the data must have the checkpoint's classes"):
        train(small_run(tmp_path, folder))
    for split in ("train", "test"):
        (folder / split / "bird").rename(folder / split / "cat")
    (folder / "train" / "cat" / "0000.png").unlink()
    with pytest.raises(InputError, match=r"got others in .*: 1 missing \(train/cat/0000\.png\)"):
        train(small_run(tmp_path, folder))


def test_unusable_data_is_refused_before_the_run_starts(tmp_path, folder):
    with pytest.raises(InputError, match=r"--batch-size must not exceed .* got --batch-size 100, 64 images"):
        train(small_run(tmp_path, folder, optim=dict(batch_size=100)))
    (folder / "train" / "dog" / "0003.png").write_bytes(b"broken")
    with pytest.raises(InputError, match=r"0003\.png"):
        train(small_run(tmp_path, folder))
    shutil.rmtree(folder / "train")
    with pytest.raises(InputError, match="must hold train/<class>/<images>"):
        train(small_run(tmp_path, folder))
    assert not list((tmp_path / "outputs").rglob("step_*"))


def test_a_folder_that_is_not_a_run_is_not_touched(tmp_path, folder):
    settings = small_run(tmp_path, folder)
    settings.run_dir.mkdir(parents=True)
    (settings.run_dir / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="must be a run folder or not exist"):
        train(settings)
    assert [path.name for path in settings.run_dir.iterdir()] == ["thesis.txt"]


def test_without_validation_there_is_no_best(tmp_path, folder):
    run_dir = train(small_run(tmp_path, folder, data=dict(val_fraction=0.0)))
    assert (run_dir / "last").exists()
    assert not (run_dir / "best").exists()


def test_a_loss_that_is_not_finite_fails_and_is_never_saved(tmp_path, folder, monkeypatch):
    real = Learner.update

    def poisoned(self, batch, lr):
        loss, norm = real(self, batch, lr)
        return (loss * float("nan") if self.step == 6 else loss), norm

    monkeypatch.setattr(Learner, "update", poisoned)
    with pytest.raises(TrainingError, match="got nan at step 6"):
        train(small_run(tmp_path, folder))
    assert checkpoint.newest(tmp_path / "outputs" / "run").name == "step_00000004"


def test_a_gradient_that_is_not_finite_fails_and_is_never_saved_or_best(tmp_path, folder, monkeypatch):
    """At the last step of the second epoch, where the loss is still finite."""
    real = Learner.update

    def poisoned(self, batch, lr):
        if self.step == 7:
            next(self.model.parameters()).register_hook(lambda gradient: gradient * float("nan"))
        return real(self, batch, lr)

    monkeypatch.setattr(Learner, "update", poisoned)
    with pytest.raises(TrainingError, match=r"gradient must stay finite, got a norm of nan at step 8; .* lower --lr"):
        train(small_run(tmp_path, folder))
    run_dir = tmp_path / "outputs" / "run"
    assert checkpoint.newest(run_dir).name == "step_00000004"
    assert (run_dir / "best").read_text() == "checkpoints/step_00000004\n"


def epoch_losses(run_dir) -> dict[int, float]:
    return {record["epoch"]: record["train/loss"] for record in read_records(run_dir) if record["kind"] == "epoch"}


def epochs(run_dir) -> list[tuple[int, float]]:
    return [(record["epoch"], record["val/acc1"]) for record in read_records(run_dir) if record["kind"] == "epoch"]


@pytest.mark.parametrize("place", ["before the checkpoint", "after the checkpoint"])
def test_a_kill_around_an_epochs_checkpoint_loses_neither_best_nor_the_epochs_record(
    tmp_path, folder, monkeypatch, place
):
    whole, settings = train(small_run(tmp_path / "a", folder)), small_run(tmp_path / "b", folder)
    real = checkpoint.save

    def killed(run_dir, weights, description, *others):
        if place == "after the checkpoint":
            real(run_dir, weights, description, *others)
        if place == "before the checkpoint" or description.step == 4:
            raise KeyboardInterrupt
        return None

    with monkeypatch.context() as patched:
        patched.setattr(checkpoint, "save", killed)
        with pytest.raises(KeyboardInterrupt):
            train(settings)
    if place == "after the checkpoint":
        run_dir = train(small_run(tmp_path / "b", folder, optim=dict(max_steps=5)))
        assert (run_dir / "best").read_text() == "checkpoints/step_00000004\n"
    run_dir = train(settings)
    assert epochs(run_dir) == epochs(whole)
    assert (run_dir / "best").read_text() == (whole / "best").read_text()


@pytest.mark.parametrize("name", ["best", "metrics.jsonl"])
def test_a_disk_that_fails_beside_the_checkpoints_is_named_and_the_run_resumes(tmp_path, folder, name, monkeypatch):
    run_dir = train(small_run(tmp_path, folder, optim=dict(max_steps=2)))
    real, failing = Learner.update, contextlib.ExitStack()

    def fails_now(self, batch, lr):
        if self.step == 2 and name == "best":
            (run_dir / name / "in the way").mkdir(parents=True)
        elif self.step == 2:
            failing.enter_context(full_disk())
        return real(self, batch, lr)

    with monkeypatch.context() as patched, failing:
        patched.setattr(Learner, "update", fails_now)
        with pytest.raises(TrainingError, match=f"{name}.* could not be written"):
            train(small_run(tmp_path, folder))
    if name == "best":
        shutil.rmtree(run_dir / name)
    train(small_run(tmp_path, folder))
    assert (run_dir / "best").exists()


def test_accumulated_parts_make_the_same_gradient_as_the_whole_batch(tmp_path, folder):
    one, parts = (losses(train(small_run(tmp_path / str(n), folder, optim=dict(grad_accum_steps=n)))) for n in (1, 3))
    assert all(abs(one[step] - parts[step]) < 1e-4 for step in one)


def test_classes_of_ten_pixels_a_side_of_noise_are_learned(tmp_path):
    counts = {"a": 60, "b": 60, "c": 60}
    images = draw_folder(tmp_path / "images", {"train": counts})
    run_dir = train(small_run(tmp_path, images, optim=dict(epochs=8), augment=dict(mixup_alpha=0, cutmix_alpha=0)))
    last = [record for record in read_records(run_dir) if record["kind"] == "epoch"][-1]
    assert last["val/acc1"] > 0.9
