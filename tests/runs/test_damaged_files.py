"""Row 15: whatever a file of a run that is read back has become, its checkpoints resume, and the file is named."""

import re
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import draw_folder
from tests.training.runs import losses, same, small_run, train, weights
from volo.analysis.local import analyze_here
from volo.cli import runs as listing
from volo.cli.outcome import exit_code
from volo.cluster.attempt import Attempt, Follower, failure_in
from volo.errors import InputError
from volo.runs import checkpoint
from volo.runs.folder import note_failure, open_run
from volo.runs.listing import read_environment, read_failure
from volo.runs.places import RUN_FILES, RUN_FOLDERS
from volo.runs.records import parsed, read_records

STEPS = 6  # of twelve; an epoch has four


def torn(content: bytes) -> bytes:
    """The line in the middle ends in its middle."""
    lines = content.splitlines(keepends=True)
    middle = len(lines) // 2
    lines[middle] = lines[middle][: len(lines[middle]) // 2] + b"\n"
    return b"".join(lines)


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "a byte that is no text": lambda content: content[:40] + b"\xff" + content[40:],
    "empty": lambda content: b"",
    "another kind of value": lambda content: b"[1]\n",
    "the last line torn": lambda content: content[:-5],
    "a line torn": torn,
    "a record without a step": lambda content: b'{"kind": "epoch", "epoch": 1}\n' + content,
    "numbers that are words": lambda content: b'{"kind": "epoch", "epoch": 1, "step": 1, "val/acc1": "1"}\n' + content,
    "nested without end": lambda content: b"[" * 100_000 + b"\n",
}
READ_BACK = ("metrics.jsonl", "config.yaml", "environment.json", "best", "last")


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    counts = {"cat": 40, "dog": 40}
    return draw_folder(tmp_path_factory.mktemp("images"), {"train": counts, "test": {"cat": 10, "dog": 10}})


@pytest.fixture(scope="module")
def whole(tmp_path_factory, images) -> Path:
    return train(small_run(tmp_path_factory.mktemp("whole"), images))


@pytest.fixture(scope="module")
def stopped(tmp_path_factory, images) -> Path:
    """A run after half of its steps."""
    return train(small_run(tmp_path_factory.mktemp("stopped"), images, optim=dict(max_steps=STEPS)))


@pytest.fixture
def run_dir(stopped, tmp_path) -> Path:
    """A copy of it, with what a start on Ray and a failure leave."""
    copy = shutil.copytree(stopped, tmp_path / "outputs" / "run")
    for name in ("records.jsonl", "worker-0.json", "error-0.json", "failures.jsonl", "stop"):
        (copy / ".ray" / "001" / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / ".ray" / "001" / name).write_text('{"rank": 0}\n')
    (copy / "failure.txt").write_text("TrainingError: the disk\n")
    return copy


def damage(run_dir: Path, how: str) -> dict[str, bytes]:
    """Damages every file that is read back. Returns what each became."""
    files = [*(run_dir / name for name in READ_BACK), run_dir / "failure.txt", *run_dir.glob(".ray/*/*")]
    for path in files:
        path.write_bytes(DAMAGE[how](path.read_bytes()))
    return {path.name: path.read_bytes() for path in files}


@pytest.mark.parametrize("how", DAMAGE)
def test_a_run_all_of_whose_other_files_are_damaged_resumes_from_its_checkpoints(how, run_dir, whole, images, tmp_path):
    became = damage(run_dir, how)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        train(small_run(tmp_path, images))
    said = "\n".join(str(warning.message) for warning in warned)
    assert same(weights(run_dir), weights(whole))
    later = {step: loss for step, loss in losses(whole).items() if step > STEPS}
    assert later.items() <= losses(run_dir).items() <= losses(whole).items()
    for pointer in ("best", "last"):
        assert (run_dir / pointer).read_text() == (whole / pointer).read_text()
    config = re.sub("output_dir: .*", "", (run_dir / "config.yaml").read_text())
    assert config == re.sub("output_dir: .*", "", (whole / "config.yaml").read_text()), "what was torn is written again"
    copies = {path.name.removesuffix(".damaged"): path.read_bytes() for path in run_dir.glob("*.damaged")}
    assert copies.items() <= became.items()
    assert {name for name in ("metrics.jsonl", "config.yaml") if name in said} == {*copies}
    is_noticed = how not in ("empty", "the last line torn")  # that is what a crash leaves
    assert ("metrics.jsonl" in copies) == is_noticed and "config.yaml" in copies


