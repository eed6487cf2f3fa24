"""No settings are drawn twice; an exhausted space ends the sweep; copies in older journals do not count."""

import dataclasses

import pytest

from tests.tuning.sweeps import SPACE, base, draw, drawn, epochs_run, opened, play, states
from tests.tuning.test_results import table_of
from tests.tuning.test_study import DISCRETE
from volo.tuning.confirm import named
from volo.tuning.results import ranked, write_results
from volo.tuning.search.points import known_points
from volo.tuning.study import DRAWN, METRICS, REASON, SweepStudy


def distinct(study: SweepStudy) -> set[str]:
    return {str(trial.user_attrs[DRAWN]) for trial in study.trials}


def copied(study: SweepStudy, number: int, times: int = 1) -> None:
    """As versions before ended a trial that drew what trial `number` had: untrained, with that one's results."""
    for _ in range(times):
        twin, trial = study.frozen(number), study.study.ask()
        study.space.draw(Fixed(trial, twin.params))
        trial.set_user_attr(DRAWN, twin.user_attrs[DRAWN])
        for epoch, value in twin.intermediate_values.items():
            trial.report(value, epoch)
        trial.set_user_attr(METRICS, twin.user_attrs[METRICS])
        trial.set_user_attr(REASON, f"the same settings as trial {number}")
        study.study.tell(trial, twin.values, twin.state)


class Fixed:
    """A trial of a study with these values."""

    def __init__(self, trial, params: dict):
        self.trial, self.params = trial, params

    def suggest_categorical(self, name, choices):
        return self._taken("suggest_categorical", name, choices)

    def suggest_float(self, name, *range_, **kwargs):
        return self._taken("suggest_float", name, *range_, **kwargs)

    def suggest_int(self, name, *range_, **kwargs):
        return self._taken("suggest_int", name, *range_, **kwargs)

    def _taken(self, method, name, *range_, **kwargs):
        self.trial.study.sampler.plan[self.trial.number] = self.params
        return getattr(self.trial, method)(name, *range_, **kwargs)


@pytest.mark.parametrize("sampler", ["tpe", "random", "grid"])
def test_a_sweep_of_a_small_space_trains_each_point_once_and_ends(tmp_path, sampler):
    study = play(opened(tmp_path, space=DISCRETE, sampler=sampler, num_samples=25))
    assert len(study.trials) == len(distinct(study)) == 1 + 8 == study.limit
    assert (study.num_left, study.next_work()) == (0, None)
    assert all(epochs_run(study, trial.number) for trial in study.trials)
    assert play(opened(tmp_path, space=DISCRETE, sampler=sampler, num_samples=50)).num_left == 0


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_as_many_different_settings_are_drawn_as_are_asked_for(tmp_path, sampler):
    study = play(opened(tmp_path, space=DISCRETE, sampler=sampler, num_samples=8))
    assert len(study.trials) == len(distinct(study)) == 8
    assert study.num_left == 0


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_a_sweep_of_a_small_space_killed_again_and_again_draws_what_an_undisturbed_one_does(tmp_path, sampler):
    sweep = dict(space=DISCRETE, sampler=sampler, num_samples=20, pruner="none", settings=base(epochs=2))
    whole = play(opened(tmp_path / "whole", **sweep))
    while (study := opened(tmp_path / "killed", **sweep)).num_left:
        play(study, most=1, hears_last=len(study.trials) % 2 == 0)
    assert drawn(study) == drawn(whole)
    assert states(study) == states(whole) == ["COMPLETE"] * 9


def test_a_space_whose_points_cannot_be_counted_ends_when_it_draws_nothing_new(tmp_path):
    def uncounted(trial) -> dict:
        assert trial.number >= 0
        return {"augment": {"label_smoothing": trial.suggest_categorical("label_smoothing", [0.1, 0.2, 0.3])}}

    space = dataclasses.replace(SPACE, draw=uncounted, first_points=())
    assert known_points(space) is None
    study = play(opened(tmp_path, space=space, num_samples=12))
    assert len(study.trials) == 1 + 3 == study.limit
    assert (study.is_exhausted, study.num_left) == (True, 0)
    again = opened(tmp_path, space=space, num_samples=12)
    assert (again.num_left, again.next_work()) == (0, None)


