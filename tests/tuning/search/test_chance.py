"""What a sweep says of chance: silent on noise at the rate that it claims, and not silent on an effect.

Nothing is trained: a sweep's own study draws the settings and is told values. Every rate is that of whole sweeps, in
which anything at all is said.
"""

import dataclasses
from collections.abc import Callable
from math import comb
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binom

import tune_spaces
from tests.tuning.sweeps import SPACE, base, opened
from volo.tuning.report import SweepFacts
from volo.tuning.report.confirmation import Confirmed, verdicts
from volo.tuning.report.importance import ALPHA, importances
from volo.tuning.report.trials import Sweep
from volo.tuning.report.words import findings, verdict_in_words
from volo.tuning.search.points import known_points
from volo.tuning.search.spaces import Space, load_space
from volo.tuning.study import REASON, SweepStudy

Value = Callable[[dict, int], float]  # a function of the parameters and the epoch
SURE = 1e-3  # how rarely a true claim may be rejected here


def smoothing(value: float) -> dict:
    return {"augment": {"label_smoothing": value}}


def binary(num: int) -> Space:
    """So many settings of two values each."""

    def draw(trial) -> dict:
        bits = [trial.suggest_categorical(f"bit{place}", [0, 1]) for place in range(num)]
        return smoothing(sum(bit << place for place, bit in enumerate(bits)) / 2 ** (num + 1))

    return dataclasses.replace(SPACE, draw=draw, first_points=())


def continuous() -> Space:
    def draw(trial) -> dict:
        values = [trial.suggest_float(name, 0.0, 1.0) for name in ("one", "two", "three", "four")]
        return {**smoothing(values[0] / 2), "optim": {"lr": 1e-4 + values[1], "weight_decay": values[2] + values[3]}}

    return dataclasses.replace(SPACE, draw=draw, first_points=())


def conditional() -> Space:
    """The project's largest space, with many conditional parameters."""
    return load_space("architecture", tune_spaces)


def swept(folder: Path, space: Space, seed: int, value: Value, *, epochs: int = 1, **options) -> SweepStudy:
    """A sweep whose trials reach `value` plus unit noise, independent for each epoch."""
    rng = np.random.default_rng(seed)
    settings = base(epochs=epochs, model={"variant": "nano"}, run={"seed": seed})
    study = opened(folder / f"{space.name}-{seed}", space=space, settings=settings, **options)
    while work := study.next_work():
        params, epoch, has_ended = study.frozen(work.number).params, 0, False
        while not has_ended:
            epoch += 1
            told = value(params, epoch) + rng.normal()
            has_ended = study.report(work.number, {"epoch": epoch, "step": epoch, "val/acc1": told})
    return study


def named(study: SweepStudy) -> set[str]:
    """Everything that the report calls more than chance, at the end or before."""
    facts = SweepFacts("s", "s", "s", ["val/acc1"], study.num_epochs, study.run_dir)
    return {name for one in importances(Sweep.of(study.study, facts)) for name in one.beyond_chance}


def noise(params: dict, epoch: int) -> float:
    return 0.0


def at_most(rate: float, num_sweeps: int) -> int:
    """The most false claims that are plausible at this rate; more have a probability of at most SURE."""
    return int(binom.ppf(1 - SURE, num_sweeps, rate))


def rate_of(folder: Path, space: Space, num_sweeps: int, value: Value = noise, **options) -> list[set[str]]:
    return [named(swept(folder, space, seed, value, **options)) for seed in range(num_sweeps)]


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_a_space_with_few_points_names_nothing_however_many_trials_are_asked_for(tmp_path, sampler):
    """Three settings of two values, and `pooling`: eight and five points, which are too few to tell."""
    for space, num_points in ((binary(3), 8), (load_space("pooling", tune_spaces), 5)):
        assert len(known_points(space)) == num_points
        found = rate_of(tmp_path, space, 3, sampler=sampler, pruner="none", num_samples=40)
        assert found == [set()] * 3


