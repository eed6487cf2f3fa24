"""Row 20: `--fresh` renames what this project made, under its lock and once all else has been checked; no more."""

import contextlib
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

from tests.runs.test_disk_room import MORE_THAN_ANY_DISK
from tests.training.runs import small_run, train
from tests.tuning.sweeps import opened, play
from volo.cli import tune
from volo.cli.outcome import exit_code
from volo.errors import InputError
from volo.runs import checkpoint
from volo.runs.folder import lock_of, open_run, set_aside
from volo.runs.places import LOCK, is_ours


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def text(*names: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text("mine")

    return make


FOREIGN = {
    "a text": text("thesis.txt"),
    "a project with a config.yaml": text("config.yaml", "src/main.py"),
    "a config.yaml alone": text("config.yaml"),
    "checkpoints of another": text("checkpoints/model.ckpt", "checkpoints/step_10/model"),
    "an empty checkpoint": text("checkpoints/step_00000010/model.safetensors"),
    "seeds of flowers": text("seed1/poppy.txt"),
    "runs and a text": text("seed1/config.yaml", "seed1/environment.json", "notes.txt"),
    "a file": lambda folder: folder.write_text("mine"),
}


@pytest.mark.parametrize("kind", FOREIGN)
@pytest.mark.parametrize("command", ["train", "train several seeds", "tune"])
def test_a_folder_that_is_something_else_is_refused_by_name_and_untouched(kind, command, tmp_path, folder, capsys):
    place = tmp_path / "outputs" / "run"
    place.mkdir(parents=True)
    if kind == "a file":
        place.rmdir()
    FOREIGN[kind](place)
    before = place.read_text() if place.is_file() else contents(place)
    if command == "tune":
        flags = ["--space", "mix", "--dataset", "shapes", "--epochs", "2", "--sweep-name", "run", "--fresh"]
        assert exit_code(tune.main, [*flags, "--output-dir", str(place.parent)]) == 2
        said = capsys.readouterr().err
    else:
        seeds = (0, 1) if "seeds" in command else None
        with pytest.raises(InputError) as refused:
            train(small_run(tmp_path, folder, run=dict(fresh=True, seeds=seeds)))
        said = str(refused.value)
    assert f"{place} must be a run, a sweep, an empty folder or not exist, got " in said
    assert f"choose another --{'sweep' if command == 'tune' else 'run'}-name" in said
    assert before == (place.read_text() if place.is_file() else contents(place))
    assert [path.name for path in place.parent.iterdir()] == ["run"]


@pytest.mark.parametrize("kind", [kind for kind in FOREIGN if kind != "a file"])
def test_nor_does_a_run_without_fresh_begin_in_it(kind, tmp_path, folder):
    settings = small_run(tmp_path, folder)
    settings.run_dir.mkdir(parents=True)
    FOREIGN[kind](settings.run_dir)
    before = contents(settings.run_dir)
    with pytest.raises(InputError, match=f"{settings.run_dir} must be a run folder or not exist, got other files"):
        open_run(settings)
    assert contents(settings.run_dir) == before


@pytest.fixture
def earlier(tmp_path, folder) -> Path:
    return train(small_run(tmp_path, folder, optim=dict(max_steps=1)))


REFUSED = {
    "no room": (dict(run=MORE_THAN_ANY_DISK), "the disk must have room"),
    "no data": (dict(data=dict(data_dir="/nowhere")), "/nowhere"),
    "too few images": (dict(optim=dict(batch_size=70)), "batch-size"),
    "no weights": (dict(optim=dict(init_weights="/nowhere.pt")), "/nowhere.pt"),
}


@pytest.mark.parametrize("seeds", [None, (0, 1)])
@pytest.mark.parametrize("reason", REFUSED)
def test_what_is_refused_for_another_reason_renames_nothing(reason, seeds, earlier, tmp_path, folder):
    changed, message = REFUSED[reason]
    before = contents(earlier)
    settings = small_run(tmp_path, folder, **{**changed, "run": changed.get("run", {}) | dict(fresh=True, seeds=seeds)})
    with pytest.raises(InputError, match=message):
        train(settings)
    assert contents(earlier) == before
    assert not earlier.with_name("run.1").exists()
    train(small_run(tmp_path, folder, optim=dict(max_steps=2)))
    assert checkpoint.newest(earlier).name == "step_00000002"


@pytest.mark.parametrize("flags", [["--sampler", "grid"], ["--data-dir", "nowhere"]])
def test_a_sweep_that_is_refused_renames_nothing(flags, tmp_path, capsys):
    sweep_dir = tmp_path / "tune-mix"
    play(opened(sweep_dir, num_samples=1))
    before = contents(sweep_dir)
    data = ["--dataset", "imagefolder"] if "--data-dir" in flags else ["--dataset", "shapes"]
    argv = ["--space", "mix", *data, "--epochs", "2", "--fresh", "--output-dir", str(tmp_path), *flags]
    assert exit_code(tune.main, argv) == 2, capsys.readouterr().err
    assert contents(sweep_dir).keys() - {LOCK} == before.keys() - {LOCK}
    assert [path.name for path in tmp_path.iterdir()] == ["tune-mix"]


def test_a_sweep_whose_trial_still_trains_is_not_renamed(tmp_path):
    play(opened(tmp_path / "sweep", num_samples=1))
    lock = lock_of(tmp_path / "sweep")
    told = pytest.raises(InputError, match=r"trials/0000 is being trained by another process")
    with FileLock(tmp_path / "sweep" / "trials" / "0000" / LOCK), told:
        set_aside(tmp_path / "sweep")
    set_aside(tmp_path / "sweep")
    lock.release()
    assert [path.name for path in tmp_path.iterdir()] == ["sweep.1"]


def test_of_two_who_want_the_lock_after_a_run_was_renamed_one_gets_it(earlier):
    """A lock follows its file, so that both would hold one, and train in one folder."""
    lock, waits, taken = lock_of(earlier), threading.Event(), []

    def wait() -> None:
        waits.set()
        with contextlib.suppress(InputError):
            taken.append(lock_of(earlier))

    waiter = threading.Thread(target=wait)
    waiter.start()
    waits.wait()
    set_aside(earlier)
    lock.release()
    with contextlib.suppress(InputError):
        taken.append(lock_of(earlier))
    waiter.join()
    assert len(taken) == 1 and not (earlier.with_name("run.1") / LOCK).exists()
    taken[0].release()


def test_an_empty_folder_is_used_as_it_is(tmp_path, folder):
    settings = small_run(tmp_path, folder, run=dict(fresh=True), optim=dict(max_steps=1))
    settings.run_dir.mkdir(parents=True)
    (settings.run_dir / LOCK).touch()
    train(settings)
    assert not settings.run_dir.with_name("run.1").exists()


def test_whatever_this_project_makes_is_known_as_its_own(earlier, tmp_path, folder):
    several = train(small_run(tmp_path, folder, run=dict(seeds=(0, 1), run_name="group"), optim=dict(max_steps=1)))
    sweep = play(opened(tmp_path / "sweep", num_samples=1)).sweep_dir
    assert is_ours(earlier) and is_ours(several) and is_ours(several / "seed0") and is_ours(sweep)
    (earlier / "config.yaml").unlink()
    assert is_ours(earlier), "its checkpoints say so"
