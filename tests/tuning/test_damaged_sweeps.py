"""Row 15 for sweeps: whatever a file that is read back has become, the sweep continues, and the file is named."""

import contextlib
import json
import re
import shutil
import warnings
from pathlib import Path

import pytest

from tests.runs.test_damaged_files import DAMAGE
from tests.runs.test_disk_room import full_disk
from tests.tuning.sweeps import drawn, opened, play, play_epoch, states
from volo.cluster.start import StopFile
from volo.errors import InputError, TrainingError
from volo.runs.home import Home
from volo.runs.places import JOURNAL, SWEEP_FILES, SWEEP_FOLDERS, TABLE
from volo.tuning.confirm import FAILURES, FOLDER, Confirmation
from volo.tuning.journal import LOST, held
from volo.tuning.report.confirmation import FILE, read_confirmation
from volo.tuning.results import BEST_CONFIG, write_report, write_results
from volo.tuning.study import REASON, SweepStudy
from volo.tuning.trial import run_trial

OPTIONS = dict(pruner="none", num_samples=3)
LINES = {  # of the journal: what became of one
    "torn": lambda line: line[: len(line) // 2] + b"\n",
    "torn at its start": lambda line: b'{"o\n',
    "empty": lambda line: b"\n",
    "another kind of value": lambda line: b"[1]\n",
    "a byte that is no text": lambda line: line[:-3] + b"\xff" + line[-3:],
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> SweepStudy:
    """A finished sweep; two of its trials ran at the same time."""
    study = opened(tmp_path_factory.mktemp("sweep"), **OPTIONS)
    works = [study.next_work() for _ in range(2)]
    for _ in range(4):
        for work in works:
            study.report(work.number, play_epoch(study, work))
    return play(study)


def damaged(whole: SweepStudy, sweep_dir: Path, place: int, how: str) -> list[bytes]:
    """A copy of the sweep with another line at this place of its journal. Returns the lines."""
    lines = (whole.sweep_dir / JOURNAL).read_bytes().splitlines(keepends=True)
    lines[place] = LINES[how](lines[place])
    sweep_dir.mkdir()
    (sweep_dir / JOURNAL).write_bytes(b"".join(lines))
    (sweep_dir / "trials").symlink_to(whole.sweep_dir / "trials")
    return lines


def facts(trial) -> tuple:
    return trial.params, trial.state, trial.values, trial.intermediate_values, trial.user_attrs


def reopened(sweep_dir: Path) -> tuple[SweepStudy, str]:
    """The study, and what was said about its journal."""
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        study = opened(sweep_dir, **OPTIONS)
    return study, "\n".join(str(warning.message) for warning in warned)


@pytest.mark.parametrize("how", LINES)
def test_a_damaged_line_of_the_journal_costs_its_trial_and_never_gives_it_anothers_results(how, whole, tmp_path):
    """Each line in turn: one trial at most is another, and a trial that is lost fails with the reason."""
    before, num_lost = [facts(trial) for trial in whole.trials], 0
    num_lines = (whole.sweep_dir / JOURNAL).read_bytes().count(b"\n")
    for place in range(num_lines):
        sweep_dir = tmp_path / str(place)
        lines = damaged(whole, sweep_dir, place, how)
        study, said = reopened(sweep_dir)
        assert f"repaired {sweep_dir / JOURNAL}, in which line {place + 1} was damaged" in said
        assert (sweep_dir / f"{JOURNAL}.damaged").read_bytes() == b"".join(lines)
        after = [facts(trial) for trial in study.trials]
        others = [number for number, trial in enumerate(before) if after[number] != trial]
        assert len(after) == len(before) and len(others) <= 1
        lost = [trial.number for trial in study.trials if trial.user_attrs.get(REASON) == LOST]
        assert lost in ([], others) and (not lost or f"trial {lost[0]} counts as failed" in said)
        num_lost += len(lost)
        if not others:
            assert "has lost the settings" in said or study.num_left == 0
        assert reopened(sweep_dir)[1] == "", "what is repaired stays so"
    assert num_lost == 3


def test_a_sweep_with_a_lost_trial_goes_on_to_its_end_and_tries_what_the_trial_had(whole, tmp_path):
    lines = (whole.sweep_dir / JOURNAL).read_bytes().splitlines()
    starts = [place for place, line in enumerate(lines) if json.loads(line)["op_code"] == 4]
    damaged(whole, tmp_path / "sweep", starts[1], "torn")
    (tmp_path / "sweep" / "trials").unlink()
    shutil.copytree(whole.sweep_dir / "trials", tmp_path / "sweep" / "trials")
    with pytest.warns(UserWarning, match="trial 1 counts as failed"):
        study = opened(tmp_path / "sweep", pruner="none", num_samples=4)
    play(study)
    assert states(study) == ["COMPLETE", "FAIL", "COMPLETE", "COMPLETE"]
    assert drawn(study)[3] == drawn(whole)[1]
    write_results(study)
    assert LOST in (study.sweep_dir / TABLE).read_text()


def test_a_line_that_a_crash_cut_short_does_not_cost_the_one_appended_to_it(whole, tmp_path):
    lines = (whole.sweep_dir / JOURNAL).read_bytes().splitlines(keepends=True)
    (tmp_path / JOURNAL).write_bytes(b"".join([*lines[:-1], b'{"op_code":7,"worker_id":"ab', lines[-1]]))
    study, said = reopened(tmp_path)
    assert [facts(trial) for trial in study.trials] == [facts(trial) for trial in whole.trials]
    assert "what it said is lost" in said


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"[1]\n[2]\n"])
def test_a_journal_of_which_nothing_is_left_is_refused_beside_its_trials(whole, tmp_path, content):
    (tmp_path / JOURNAL).write_bytes(content)
    (tmp_path / "trials").symlink_to(whole.sweep_dir / "trials")
    with pytest.raises(InputError, match=f"{tmp_path / JOURNAL} must hold the study of the trials beside it"):
        opened(tmp_path, **OPTIONS)
    assert (tmp_path / JOURNAL).read_bytes() == content