SPACES = {"binary": binary(6), "continuous": continuous(), "conditional": conditional()}


@pytest.mark.parametrize("name", ["binary", "continuous"])
def test_noise_names_no_setting_more_often_than_is_claimed(tmp_path, name):
    found = rate_of(tmp_path, SPACES[name], 6, sampler="random", pruner="none", num_samples=24)
    assert sum(map(bool, found)) <= at_most(ALPHA, 6)


@pytest.mark.slow
@pytest.mark.parametrize(("sampler", "pruner"), [("random", "none"), ("tpe", "asha")])
@pytest.mark.parametrize("name", SPACES)
def test_over_forty_sweeps_noise_names_no_setting_more_often_than_is_claimed(tmp_path, name, sampler, pruner):
    """With early stopping there are two sets of scores, and one claim."""
    sweep = dict(sampler=sampler, pruner=pruner, num_samples=40, epochs=1 if pruner == "none" else 6)
    found = rate_of(tmp_path, SPACES[name], 40, **sweep)
    assert sum(map(bool, found)) <= at_most(ALPHA, 40)


def planted_form(params: dict, epoch: int) -> float:
    return 3.0 * (params["form"] == "pyramid")


PLANTED = [
    pytest.param("binary", 40, "bit1", lambda params, epoch: 3.0 * params.get("bit1", 0), id="binary"),
    pytest.param("continuous", 40, "two", lambda params, epoch: 6.0 * params.get("two", 0.5), id="continuous"),
    pytest.param("conditional", 80, "form", planted_form, id="conditional", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("name", "num_samples", "matters", "value"), PLANTED)
def test_a_setting_worth_three_times_the_noise_is_named_in_most_sweeps(tmp_path, name, num_samples, matters, value):
    """Over its two values; over a continuous range from end to end it is worth six times the noise. The more settings
    are tested together, the more trials that takes."""
    found = rate_of(tmp_path, SPACES[name], 4, value, sampler="random", pruner="none", num_samples=num_samples)
    assert sum(matters in names for names in found) >= 3


def test_repeated_trials_of_an_older_journal_name_nothing(tmp_path):
    """What the report made of forty trials of eight points, most of them copies: a setting beyond chance."""
    for seed in range(5):
        study = swept(tmp_path, binary(3), seed, noise, sampler="random", pruner="none", num_samples=8)
        ends = [trial for trial in study.trials if trial.params]
        rng = np.random.default_rng(seed)
        for place in rng.integers(len(ends), size=32):
            copy = study.study.ask(dict(ends[place].distributions))
            for name, value in (*ends[place].user_attrs.items(), (REASON, "the same settings as another")):
                copy.set_user_attr(name, value)
            study.study.tell(copy, ends[place].values)
        assert named(study) == set()


def test_seeds_of_one_setting_count_once_with_their_mean(tmp_path):
    def draw(trial) -> dict:
        bits = [trial.suggest_categorical(f"bit{place}", [0, 1]) for place in range(3)]
        return {**smoothing(sum(bit << place for place, bit in enumerate(bits)) / 16), "run": {"seed": trial.number}}

    space = dataclasses.replace(SPACE, draw=draw, first_points=())
    study = swept(tmp_path, space, 0, noise, sampler="random", pruner="none", num_samples=40)
    assert len(study.trials) == 40
    assert named(study) == set()


def confirmed(name: str, values: np.ndarray) -> Confirmed:
    return Confirmed(name, None, 1, {str(seed): float(value) for seed, value in enumerate(values)}, 0)


def judged(rng: np.random.Generator, num_compared: int, num_seeds: int, effect: float = 0.0) -> list:
    runs = [confirmed("base", rng.normal(size=num_seeds))]
    names = ["best", "trial 7", "trial 9"][:num_compared]
    runs += [confirmed(name, rng.normal(effect, size=num_seeds)) for name in names]
    return verdicts(runs, is_maximized=True)


@pytest.mark.parametrize("num_seeds", [2, 3, 4])
def test_equal_settings_are_called_better_as_rarely_as_claimed(num_seeds):
    rng, num = np.random.default_rng(0), 4000
    found = [judged(rng, 1, num_seeds)[0] for _ in range(num)]
    claimed = found[0].chance
    assert claimed == 1 / comb(2 * num_seeds, num_seeds)
    separated = {sign: sum(one.separation == sign for one in found) for sign in (1, -1)}
    for count in separated.values():
        assert binom.ppf(SURE, num, claimed) <= count <= binom.ppf(1 - SURE, num, claimed)
    better = sum("better by" in verdict_in_words("val/acc1", one, 1) for one in found)
    assert better == (separated[1] if claimed <= 1 / 20 else 0)


@pytest.mark.parametrize("num_compared", [2, 3])
def test_any_of_several_equal_settings_is_called_better_as_rarely_as_claimed(num_compared):
    rng, num = np.random.default_rng(1), 4000
    found = [judged(rng, num_compared, 3) for _ in range(num)]
    said = verdict_in_words("val/acc1", next(one for all_ in found for one in all_ if one.separation > 0), num_compared)
    claimed = num_compared / 20
    assert f"to any of them up to 1 in {int(1 / claimed)} times" in said
    assert sum(any(one.separation > 0 for one in all_) for all_ in found) <= binom.ppf(1 - SURE, num, claimed)


def test_a_setting_that_is_better_by_four_times_the_noise_is_called_better_in_most_confirmations():
    rng = np.random.default_rng(2)
    found = [judged(rng, 2, 3, effect=4.0) for _ in range(200)]
    assert sum(all(one.holds and one.separation > 0 for one in all_) for all_ in found) > 150


def test_the_best_of_a_sweep_of_noise_is_never_called_better_without_new_seeds(tmp_path):
    study = swept(tmp_path, continuous(), 0, noise, sampler="random", pruner="none", num_samples=20)
    facts = SweepFacts("s", "s", "s", ["val/acc1"], 1, study.run_dir, confirm_flags="--confirm-top 1")
    sweep = Sweep.of(study.study, facts)
    said = " ".join(findings(sweep, [], importances(sweep)))
    assert "not yet shown to be better" in said or "The base itself" in said
    assert "better by" not in said


def test_what_the_best_of_a_sweep_of_noise_reached_is_usually_more_than_new_seeds_of_it_reach():
    """The verdict that the report shows beside the seeds."""
    rng = np.random.default_rng(3)
    lucky = [rng.normal(size=20).max() > rng.normal(size=3).mean() for _ in range(500)]
    assert np.mean(lucky) > 0.9


def test_the_pruner_stops_trials_of_noise_without_favor(tmp_path):
    """Which half of a setting's values a trial took does not change how often it is stopped."""
    stopped: dict[int, list[bool]] = {0: [], 1: []}
    for seed in range(8):
        study = swept(tmp_path, binary(6), seed, noise, epochs=6, sampler="random", pruner="asha", num_samples=24)
        for trial in study.trials[1:]:
            stopped[trial.params["bit0"]].append(trial.state.name == "PRUNED")
    shares = [np.mean(one) for one in stopped.values()]
    spread = sum(np.mean(one) * (1 - np.mean(one)) / len(one) for one in stopped.values()) ** 0.5
    assert min(shares) > 0.3 and abs(shares[0] - shares[1]) < 3.3 * spread


def test_the_pruner_stops_what_is_worse_by_three_times_the_noise_more_often(tmp_path):
    stopped: dict[int, list[bool]] = {0: [], 1: []}
    for seed in range(4):
        study = swept(
            tmp_path, binary(6), seed, lambda params, epoch: 3.0 * params.get("bit0", 0),
            epochs=6, sampler="random", pruner="asha", num_samples=24,
        )  # fmt: skip
        for trial in study.trials[1:]:
            stopped[trial.params["bit0"]].append(trial.state.name == "PRUNED")
    assert np.mean(stopped[0]) > np.mean(stopped[1]) + 0.2