def test_a_point_for_which_the_space_raises_fails_once(tmp_path):
    def raising(trial) -> dict:
        value = trial.suggest_categorical("label_smoothing", [0.1, 0.2, 0.3])
        assert value < 0.3, "too smooth"
        return {"augment": {"label_smoothing": value}}

    space = dataclasses.replace(SPACE, draw=raising, first_points=())
    study = play(opened(tmp_path, space=space, num_samples=12, pruner="none"))
    assert sorted(states(study)) == ["COMPLETE", "COMPLETE", "COMPLETE", "FAIL"]
    assert study.num_left == 0


def test_what_does_not_change_the_settings_is_no_other_point(tmp_path):
    def idle(trial) -> dict:
        trial.suggest_categorical("idle", ["a", "b", "c"])
        return {"augment": {"label_smoothing": trial.suggest_categorical("label_smoothing", [0.1, 0.2])}}

    study = play(opened(tmp_path, space=dataclasses.replace(SPACE, draw=idle, first_points=()), num_samples=12))
    assert len(study.trials) == 1 + 2


def test_equal_first_points_are_tried_once_however_they_are_written(tmp_path):
    def numbered(trial) -> dict:
        drawn = {"label_smoothing": trial.suggest_float("label_smoothing", 0.0, 1.0, step=0.25) / 2}
        return {"augment": drawn, "optim": {"weight_decay": 0.01 * trial.number}}

    points = ({"label_smoothing": 1}, {"label_smoothing": 0})
    study = play(opened(tmp_path, space=dataclasses.replace(SPACE, draw=numbered, first_points=points), num_samples=6))
    drawn_first = [trial.params.get("label_smoothing") for trial in study.trials]
    assert drawn_first[:3] == [None, 1.0, 0.0]
    assert len(study.trials) == 6
    assert {*drawn_first[3:]} - {0.0, 1.0}


@pytest.fixture
def older(tmp_path) -> SweepStudy:
    """Six trials, and four copies of the best one, in a journal of a version before; room for four more."""
    study = play(opened(tmp_path, num_samples=6, pruner="median", keep_checkpoints=3))
    copied(study, ranked(study)[0].number, times=4)
    return opened(tmp_path, num_samples=10, pruner="median", keep_checkpoints=3)


def test_copies_of_an_older_journal_are_no_trials_of_the_sweep(older):
    assert older.num_left == 4
    play(older)
    assert len(older.trials) == 6 + 4 + 4
    assert len(distinct(older)) == len(ranked(older)) == len(older.distinct) == 10
    write_results(older)
    assert [row["trial"] for row in table_of(older)] == [str(trial.number) for trial in ranked(older)]


def test_copies_of_an_older_journal_take_no_place_among_the_kept_checkpoints_or_the_confirmed(older):
    write_results(older)
    kept = {number for number in range(6) if (older.run_dir(number) / "checkpoints").exists()}
    assert kept == {trial.number for trial in ranked(older)[:3]}
    assert len({*named(older, 3).values()}) == 4
    assert not any("copy" in name for name in named(older, 3))


def test_copies_of_an_older_journal_do_not_move_the_median(older):
    """A trial that is better than the median of six, but not of ten of which five are the best one."""
    ends = sorted(trial.intermediate_values[3] for trial in older.distinct if trial.state.name == "COMPLETE")
    work = older.next_work()
    for epoch in (1, 2, 3):
        assert not older.report(work.number, {"epoch": epoch, "step": epoch, "val/acc1": (ends[-2] + ends[-1]) / 2})


def test_a_trial_that_an_older_driver_left_half_drawn_is_drawn_to_its_end(tmp_path):
    study = play(opened(tmp_path, num_samples=3, pruner="none"))
    begun = study.study.ask()
    mixing = begun.suggest_categorical("mixing", ["none", "mixup"])
    again = opened(tmp_path, num_samples=4, pruner="none")
    work = again.next_work()
    assert work.number == 3
    assert again.frozen(3).params["mixing"] == mixing
    assert work.drawn == again.frozen(3).user_attrs[DRAWN]
    assert again.space.draw is draw
