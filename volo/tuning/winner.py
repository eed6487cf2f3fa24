"""The winner of a sweep: the settings of its best trial as a separate run, to be trained in full.

    <sweep>/winner-0007/            trial 7's settings, for as many epochs as the trials
            winner-0007-epochs50/   the same settings, trained for 50 epochs

An extended sweep may find another winner, which gets its own folder; the previous one stays.
"""

from volo.errors import TrainingError
from volo.settings.config import Settings, build_settings
from volo.settings.differences import FREE_ON_RESUME, differences
from volo.settings.yaml_files import read_yaml
from volo.tuning.results import BEST_CONFIG, best_trial
from volo.tuning.study import DRAWN, SweepStudy


def winner_settings(study: SweepStudy, num_epochs: int | None = None) -> Settings:
    """The settings of best_config.yaml, with the workers that the sweep's own settings name.

    Args:
        study: The study of a sweep whose results are written.
        num_epochs: Epochs to train; None: as many as the trials.

    Raises:
        TrainingError: no trial has been trained to the end.
    """
    best = best_trial(study)
    if best is None:
        raise TrainingError("no trial has been trained to the end yet, so none is the best; the same command continues")
    is_other = num_epochs is not None and num_epochs != study.num_epochs
    name = f"winner-{best.number:04d}" + (f"-epochs{num_epochs}" if is_other else "")
    run = study.base.run.model_dump(mode="json", exclude={"seed"})
    run |= {"output_dir": study.home.place, "run_name": name, "fresh": False}
    epochs = {"optim": {"epochs": num_epochs}} if is_other else {}
    return build_settings(read_yaml(study.sweep_dir / BEST_CONFIG), epochs, {"run": run})


def take_over(study: SweepStudy, winner: Settings) -> None:
    """Copies the trial's run to the winner's if it was trained with exactly these settings: training again would give
    the same result. The trial's own weights may be removed when the sweep is extended."""
    best = best_trial(study)
    assert best is not None, "winner_settings has found it"
    trial = study.settings_of(best.number, best.user_attrs[DRAWN])
    differ = differences(trial, winner).keys() - FREE_ON_RESUME
    if not differ and study.home.take_over(trial, winner):
        print(
            f"trial {best.number} was trained with exactly these settings, so its run is the winner's; use "
            "--winner-epochs to train longer",
            flush=True,
        )
