"""A trial trains on the images of its sweep, whatever its node has."""

from dataclasses import asdict
from pathlib import Path

from tests.training.runs import small_run
from volo.cluster.attempt import Attempt
from volo.cluster.start import StopFile, new_start
from volo.runs.folder import open_data
from volo.runs.images import record
from volo.training.guards.same_data import seen_here
from volo.tuning.trial import run_trial


def test_a_trial_whose_node_has_other_images_than_the_sweep_fails_and_names_them(tmp_path, folder, monkeypatch):
    settings = small_run(tmp_path, folder)
    data, split = open_data(settings.resolved())
    sweep_dir = tmp_path / "sweep"
    sweep_dir.mkdir()
    record(sweep_dir, data.contents)
    start = new_start(sweep_dir)
    StopFile.create(start)
    seen = asdict(seen_here(data, split, settings.resolved().data))
    Path(folder, "train", "cat", "0003.png").unlink()
    told = []
    monkeypatch.setattr("ray.tune.report", told.append)
    run_trial(
        {
            "settings": settings.to_dict(),
            "num_workers": 1,
            "num_local": 1,
            "number": 0,
            "gpus": 0,
            "by_train": False,
            "seen": seen,
        },
        stop=Attempt(start),
    )
    [said] = told
    assert "all ranks must have the same data, got 80 images of 2 classes" in said["failure"]
    assert "1 only where it was started (train/cat/0003.png)" in said["failure"]
    assert not list(tmp_path.rglob("step_*"))
