"""Records whose folder goes away: one error that names it."""

import pytest

from volo.errors import TrainingError
from volo.runs.tracking import Tracker


def test_a_run_folder_that_is_moved_away_is_one_error_and_no_traceback_of_tensorboards_thread(tmp_path, capfd):
    """pytest itself would report what a thread raises."""
    (tmp_path / "run").mkdir()
    tracker = Tracker(tmp_path / "run", 0)
    (tmp_path / "run").rename(tmp_path / "moved")
    place = tmp_path / "run" / "tensorboard"
    with pytest.raises(TrainingError, match=f"could not be written: {place}/events.* \\(No such file or directory\\)"):
        for step in range(1, 10_000):
            tracker.record("epoch", step, **{"val/loss": 1.0})
    with pytest.raises(TrainingError), tracker:
        pass
    assert "Traceback" not in capfd.readouterr().err