@pytest.mark.parametrize("how", DAMAGE)
def test_a_run_with_damaged_files_is_listed_and_explained_and_each_file_is_named(how, run_dir, capsys):
    damage(run_dir, how)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        assert exit_code(listing.main, ["--output-dir", str(run_dir.parent)]) == 0
        assert checkpoint.find(run_dir).name in ("step_00000004", "step_00000006")
        assert isinstance(read_environment(run_dir), dict)
        assert all({"kind", "step"} <= record.keys() for record in read_records(run_dir))
    assert "run  " in capsys.readouterr().out
    said = "\n".join(str(warning.message) for warning in warned)
    assert str(run_dir / "environment.json") in said and str(run_dir / "best") in said


def test_an_analysis_of_a_run_with_damaged_files_is_that_of_the_run(run_dir, tmp_path):
    def eval_metrics(name: str) -> bytes:
        best = run_dir / "checkpoints" / "step_00000004"
        analyze_here(best, ("eval",), tmp_path / name, split="test", data_dir=None, device="cpu")
        return (tmp_path / name / "eval_metrics.json").read_bytes()

    before = eval_metrics("before")
    damage(run_dir, "another kind of value")
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        assert eval_metrics("after") == before
    assert "environment.json, which is damaged" in "\n".join(str(warning.message) for warning in warned)


@pytest.mark.parametrize("name", [*RUN_FILES, *RUN_FOLDERS])
def test_a_folder_in_place_of_a_file_or_the_other_way_round_is_refused_by_name(name, run_dir, images, tmp_path):
    path = run_dir / name
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    path.touch() if name in RUN_FOLDERS else path.mkdir()
    settings = small_run(tmp_path, images)
    with pytest.raises(InputError, match=f"{re.escape(str(path))} must be a fil|{re.escape(str(path))} must be a fol"):
        open_run(settings)


def test_a_pointer_out_of_the_run_points_nowhere(run_dir, whole):
    for named in (whole / "checkpoints" / "step_00000012", f"../../{whole.name}/checkpoints/step_00000012", "\0", "."):
        (run_dir / "best").write_text(f"{named}\n")
        with pytest.warns(UserWarning, match="must name a checkpoint of the run"):
            assert checkpoint.find(run_dir).name == "step_00000006"
        with pytest.raises(InputError, match="best must name a checkpoint"):
            checkpoint.find(run_dir / "best")


@pytest.mark.parametrize("how", DAMAGE)
def test_what_the_processes_of_a_start_tell_each_other_may_be_damaged(how, run_dir):
    damage(run_dir, how)
    attempt = Attempt(run_dir / ".ray" / "001")
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        assert attempt.members() == attempt.errors() == []
        assert attempt.last_failure() is None and attempt.stop.asked() == 0
        assert [record for record in Follower(attempt.records, parsed).new() if "val/acc1" in record] == []
    assert "worker-0.json" in "".join(str(warning.message) for warning in warned)


def test_a_record_that_a_kill_cut_short_costs_that_of_the_start_after_it_alone(tmp_path):
    path = tmp_path / "records.jsonl"
    path.write_text(
        '{"kind": "step", "step": 1}\n{"kind": "st{"kind": "step", "step": 2}\n{"kind": "step", "step": 3}\n'
    )
    assert [record["step"] for record in Follower(path, parsed).new()] == [1, 3]
    assert Follower(path, failure_in).new() == []


def test_a_failure_that_cannot_be_noted_leaves_no_empty_note(tmp_path, monkeypatch):
    from tests.runs.test_disk_room import full_disk

    with full_disk():
        assert note_failure(tmp_path, ValueError("lost")) is None
    assert not list(tmp_path.iterdir())
    (tmp_path / "failure.txt").write_bytes(b"")
    assert read_failure(tmp_path) is None
    (tmp_path / "failure.txt").write_bytes(b"no \xff memory")
    assert note_failure(tmp_path, ValueError("later")) == "no \ufffd memory"
