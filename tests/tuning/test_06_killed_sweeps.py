"""Row 6 of the table of faults: a sweep's driver killed at any moment, and what a crash leaves of the journal."""

import json
import shutil

import pytest

from tests.tuning.sweeps import base, drawn, epochs_run, opened, play, states
from volo.tuning.journal import JOURNAL
from volo.tuning.study import DRAWN


def leave_as_a_crash_does(sweep_dir) -> None:
    """A last line that was not written whole, and the journal's own lock."""
    with open(sweep_dir / JOURNAL, "a") as file:
        file.write('{"op_code":7,"worker_id":"ab')
    (sweep_dir / f"{JOURNAL}.lock").touch()


@pytest.mark.parametrize("pruner", ["none", "asha"])
@pytest.mark.parametrize("hears_last", [True, False])
def test_a_repeatedly_killed_sweep_draws_and_trains_the_same_as_an_undisturbed_one(tmp_path, pruner, hears_last):
    """Killed after every second epoch, before or after it is reported; TPE has started to learn by then."""
    sweep = dict(num_samples=14, pruner=pruner, settings=base(epochs=3))
    whole, killed = play(opened(tmp_path / "whole", **sweep)), tmp_path / "killed"
    while (study := opened(killed, **sweep)).num_left:
        play(study, most=2, hears_last=hears_last)
        leave_as_a_crash_does(killed)
    assert drawn(study) == drawn(whole)
    assert states(study) == states(whole)
    for number in range(14):
        assert epochs_run(study, number) == epochs_run(whole, number) == sorted({*epochs_run(whole, number)})


def test_what_a_trial_draws_is_one_line_of_the_journal_so_that_none_is_ever_half_drawn(tmp_path):
    study = play(opened(tmp_path / "whole", num_samples=5, pruner="none"))
    before = (study.sweep_dir / JOURNAL).read_text().splitlines(keepends=True)
    [start] = [place for place, line in enumerate(before) if _is_start_of_trial(json.loads(line), 4, before[:place])]
    began = json.loads(before[start])
    assert began["params"].keys() == study.trials[4].params.keys()
    assert began["user_attrs"][DRAWN] == study.trials[4].user_attrs[DRAWN]
    for cut in (start, start + 1):
        sweep_dir = tmp_path / f"cut{cut}"
        shutil.copytree(study.sweep_dir, sweep_dir, ignore=shutil.ignore_patterns("0004"))
        (sweep_dir / JOURNAL).write_text("".join(before[:cut]) + before[cut][:10])
        again = play(opened(sweep_dir, num_samples=5, pruner="none"))
        assert drawn(again) == drawn(study)
        assert epochs_run(again, 4) == [1, 2, 3, 4]


def _is_start_of_trial(line: dict, number: int, before: list[str]) -> bool:
    created = 4  # optuna's JournalOperation.CREATE_TRIAL
    return line["op_code"] == created and sum(json.loads(one)["op_code"] == created for one in before) == number


def test_a_trial_that_ended_unreported_is_complete_without_being_handed_out_again(tmp_path):
    study = play(opened(tmp_path, num_samples=2, pruner="none"), most=4, hears_last=False)
    assert states(study) == ["RUNNING"]
    study = opened(tmp_path, num_samples=1, pruner="none")
    assert states(play(study, most=0)) == ["COMPLETE"]
    assert study.next_work() is None
    assert epochs_run(study, 0) == [1, 2, 3, 4]


def test_an_epoch_whose_checkpoint_was_not_saved_is_not_reported(tmp_path):
    study = play(opened(tmp_path, num_samples=1, pruner="none"), most=2, hears_last=False)
    shutil.rmtree(study.run_dir(0) / "checkpoints" / "step_00000020")
    study = play(opened(tmp_path, num_samples=1, pruner="none"), most=0)
    assert list(study.trials[0].intermediate_values) == [1]


def test_a_running_trial_resumes_with_the_settings_it_started_with(tmp_path):
    study = opened(tmp_path)
    begun = [study.next_work(), study.next_work()]
    again = opened(tmp_path)
    assert [again.next_work(), again.next_work()] == begun
    assert again.next_work().number == 2
