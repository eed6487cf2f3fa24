"""Recovers from run folders what trials did after the driver ended, before the study could learn of it."""

from optuna.trial import TrialState

from volo.tuning.study import DRAWN, SweepStudy


def recover(study: SweepStudy) -> list[int]:
    """Reports every epoch that a running trial has finished and saved to the study, oldest first.

    A trial that trained its last epoch is then complete, and one that the pruner would have stopped is stopped, without
    training an epoch again. Returns the numbers of the trials that ended this way.
    """
    ended = []
    for trial in study.trials:
        if trial.state == TrialState.RUNNING and DRAWN in trial.user_attrs:
            for record in study.home.saved_epochs(study.run_dir(trial.number)):
                if study.report(trial.number, record):
                    ended.append(trial.number)
                    break
    return ended
