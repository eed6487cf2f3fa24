"""Row 13: images exchanged, renamed or relabeled between stop and resume are refused by name, by whatever uses a run's
split; what changes no image that is trained or validated on is not.
"""

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.conftest import draw_folder
from tests.faults.tools.forked import Command
from tests.training.runs import small_run, train
from tests.tuning.sweeps import base, opened, play
from volo.analysis.compare import compare_runs
from volo.analysis.subject import open_validation, open_view
from volo.errors import InputError
from volo.runs import checkpoint
from volo.runs.places import IMAGES
from volo.runs.records import read_records
from volo.tuning.study import SweepStudy
from volo.tuning.sweep import run_sweep

SIZE, TIME_NS = 4096, 10**18  # all images have the same size and time, so that only their contents tell them apart
CAT, DOG = "train/cat/0003.png", "train/dog/0005.png"


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A folder with images/ and outputs/run/, stopped after two steps."""
    place = tmp_path_factory.mktemp("trained")
    folder = draw_folder(place / "images", {"train": {"cat": 40, "dog": 40}, "test": {"cat": 10, "dog": 10}})
    for file in folder.rglob("*.png"):
        file.write_bytes(file.read_bytes().ljust(SIZE, b"\0"))
        os.utime(file, ns=(TIME_NS, TIME_NS))
    train(small_run(place, folder, optim=dict(max_steps=2)))
    return place


@pytest.fixture
def images(trained, tmp_path) -> Path:
    """A copy of the images, beside a copy of the run."""
    shutil.copytree(trained / "outputs", tmp_path / "outputs")
    return shutil.copytree(trained / "images", tmp_path / "images")


def exchange(images: Path, one: str = CAT, other: str = DOG) -> None:
    (images / one).rename(images / "aside")
    (images / other).rename(images / one)
    (images / "aside").rename(images / other)


def another(file: Path) -> None:
    """Another image under the same name, of the same size and time."""
    drawn = draw_folder(file.parents[3] / "others", {".": {"owl": 1}}, seed=1000 + int(file.stem)) / "owl" / "0000.png"
    file.write_bytes(drawn.read_bytes().ljust(SIZE, b"\0"))
    os.utime(file, ns=(TIME_NS, TIME_NS))
    shutil.rmtree(drawn.parents[1])


def overwrite_all(images: Path) -> None:
    for file in (images / "train").rglob("*.png"):
        another(file)


def replace_one(images: Path) -> None:
    (images / CAT).unlink()
    shutil.copyfile(images / "test/cat/0000.png", images / "train/cat/new.png")


def damage(images: Path) -> None:
    (images / CAT).write_bytes((images / CAT).read_bytes()[:200])


def link(images: Path) -> None:
    (images / CAT).unlink()
    (images / CAT).symlink_to(images / DOG)


REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "two exchanged": (exchange, f"2 changed ({CAT}, {DOG})"),
    "all overwritten": (overwrite_all, "80 changed (train/cat/0000.png, "),
    "one replaced": (replace_one, f"1 missing ({CAT}), 1 added (train/cat/new.png)"),
    "one removed": (lambda images: (images / CAT).unlink(), f"1 missing ({CAT})"),
    "one added": (lambda images: shutil.copy(images / CAT, images / "train/cat/0.png"), "1 added (train/cat/0.png)"),
    "one renamed": (
        lambda images: (images / CAT).rename(images / "train/cat/9.png"), f"1 moved ({CAT} to train/cat/9.png)"
    ),
    "one relabeled": (
        lambda images: (images / CAT).rename(images / "train/dog/9.png"), f"1 moved ({CAT} to train/dog/9.png)"
    ),
    "one damaged": (damage, f"1 changed ({CAT})"),
    "a link to another": (link, f"1 changed ({CAT})"),
    "one and a test image": (lambda images: exchange(images, CAT, "test/dog/0001.png"), f"1 changed ({CAT})"),
}  # fmt: skip


def move(images: Path) -> Path:
    """Copied elsewhere, with other times, and gone where it was."""
    moved = shutil.copytree(images, images.with_name("moved"), copy_function=shutil.copyfile)
    shutil.rmtree(images)
    return moved


def touch(images: Path) -> None:
    for file in images.rglob("*.png"):
        file.touch()


def link_to_itself(images: Path) -> None:
    (images / CAT).rename(images.with_name("kept.png"))
    (images / CAT).symlink_to(images.with_name("kept.png"))


ALLOWED: dict[str, Callable[[Path], object]] = {
    "nothing": lambda images: None,
    "another place": move,
    "other times": touch,
    "a link to the same content": link_to_itself,
    "a file that is no image": lambda images: (images / "train/cat/readme.txt").write_text("cats"),
    "a hidden file": lambda images: shutil.copy(images / CAT, images / "train/cat/.0003.png"),
    "another test image": lambda images: another(images / "test/cat/0000.png"),
    "one test image fewer": lambda images: (images / "test/cat/0000.png").unlink(),
}


def resumed(images: Path, **overrides) -> None:
    train(small_run(images.parent, images, data=dict(skip_damaged=True), optim=dict(max_steps=3), **overrides))


def validation(run: Path, images: Path):
    description = checkpoint.load_model(checkpoint.newest(run))[1]
    return open_view(description, "val", str(images), run)


@pytest.mark.parametrize("change", REFUSED)
def test_other_images_are_refused_by_name_on_resume_and_to_validate_on_but_not_to_test_on(images, change):
    apply, named = REFUSED[change]
    apply(images)
    run = images.parent / "outputs" / "run"
    for use in (lambda: resumed(images), lambda: validation(run, images)):
        with pytest.raises(InputError) as refused:
            use()
        assert f"got others in {images}: {named}" in str(refused.value)
    assert checkpoint.newest(run).name == "step_00000002"
    description = checkpoint.load_model(checkpoint.newest(run))[1]
    assert len(open_view(description, "test", str(images)).labels) == 20


@pytest.mark.parametrize("change", ALLOWED)
def test_what_changes_no_image_of_a_run_is_resumed_and_validated_on(images, change):
    place = ALLOWED[change](images)
    place = place if change == "another place" else images
    run = images.parent / "outputs" / "run"
    resumed(place) if place == images else train(small_run(run.parents[1], place, optim=dict(max_steps=3)))
    assert checkpoint.newest(run).name == "step_00000003"
    assert len(validation(run, place).labels) == 16


def test_the_same_command_ends_with_code_2_and_names_both_exchanged_images_before_anything_is_trained(images):
    exchange(images)
    job = Command.of(small_run(images.parent, images)).start()
    assert job.ends_with() == 2
    [said] = [line for line in job.said().splitlines() if "error: " in line]
    assert said.endswith(
        f"got others in {images}: 2 changed ({CAT}, {DOG}); restore them, or use --fresh to rename the run and start "
        "again, or another --run-name"
    )
    assert "Traceback" not in job.said() and "resuming" not in job.said()


@pytest.mark.parametrize("harm", [Path.unlink, lambda path: path.write_bytes(path.read_bytes()[:-20])])
def test_without_an_intact_record_other_images_are_refused_though_not_named(images, harm):
    harm(images.parent / "outputs" / "run" / IMAGES)
    exchange(images)
    with pytest.raises(InputError, match=rf"without .*{IMAGES}, intact, it cannot be said which; restore them"):
        resumed(images)
    exchange(images)
    resumed(images)
    exchange(images)
    with pytest.raises(InputError, match=f"2 changed .{CAT}"):
        resumed(images)


def test_a_branch_of_a_run_needs_its_images_too(images):
    exchange(images)
    run = dict(run_name="branch", resume_path=str(images.parent / "outputs" / "run"))
    remedy = f"start a new run from its weights: --init-weights {run['resume_path']} instead of --resume-path"
    with pytest.raises(InputError, match=f"2 changed .*{remedy}"):
        resumed(images, run=run)


def test_compared_with_a_run_of_other_images_a_run_is_said_to_have_others(images):
    run = images.parent / "outputs" / "run"
    assert "images (sha256)" not in compare_runs(run, run).settings
    exchange(images)
    other = train(small_run(images.parent, images, run=dict(run_name="other"), optim=dict(max_steps=1)))
    assert len({*compare_runs(run, other).settings["images (sha256)"]}) == 2


def test_a_checkpoint_that_records_no_images_resumes_as_before_says_so_and_records_them_then(images):
    run = images.parent / "outputs" / "run"
    folder = checkpoint.newest(run)
    weights, description = checkpoint.load_model(folder)
    older = replace(description, data_hash="")
    checkpoint.save(run, weights, older, checkpoint.load_state(folder), checkpoint.verify(folder).total_steps)
    (run / IMAGES).unlink()
    shutil.copytree(run, run.with_name("copy"))
    exchange(images)
    resumed(images)
    notes = [record["text"] for record in read_records(run) if record["kind"] == "note"]
    assert "does not say which images it was trained on" in notes[-1]
    exchange(images)
    with pytest.raises(InputError, match=f"2 changed .{CAT}, {DOG}"):
        resumed(images)
    (images / CAT).unlink()
    with pytest.raises(InputError, match=r"another hash than in .*images were added or removed"):
        resumed(images, run=dict(run_name="copy"))


def test_validation_images_that_may_have_been_trained_on_fit_no_temperature_and_that_is_said(images, capsys):
    resumed(images)
    run = images.parent / "outputs" / "run"
    description = checkpoint.load_model(checkpoint.newest(run))[1]
    assert len(open_validation(description, None, run).labels) == 16
    exchange(images)
    assert open_validation(description, None, run) is None
    said = capsys.readouterr().out
    assert "no validation images are used: to tell validation images from those trained on, the data must have" in said
    assert f"2 changed ({CAT}, {DOG})" in said


def test_test_images_of_class_folders_alone_are_doubted_once_the_others_have_changed(tmp_path):
    """Their names say which are tested on, so one exchanged with another may have been trained on."""
    folder = draw_folder(tmp_path, {"images": {"cat": 40, "dog": 40}}) / "images"
    run = train(small_run(tmp_path, folder, optim=dict(max_steps=1)))
    description = checkpoint.load_model(checkpoint.newest(run))[1]
    view = open_view(description, "test", run=run)
    assert not view.doubt
    tested = Path(view.images.source.name_of(0)).relative_to(folder).as_posix()
    trained_on = Path(open_view(description, "val").images.source.name_of(0)).relative_to(folder).as_posix()
    exchange(folder, tested, trained_on)
    doubt = open_view(description, "test", run=run).notes[0]
    assert doubt.startswith("Test images may be among those trained on")
    assert f"1 changed ({trained_on})" in doubt


def test_a_sweep_continues_only_with_the_teacher_it_started_with_and_every_trial_has_that_one(images, tmp_path):
    """Also if the teacher's run is in training still: a better checkpoint is another teacher."""
    run = images.parent / "outputs" / "run"
    first = checkpoint.newest(run)
    other = checkpoint.newest(train(small_run(tmp_path / "more", images)))
    second = shutil.copytree(other, first.with_name(other.name))
    checkpoint.point(run, "best", first)
    data, teaching = dict(dataset="imagefolder", data_dir=str(images)), dict(teacher=str(run), distillation=0.5)
    settings = base(data=data, optim=dict(batch_size=16), teaching=teaching)

    def again() -> SweepStudy:
        return opened(tmp_path / "sweep", settings=settings, num_samples=1, pruner="none")

    study = again()
    study.check_teacher()
    checkpoint.point(run, "best", second)
    assert study.next_work().settings.teaching.teacher == str(first)
    play(again())
    with pytest.raises(InputError, match=f"a sweep must resume with the teacher .* in {second}; .*, now {first}, or"):
        run_sweep(again())
    checkpoint.point(run, "best", first)
    run_sweep(again())


def test_a_sweep_continues_only_with_the_images_it_started_with(images, tmp_path, capsys):
    """One from before images were recorded records them when it continues."""
    settings = base(data=dict(dataset="imagefolder", data_dir=str(images)), optim=dict(batch_size=16))

    def again() -> SweepStudy:
        return opened(tmp_path / "sweep", settings=settings, num_samples=1, pruner="none")

    play(again())
    run_sweep(again())
    assert "this sweep has not recorded which images it started with" in capsys.readouterr().out
    exchange(images)
    with pytest.raises(InputError) as refused:
        run_sweep(again())
    assert str(refused.value) == (
        f"a sweep must continue with the images it started with, got others in {images}: 2 changed ({CAT}, {DOG}); "
        "restore them, or use --fresh to rename the sweep and start again, or another --sweep-name"
    )
    exchange(images)
    run_sweep(again())
