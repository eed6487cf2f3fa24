"""What `python -m benchmarks.pruning` measures, on curves with a known best."""

import dataclasses
import math

import optuna
import pytest

import tune_spaces
from benchmarks.curves import Curve, Recording, recorded
from benchmarks.pruning import Outcome, replayed, shuffled, verdict
from benchmarks.samplers import Fitted, searched
from tests.tuning.sweeps import STEPS, base, opened, play
from volo.errors import InputError
from volo.tuning.options import SweepOptions
from volo.tuning.search.spaces import load_space

NUM_CURVES, NUM_EPOCHS = 12, 16


def rising(end: float, epochs_to_rise: float = 4.0) -> list[float]:
    return [end * (1 - math.exp(-epoch / epochs_to_rise)) for epoch in range(1, NUM_EPOCHS + 1)]


def recording(curves: list[list[float]], objective: str = "val/acc1:max") -> Recording:
    found = [Curve(number, {}, values, [1.0 + number % 3] * NUM_EPOCHS) for number, values in enumerate(curves)]
    return Recording("played", objective, base(epochs=NUM_EPOCHS).resolved().to_dict(), None, found)


def options(pruner: str) -> SweepOptions:
    return SweepOptions("recorded", num_samples=NUM_CURVES, sampler="random", pruner=pruner)


@pytest.mark.parametrize("objective, sign", [("val/acc1:max", 1), ("val/loss:min", -1)])
def test_of_curves_that_do_not_cross_the_best_is_found_in_any_order_for_a_part_of_the_epochs(objective, sign):
    curves = [[sign * value for value in rising(0.3 + 0.02 * number)] for number in range(NUM_CURVES)]
    asha = dataclasses.replace(options("asha"), objectives=(objective,))
    for seed in range(3):
        found = replayed(recording(curves, objective), shuffled(NUM_CURVES, seed), asha, 2)
        assert (found.winner, found.regret) == (NUM_CURVES - 1, 0.0)
        assert found.epochs < 0.7


def test_without_a_pruner_every_epoch_of_every_curve_is_spent_once():
    curves = [rising(0.3 + 0.02 * number) for number in range(NUM_CURVES)]
    found = replayed(recording(curves), shuffled(NUM_CURVES, 1), options("none"), 2)
    assert found == Outcome(epochs=1.0, time=1.0, winner=NUM_CURVES - 1, regret=0.0, regret_of_whole=0.0)


def test_a_best_curve_that_rises_late_is_missed_and_the_regret_measures_by_how_much():
    curves = [rising(0.3 + 0.02 * number, 2.0) for number in range(NUM_CURVES - 1)] + [[0.0] * (NUM_EPOCHS - 1) + [0.9]]
    found = replayed(recording(curves), range(NUM_CURVES), options("asha"), 2)
    assert found.winner != NUM_CURVES - 1
    assert found.regret == pytest.approx(0.9 - curves[found.winner][-1])


def test_the_goal_is_reached_only_if_every_order_is_cheap_and_good():
    good = Outcome(epochs=0.3, time=0.3, winner=1, regret=0.005, regret_of_whole=0.0)
    assert verdict([good, good], 0.01).endswith("both in 2: reached")
    assert verdict([good, dataclasses.replace(good, epochs=0.5)], 0.01).endswith("both in 1: missed")
    assert verdict([good, dataclasses.replace(good, regret=0.02)], 0.01).endswith("both in 1: missed")


def test_a_sweeps_curves_are_those_of_the_trials_that_were_trained_to_the_end(tmp_path):
    study = play(opened(tmp_path, num_samples=3, pruner="none"), most=9)
    found = recorded(tmp_path)
    assert [curve.number for curve in found.curves] == [0, 1]
    for curve in found.curves:
        assert list(curve.values) == list(study.trials[curve.number].intermediate_values.values())
        batch_size = study.settings_of(curve.number, study.trials[curve.number].user_attrs["settings"]).optim.batch_size
        assert curve.seconds == [STEPS * batch_size / 80] * 4
    assert (found.space, found.objective, found.noise) == ("played", "val/acc1:max", None)
    with pytest.raises(InputError, match="a sweep's folder"):
        recorded(tmp_path / "trials")


def test_both_samplers_search_the_recorded_space_for_a_function_that_passes_near_the_trials():
    draw, study = load_space("mix", tune_spaces).draw, optuna.create_study(sampler=optuna.samplers.RandomSampler(0))
    curves = []
    for number in range(12):
        trial = study.ask()
        draw(trial)
        curves.append(Curve(number, trial.params, [0.6 - trial.params["label_smoothing"]], [1.0]))
    known = Recording("mix", "val/acc1:max", base().resolved().to_dict(), None, curves)
    function = Fitted(known)
    assert function.error < function.error_of_mean
    best = searched(known, function, "tpe", 0, 6)
    assert best == sorted(best)
    assert len(best) == 6
    assert best[:3] == searched(known, function, "random", 0, 6)[:3]
