"""The study of a sweep: what it hands out, what it stops, what it refuses. Trials are played, not trained."""

import dataclasses
import math

import pytest
from filelock import FileLock

from tests.tuning.sweeps import POINT, SPACE, accuracy, base, draw, drawn, epochs_run, opened, play, states
from volo.errors import InputError
from volo.tuning.journal import held
from volo.tuning.options import SweepOptions
from volo.tuning.search.points import all_points
from volo.tuning.study import DRAWN, REASON


def discrete(trial) -> dict:
    pooling = trial.suggest_categorical("pooling", ["mean", "cli"])
    model = {"pooling": pooling}
    if pooling == "cli":
        model["class_depth"] = trial.suggest_int("class_depth", 1, 3)
    return {"model": model, "augment": {"label_smoothing": trial.suggest_float("label_smoothing", 0.0, 0.1, step=0.1)}}


POINT_OF_DISCRETE = {"pooling": "cli", "class_depth": 2, "label_smoothing": 0.0}
DISCRETE = dataclasses.replace(SPACE, name="discrete", draw=discrete, first_points=(POINT_OF_DISCRETE,))


def test_the_base_is_tried_first_then_the_first_points_then_others(tmp_path):
    study = play(opened(tmp_path, pruner="none"))
    assert states(study) == ["COMPLETE"] * 6
    first, second, *_ = drawn(study)
    assert first == {}
    assert study.settings_of(0, {}).augment == study.base.augment
    assert second == POINT
    assert len({str(point) for point in drawn(study)}) == 6


def test_a_base_that_is_a_point_of_the_space_is_tried_as_that_point(tmp_path):
    point = {"mixing": "none", "label_smoothing": 0.1, "batch_size": 64}
    space = dataclasses.replace(SPACE, first_points=(point,))
    study = play(opened(tmp_path, space=space, settings=base(optim={"batch_size": 64}), num_samples=2))
    assert drawn(study)[0] == point


def test_a_trials_value_is_that_of_its_last_epoch_and_its_run_is_below_the_sweep(tmp_path):
    study = play(opened(tmp_path, pruner="none", num_samples=1))
    [trial] = study.trials
    assert trial.intermediate_values[4] == trial.value
    assert study.settings_of(0, {}).run_dir == tmp_path / "trials" / "0000" == study.run_dir(0)


@pytest.mark.parametrize("pruner", ["asha", "hyperband", "median"])
def test_a_pruner_stops_bad_trials_early_and_the_best_is_among_those_trained_to_the_end(tmp_path, pruner):
    study = play(opened(tmp_path, settings=base(epochs=9), num_samples=16, pruner=pruner, sampler="random"))
    trained = [len(epochs_run(study, number)) for number in range(16)]
    assert sum(trained) < 0.8 * 16 * 9
    assert {*states(study)} == {"COMPLETE", "PRUNED"}
    assert all((state == "PRUNED") == (epochs < 9) for state, epochs in zip(states(study), trained, strict=True))
    finals = [accuracy(study.settings_of(trial.number, trial.user_attrs[DRAWN]), 9) for trial in study.trials]
    assert study.study.best_value >= sorted(finals)[-3]


@pytest.mark.parametrize(("num_epochs", "grace"), [(1, 1), (4, 1), (12, 2), (20, 3), (50, 8)])
def test_by_default_a_seventh_of_the_epochs_is_granted(num_epochs, grace):
    assert SweepOptions("mix").grace_of(num_epochs) == grace
    assert SweepOptions("mix", grace_period=2).grace_of(num_epochs) == 2


def test_the_grace_period_is_granted(tmp_path):
    study = play(opened(tmp_path, settings=base(epochs=8), num_samples=12, grace_period=3, sampler="random"))
    assert "PRUNED" in states(study)
    assert min(len(epochs_run(study, number)) for number in range(12)) == 3


def test_tpe_finds_better_settings_than_it_started_with(tmp_path):
    study = play(opened(tmp_path, settings=base(epochs=1), num_samples=30, pruner="none"))
    smoothings = [trial.params["label_smoothing"] for trial in study.trials[1:]]
    early, late = (sum(abs(value - 0.2) for value in part) / len(part) for part in (smoothings[:10], smoothings[-10:]))
    assert late < early


def test_a_grid_tries_each_point_of_a_conditional_space_once_and_ends(tmp_path):
    study = play(opened(tmp_path, space=DISCRETE, sampler="grid", pruner="none", num_samples=100))
    points = drawn(study)
    assert points[0] == {}
    assert points[1] == POINT_OF_DISCRETE
    assert sorted(map(str, points[1:])) == sorted(str(point.params) for point in all_points(DISCRETE))
    assert len(points) == 1 + 2 + 3 * 2
    assert states(study) == ["COMPLETE"] * 9
    assert study.num_left == 0


def test_a_grid_of_a_continuous_space_is_refused(tmp_path):
    with pytest.raises(InputError, match="a grid needs a discrete space, got label_smoothing between"):
        opened(tmp_path, sampler="grid")


