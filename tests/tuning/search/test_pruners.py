"""The decisions of our asha are those of Optuna's, without reading the study again."""

import numpy as np
import optuna
import pytest
from optuna.pruners import BasePruner, SuccessiveHalvingPruner

from volo.tuning.options import SweepOptions
from volo.tuning.search.pruners import HalvingPruner, pruner_of

GRACE, FACTOR, EPOCHS, TRIALS = 2, 3, 40, 120


def played(pruner: BasePruner, direction: str, restart_at: int | None = None) -> list[int]:
    """The epochs that each trial ran: four train at a time, and a new start continues those that were running."""
    rng = np.random.default_rng(1)
    curves = rng.normal(size=(TRIALS, 1)) + 0.5 * rng.normal(size=(TRIALS, EPOCHS))
    study = optuna.create_study(direction=direction, pruner=pruner)
    running, epochs = [], [0] * TRIALS
    while len(study.get_trials(deepcopy=False)) < TRIALS or running:
        while len(running) < 4 and len(study.get_trials(deepcopy=False)) < TRIALS:
            running.append(study.ask())
        if restart_at is not None and sum(epochs) >= restart_at:
            restart_at, study.pruner = None, HalvingPruner(GRACE, FACTOR)
        trial = running[rng.integers(len(running))]
        epochs[trial.number] += 1
        epoch = epochs[trial.number]
        trial.report(round(curves[trial.number, epoch - 1], 1), epoch)  # some are equal
        if trial.should_prune() or epoch == EPOCHS:
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
            running.remove(trial)
    return epochs


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
@pytest.mark.parametrize("restart_at", [None, 1, 57, 300])
def test_asha_stops_the_trials_that_optunas_stops_also_after_a_new_start(direction, restart_at):
    theirs = played(SuccessiveHalvingPruner(min_resource=GRACE, reduction_factor=FACTOR), direction)
    assert {GRACE, GRACE * FACTOR, GRACE * FACTOR**2, EPOCHS} == set(theirs)
    assert played(HalvingPruner(GRACE, FACTOR), direction, restart_at) == theirs


def test_asha_reads_the_study_once(monkeypatch):
    reads, original = [], optuna.Study.get_trials
    monkeypatch.setattr(optuna.Study, "get_trials", lambda *args, **named: reads.append(1) or original(*args, **named))
    pruner = pruner_of(SweepOptions(space="architecture", num_samples=9, pruner="asha"), EPOCHS, set)
    study = optuna.create_study(direction="maximize", pruner=pruner)
    for number in range(9):
        trial = study.ask()
        for epoch in range(1, 1 + EPOCHS):
            trial.report(number, epoch)
            trial.should_prune()
    assert len(reads) == 1