@pytest.mark.parametrize("name", [*SWEEP_FILES, *SWEEP_FOLDERS])
def test_a_folder_in_place_of_a_file_of_a_sweep_or_the_other_way_round_is_refused_by_name(name, tmp_path):
    (tmp_path / JOURNAL).touch()
    (tmp_path / name).unlink(missing_ok=True)
    (tmp_path / name).touch() if name in SWEEP_FOLDERS else (tmp_path / name).mkdir()
    with pytest.raises(InputError, match=f"{re.escape(str(tmp_path / name))} must be a f"), held(tmp_path):
        pytest.fail("the folder was taken")


@pytest.mark.parametrize("how", DAMAGE)
def test_what_a_sweep_writes_for_others_may_be_damaged(how, tmp_path):
    """The table, the best settings, and what the confirmation left."""
    study = play(opened(tmp_path, confirm_top=1, confirm_seeds=1, **OPTIONS))
    Confirmation(study).fail(0, "lost")
    Confirmation(study).write()
    write_results(study)
    paths = [tmp_path / name for name in (TABLE, BEST_CONFIG, FILE, f"{FOLDER}/{FAILURES}")]
    before = [path.read_bytes() for path in paths[:3]]
    for path in paths:
        path.write_bytes(DAMAGE[how](path.read_bytes()))
    with pytest.raises(InputError, match=re.escape(str(tmp_path / FILE))):
        read_confirmation(tmp_path)
    with pytest.warns(UserWarning, match=re.escape(f"skipped {paths[3]}, which is damaged")):
        confirmation = Confirmation(study)
    assert confirmation.num_left == 2, "the failed one is tried again"
    confirmation.fail(0, "lost")
    confirmation.write()
    write_results(study)
    assert [path.read_bytes() for path in paths[:3]] == before
    assert json.loads(paths[3].read_text()) == {"0000/seed1": "lost"}


def test_a_report_beside_a_damaged_confirmation_is_drawn_and_names_it(whole, tmp_path, caplog):
    sweep_dir = shutil.copytree(whole.sweep_dir, tmp_path / "sweep")
    (sweep_dir / FILE).write_bytes(b"[1]")
    write_report(opened(sweep_dir, **OPTIONS))
    assert str(sweep_dir / FILE) in (sweep_dir / "sweep_report.html").read_text()
    assert not caplog.records


def test_a_finished_trial_whose_last_record_is_lost_fails_with_the_reason(tmp_path, monkeypatch):
    """Its weights are there, but what they reached is not: another epoch's value would be wrong."""
    study = play(opened(tmp_path, num_samples=1, pruner="none"), most=4, hears_last=False)
    path = study.run_dir(0) / "metrics.jsonl"
    path.write_bytes(path.read_bytes()[:-5])
    work = opened(tmp_path, num_samples=1, pruner="none").next_work()
    told = []
    monkeypatch.setattr("ray.tune.report", told.append)
    monkeypatch.setattr("volo.tuning.trial._opened", lambda settings: contextlib.nullcontext((True, Home())))
    run_trial({"settings": work.settings.to_dict(), "by_train": False}, stop=StopFile(tmp_path))
    assert told == [{"failure": f"TrainingError: {path} has lost the record of epoch 4, the last"}]


WRITES = {
    "a trial begins": lambda study, work: study.next_work(),
    "an epoch": lambda study, work: study.report(work.number, {"epoch": 1, "step": 10, "val/acc1": 0.5}),
    "the last epoch": lambda study, work: study.report(work.number, {"epoch": 4, "step": 40, "val/acc1": 0.5}),
    "a failure": lambda study, work: study.fail(work.number, "no memory"),
    "the results": lambda study, work: write_results(study),
    "a run that failed": lambda study, work: Confirmation(study).fail(0, "no memory"),
}


@pytest.mark.parametrize("write", WRITES)
def test_a_full_disk_ends_the_sweep_and_fails_no_trial(write, tmp_path):
    study = play(opened(tmp_path, confirm_top=1, **OPTIONS))
    study = opened(tmp_path, confirm_top=1, pruner="none", num_samples=5)
    work = study.next_work()
    before = states(study)
    with (
        full_disk(),
        pytest.raises(TrainingError, match=r"could not be written: |could not be written \(File too large"),
    ):
        WRITES[write](study, work)
    again = opened(tmp_path, confirm_top=1, pruner="none", num_samples=5)
    assert states(again) == before and "FAIL" not in before
    assert [again.next_work(), states(again)] == [work, before]
