"""The winner of a sweep as a run: its settings, its folder, and what is not trained twice."""

import shutil

import pytest

from tests.tuning.sweeps import base, opened, play
from volo.cli.parse import parse_settings
from volo.errors import TrainingError
from volo.runs.folder import find_start
from volo.runs.listing import CONFIG
from volo.runs.records import read_records
from volo.settings.differences import FREE_ON_RESUME, differences
from volo.tuning.results import BEST_CONFIG, best_trial, write_results
from volo.tuning.winner import take_over, winner_settings


def finished(sweep_dir, **options):
    study = play(opened(sweep_dir, num_samples=4, pruner="none", **options))
    write_results(study)
    return study


def test_the_winner_is_what_best_config_trains_with_the_workers_of_the_sweeps_settings(tmp_path):
    study = finished(tmp_path, settings=base(run={"seed": 3, "num_workers": 2, "max_failures": 7}))
    winner = winner_settings(study)
    trained = parse_settings(["--config", str(tmp_path / BEST_CONFIG)], prog="train", description="")
    assert differences(winner, trained).keys() <= FREE_ON_RESUME
    assert (winner.run.seed, winner.run.num_workers, winner.run.max_failures) == (3, 2, 7)
    assert winner.run_dir == tmp_path / f"winner-{best_trial(study).number:04d}"


def test_a_winner_of_another_length_has_its_own_folder(tmp_path):
    study = finished(tmp_path)
    longer = winner_settings(study, 50)
    assert longer.optim.epochs == 50
    assert longer.run_dir.name == f"winner-{best_trial(study).number:04d}-epochs50"
    assert winner_settings(study, study.num_epochs) == winner_settings(study)
    take_over(study, longer)
    assert not longer.run_dir.exists()


def test_a_winner_as_long_as_its_trial_is_that_trials_run_finished(tmp_path, capsys):
    study = finished(tmp_path)
    winner, number = winner_settings(study), best_trial(study).number
    take_over(study, winner)
    assert capsys.readouterr().out.startswith(f"trial {number} was trained with exactly these settings")
    assert find_start(winner).is_finished(winner)
    assert read_records(winner.run_dir) == read_records(study.run_dir(number))
    written = parse_settings(["--config", str(winner.run_dir / CONFIG)], prog="train", description="")
    assert written.run_dir == winner.run_dir
    shutil.rmtree(study.run_dir(number))
    take_over(study, winner)
    assert find_start(winner).is_finished(winner), "what is there was not taken over again"


def test_a_winner_whose_trial_has_lost_its_weights_is_trained(tmp_path):
    study = finished(tmp_path)
    shutil.rmtree(study.run_dir(best_trial(study).number) / "checkpoints")
    winner = winner_settings(study)
    take_over(study, winner)
    assert not winner.run_dir.exists()


def test_without_a_trial_trained_to_the_end_there_is_no_winner(tmp_path):
    study = play(opened(tmp_path, num_samples=1), most=1)
    write_results(study)
    with pytest.raises(TrainingError, match="no trial has been trained to the end yet, so none is the best"):
        winner_settings(study)
