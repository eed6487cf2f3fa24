"""The best trials and the base on other seeds: which, how often, and the verdict. Runs are faked, not trained."""

import dataclasses
import json

import pytest

from tests.tuning.sweeps import SPACE, base, epochs_run, opened, play, play_epoch
from volo.errors import InputError
from volo.tuning.confirm import Confirmation, named
from volo.tuning.options import Objective, SweepOptions, check_base
from volo.tuning.report.confirmation import FILE, read_confirmation
from volo.tuning.study import DRAWN, SweepStudy

OPTIONS = dict(pruner="none", num_samples=5)


def swept(sweep_dir, **options) -> SweepStudy:
    return play(opened(sweep_dir, **{**OPTIONS, **options}))


def play_runs(confirmation: Confirmation, most: int = 10**6) -> Confirmation:
    """Until all have ended, or `most` epochs more have been trained."""
    while most > 0 and (work := confirmation.next_work()):
        has_ended = False
        while most > 0 and not has_ended:
            has_ended = confirmation.report(work.number, play_epoch(confirmation, work))
            most -= 1
    return confirmation


def test_the_best_and_the_base_train_equally_long_on_seeds_that_the_sweep_has_not_seen(tmp_path):
    study = swept(tmp_path, confirm_top=2, settings=base(run={"seed": 7}, augment={"label_smoothing": 0.5}))
    confirmation = Confirmation(study)
    works = [confirmation.next_work() for _ in range(9)]
    assert confirmation.next_work() is None
    assert {work.settings.run.seed for work in works} == {8, 9, 10}
    assert [run.trial for run in confirmation.runs[:3]] == [run.trial for run in confirmation.runs[3:6]]
    for work, run in zip(works, confirmation.runs, strict=True):
        settings = study.settings_of(run.trial, study.frozen(run.trial).user_attrs[DRAWN])
        assert work.settings.run_dir == tmp_path / f"confirm/{run.trial:04d}/seed{run.seed}"
        for section in ("model", "data", "augment", "optim", "teaching"):
            assert getattr(work.settings, section) == getattr(settings, section)
    best, second = sorted(study.trials[1:], key=lambda trial: -trial.value)[:2]
    assert confirmation.names == {"base": 0, "best": best.number, f"trial {second.number}": second.number}


def test_results_are_written_for_the_report_and_printed(tmp_path):
    study = swept(tmp_path, confirm_top=1)
    confirmation = play_runs(Confirmation(study))
    best = confirmation.names["best"]
    [said] = confirmation.conclusion()
    assert said.startswith(f"val/acc1 on new seeds: Best (trial {best}): ")
    assert "on average over 3 seeds" in said
    assert "Every seed is better than every seed of the base" in said
    found = read_confirmation(tmp_path)
    assert found[1].values == dict.fromkeys("123", study.frozen(best).value)
    assert [(one.trial, one.epochs, one.num_failed) for one in found] == [(0, 4, 0), (best, 4, 0)]


def test_a_confirmation_killed_after_every_epoch_trains_each_epoch_of_each_run_once(tmp_path):
    study = swept(tmp_path, confirm_top=1, confirm_seeds=2)
    for _ in range(2 * 2 * 4):
        confirmation = play_runs(Confirmation(study), most=1)
        assert confirmation.num_left == 0 or "the same command continues" in confirmation.conclusion()[0]
    assert Confirmation(study).next_work() is None
    assert Confirmation(study).num_left == 0
    assert [epochs_run(confirmation, number) for number in range(4)] == [[1, 2, 3, 4]] * 4


def test_a_run_that_fails_is_null_with_its_reason_kept_and_is_not_tried_again(tmp_path):
    study = swept(tmp_path, confirm_top=1)
    confirmation = Confirmation(study)
    lost, diverged = confirmation.next_work(), confirmation.next_work()
    confirmation.fail(lost.number, "its process was lost")
    assert confirmation.report(diverged.number, {"epoch": 1, "val/acc1": float("nan")})
    assert confirmation.outcome(lost.number) == "the base with seed 1 failed: its process was lost"
    again = Confirmation(study)
    assert "must be a finite number, got nan after epoch 1" in again.outcome(diverged.number)
    play_runs(again)
    assert "(2 runs without a value)" in again.conclusion()[0]
    seeds = json.loads((tmp_path / FILE).read_text())["base"]["seeds"]
    assert seeds["1"] is None
    assert None not in (seeds["2"], seeds["3"])


def test_a_trial_whose_runs_all_failed_is_named(tmp_path):
    confirmation = Confirmation(swept(tmp_path, confirm_top=1, confirm_seeds=1))
    confirmation.fail(1, "out of memory")
    play_runs(confirmation)
    assert confirmation.conclusion() == ["every run of best failed"]


def test_more_seeds_or_trials_extend_a_confirmation(tmp_path):
    study = swept(tmp_path, confirm_top=1, confirm_seeds=2)
    play_runs(Confirmation(study))
    study.options = dataclasses.replace(study.options, confirm_top=2, confirm_seeds=3)
    assert Confirmation(study).num_left == 3 * 3 - 2 * 2


def test_a_base_that_is_the_best_itself_is_compared_with_the_next_ones(tmp_path):
    study = swept(tmp_path, settings=base(augment={"label_smoothing": 0.2}))
    names = named(study, 2)
    assert [name.split()[0] for name in names] == ["base", "trial", "trial"]


def test_a_setting_drawn_twice_is_confirmed_once(tmp_path):
    def draw(trial) -> dict:
        return {"augment": {"label_smoothing": trial.suggest_categorical("label_smoothing", [0.1, 0.2, 0.3])}}

    study = swept(tmp_path, space=dataclasses.replace(SPACE, draw=draw, first_points=()), num_samples=12)
    names = named(study, 10)
    chosen = [study.frozen(number).params.get("label_smoothing") for number in names.values()]
    assert sorted(chosen[1:]) == [0.1, 0.2, 0.3]


def test_if_only_the_base_was_trained_to_the_end_there_is_nothing_to_confirm(tmp_path):
    study = swept(tmp_path, confirm_top=3, num_samples=1)
    assert Confirmation(study).num_left == 0
    assert Confirmation(study).conclusion() == ["nothing to confirm: no trial but the base was trained to the end"]
    assert not (tmp_path / FILE).exists()


def test_what_cannot_be_confirmed_is_refused():
    with pytest.raises(InputError, match="--confirm-seeds has no effect without --confirm-top"):
        SweepOptions(space="mix", confirm_seeds=3).check()
    with pytest.raises(InputError, match="--confirm-top must be at least 0, got -1"):
        SweepOptions(space="mix", confirm_top=-1).check()
    objectives = (Objective.parse("params:min"), Objective.parse("val/acc1:max"))
    with pytest.raises(InputError, match="which is the same for all"):
        check_base(base(), objectives, SweepOptions(space="mix", confirm_top=1))