def test_another_seed_draws_other_settings(tmp_path):
    one, other = (play(opened(tmp_path / str(seed), settings=base(run={"seed": seed}))) for seed in (0, 1))
    assert drawn(one)[2:] != drawn(other)[2:]


def test_more_samples_extend_a_sweep_that_has_ended(tmp_path):
    short = drawn(play(opened(tmp_path, num_samples=3)))
    study = opened(tmp_path, num_samples=6)
    assert study.num_left == 3
    assert drawn(play(study))[:3] == short
    assert len(study.trials) == 6
    assert play(opened(tmp_path, num_samples=6)).num_left == 0


def test_a_trial_whose_value_is_not_finite_fails_with_its_reason_and_the_sweep_continues(tmp_path):
    study = opened(tmp_path, num_samples=2)
    work = study.next_work()
    assert study.report(work.number, {"epoch": 1, "val/acc1": math.nan})
    assert states(study) == ["FAIL"]
    assert study.trials[0].user_attrs[REASON] == "val/acc1 must be a finite number, got nan after epoch 1"
    assert states(play(study))[1] == "COMPLETE"


def test_a_space_that_raises_for_some_points_fails_those_trials_alone(tmp_path):
    def raising(trial):
        settings = draw(trial)
        assert "mixup_alpha" in settings["augment"], "only mixup works"
        return settings

    study = play(opened(tmp_path, space=dataclasses.replace(SPACE, draw=raising), num_samples=8, pruner="none"))
    failed = [trial for trial in study.trials if trial.state.name == "FAIL"]
    assert 0 < len(failed) < 8
    assert failed[0].user_attrs[REASON].startswith("AssertionError: only mixup works")
    assert not study.run_dir(failed[0].number).exists()


def test_several_objectives_have_a_front_and_no_pruner(tmp_path):
    objectives = ("val/acc1:max", "params:min")
    study = opened(tmp_path, objectives=objectives, num_samples=4)
    sizes = iter([400, 300, 200, 100])
    study.counts = lambda settings: {"params": next(sizes)}
    play(study)
    assert states(study) == ["COMPLETE"] * 4
    assert [trial.values[1] for trial in study.trials] == [400, 300, 200, 100]
    assert 3 in [trial.number for trial in study.study.best_trials]
    with pytest.raises(
        InputError, match="stopped early only with a single objective, got --pruner asha and 2 objectives"
    ):
        SweepOptions(space="x", objectives=objectives, pruner="asha").check()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(num_samples=0), "--num-samples must be at least 1, got 0"),
        (dict(max_concurrent="0"), "--max-concurrent must be auto or at least 1, got 0"),
        (dict(gpus_per_trial=0.0), "--gpus-per-trial must be more than 0, got 0.0"),
        (
            dict(gpus_per_trial=0.5, workers_per_trial=2),
            "a fraction of a GPU must be less than 1 and for a single worker",
        ),
        (dict(gpus_per_trial=3.0, workers_per_trial=2), "several workers must have one GPU each"),
        (dict(pruner="none", grace_period=2), "have no effect with --pruner none"),
        (dict(pruner="median", reduction_factor=2), "no effect with --pruner median"),
        (dict(reduction_factor=1), "--reduction-factor must be at least 2, got 1"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        SweepOptions(space="x", **options).check()


@pytest.mark.parametrize(
    ("objectives", "message"),
    [
        (("val/acc1",), "an objective must be METRIC:max or METRIC:min, got 'val/acc1'"),
        (("val/f1:max",), "an objective must be one that a trial reports, got 'val/f1'"),
        (("params:min",), "one objective must be measured in training, got params"),
        (("val/acc1:max", "val/acc1:min"), "objectives must differ"),
    ],
)
def test_objectives_that_cannot_be_compared_are_refused(tmp_path, objectives, message):
    with pytest.raises(InputError, match=message):
        opened(tmp_path, objectives=objectives, pruner="none")


def test_a_sweep_of_another_space_or_other_settings_is_refused_with_the_differences(tmp_path):
    play(opened(tmp_path, num_samples=1))
    other = dataclasses.replace(SPACE, source="another")
    with pytest.raises(InputError) as refused:
        opened(tmp_path, space=other, settings=base(epochs=5), sampler="random")
    for line in (
        "optim.epochs: 4 before, 5 now",
        "space's files (sha256): 'source' before, 'another' now",
        "sampler: 'tpe' before, 'random' now",
    ):
        assert line in str(refused.value)
    play(opened(tmp_path, settings=base(run={"output_dir": "elsewhere"}), num_samples=2, keep_checkpoints=1))


def test_a_sweep_that_another_driver_runs_is_left_alone(tmp_path):
    with (
        FileLock(tmp_path / ".lock"),
        pytest.raises(InputError, match="is being run by another process; wait for it or use another --sweep-name"),
        held(tmp_path),
    ):
        pytest.fail("the lock was given twice")


def test_a_folder_that_is_no_sweeps_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="must be a sweep's folder or not exist"), held(tmp_path):
        pytest.fail("the folder was taken")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
