"""What a sweep knows of its trials: after any change the same as if all of them were read again."""

import random

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState, create_trial

from volo.tuning.journal import STUDY, open_journal
from volo.tuning.search.distinct import DRAWN, copies, identity
from volo.tuning.standings import ORDER, Standings, key_of

ENDS = [TrialState.COMPLETE, TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL]


def of_study(study: optuna.Study) -> tuple:
    """The ranking, the copies, the identities tried and those ended, from all trials at once."""
    trials = study.get_trials(deepcopy=False)
    front = {trial.number for trial in study.best_trials} if len(study.directions) > 1 else set()
    sign = -1 if study.directions[0] == optuna.study.StudyDirection.MAXIMIZE else 1

    def place(trial) -> tuple:
        value = sign * trial.values[0] if trial.values else float("inf")
        return ORDER.index(trial.state), trial.number not in front, value, trial.number

    repeated = copies(trials)
    ranked = sorted((trial for trial in trials if trial.number not in repeated), key=place)
    ended = {identity(trial) for trial in trials if trial.state.is_finished()}
    return [trial.number for trial in ranked], repeated, {identity(trial) for trial in trials}, ended


def of_standings(known: Standings, study: optuna.Study) -> tuple:
    known.look()
    tried = {identity(trial) for trial in study.trials if identity(trial) in known.tried}
    assert len(tried) == len(known.tried)
    ended = {identity(known.trials[number]) for number in known.ended}
    assert len(ended) == known.num_ended
    return [trial.number for trial in known.ranked()], known.copies, tried, ended


def change(study: optuna.Study, rng: random.Random) -> None:
    """What may become of a journal: another trial, an epoch, settings that had not been drawn yet, an end."""
    running = [trial for trial in study.get_trials(deepcopy=False) if trial.state == TrialState.RUNNING]
    if not running or rng.random() < 0.4:
        value = rng.choice([0.1, 0.2, 0.3, 0.4])
        drawn = {DRAWN: {"x": value}} if rng.random() < 0.8 else {}
        space = {"x": FloatDistribution(0, 1)}
        study.add_trial(
            create_trial(state=TrialState.RUNNING, params={"x": value}, distributions=space, user_attrs=drawn)
        )
        return
    trial = optuna.trial.Trial(study, rng.choice(running).number)
    if len(study.directions) == 1 and rng.random() < 0.3:
        trial.report(rng.random(), step=1 + len(study.trials[trial.number].intermediate_values))
    elif DRAWN not in trial.user_attrs:
        trial.set_user_attr(DRAWN, {"x": trial.params["x"]})
    else:
        state = rng.choice(ENDS)
        values = [rng.choice([0.0, 0.5, 1.0]) for _ in study.directions] if state == TrialState.COMPLETE else None
        study.tell(trial, values, state)


@pytest.mark.parametrize("directions", [["maximize"], ["minimize"], ["maximize", "minimize"], ["minimize"] * 3])
@pytest.mark.parametrize("seed", range(3))
def test_after_every_change_they_are_those_of_the_whole_study(tmp_path, directions, seed):
    """With copies, as older journals hold them, and equal values."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(storage=open_journal(tmp_path), study_name=STUDY, directions=directions)
    storage, rng = open_journal(tmp_path), random.Random(seed)
    known = Standings(storage, storage.get_study_id_from_name(STUDY))
    for number in range(60):
        change(study, rng)
        if number % 3 == 0 or number > 40:
            assert of_standings(known, study) == of_study(study)
    later = Standings(storage, known.study_id)
    assert of_standings(later, study) == of_standings(known, study)
    assert known.copies and {trial.state for trial in known.trials} >= {TrialState.COMPLETE, TrialState.FAIL}


def test_parameters_are_the_same_as_python_compares_them():
    assert key_of({"a": 1, "b": [1, 2]}) == key_of({"b": [1.0, 2], "a": True})
    assert key_of({"a": {"x": [1]}}) == key_of({"a": {"x": [1]}}) != key_of({"a": {"x": [2]}})
    assert key_of({"a": "12"}) != key_of({"a": ["1", "2"]})
    assert key_of({}) != key_of({"a": None})
