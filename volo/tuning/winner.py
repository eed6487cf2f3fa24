"""The winner of a sweep: the settings of its best trial as a run of their own, to be trained in full.

    <sweep>/winner-0007/            of trial 7, for as many epochs as the trials
            winner-0007-epochs50/   the same settings, trained for 50

A sweep that is extended may find another winner, which then has its own folder; the one before stays.
"""

import shutil

from volo.errors import TrainingError
from volo.files import partial_of, remove_abandoned
from volo.runs.folder import find_start, write_file
from volo.runs.listing import CONFIG, LOCK
from volo.settings.config import FREE_ON_RESUME, Settings, build_settings, differences
from volo.settings.yaml_files import read_yaml
from volo.tuning.results import BEST_CONFIG, best_trial
from volo.tuning.study import DRAWN, SweepStudy


def winner_settings(study: SweepStudy, num_epochs: int | None = None) -> Settings:
    """Those of best_config.yaml, for a run by the workers that the sweep's own settings name.

    Args:
        study: Of a sweep whose results are written.
        num_epochs: To train for; None: as long as the trials.

    Raises:
        TrainingError: no trial has been trained to the end.
    """
    best = best_trial(study)
    if best is None:
        raise TrainingError("no trial has been trained to the end yet, so none is the best; the same command goes on")
    is_other = num_epochs is not None and num_epochs != study.num_epochs
    name = f"winner-{best.number:04d}" + (f"-epochs{num_epochs}" if is_other else "")
    run = study.base.run.model_dump(mode="json", exclude={"seed"})
    run |= {"output_dir": str(study.sweep_dir), "run_name": name, "fresh": False}
    epochs = {"optim": {"epochs": num_epochs}} if is_other else {}
    return build_settings(read_yaml(study.sweep_dir / BEST_CONFIG), epochs, {"run": run})


def take_over(study: SweepStudy, winner: Settings) -> None:
    """Lets the winner's run begin as a copy of its trial's, where that has been trained with just these settings: to
    train it again would show the same. The trial's own weights may go when the sweep is extended."""
    best = best_trial(study)
    assert best is not None, "winner_settings has found it"
    trial = study.settings_of(best.number, best.user_attrs[DRAWN])
    differ = differences(trial, winner).keys() - FREE_ON_RESUME
    if winner.run_dir.exists() or differ or not find_start(trial).is_finished(trial):
        return
    remove_abandoned(study.sweep_dir)
    partial = partial_of(winner.run_dir)
    shutil.copytree(trial.run_dir, partial, ignore=shutil.ignore_patterns(LOCK))
    write_file(partial / CONFIG, winner.to_yaml())
    partial.rename(winner.run_dir)
    print(
        f"trial {best.number} was trained with just these settings: its run is the winner's; --winner-epochs trains "
        "one for longer",
        flush=True,
    )
