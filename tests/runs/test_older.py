"""Runs and a sweep made by an earlier layout of this code, commit bd77bdc: they load, resume and are listed.

older.tar.xz    flat (pooling cli), published (volo_d1's form, with a moving average) after three of eight steps, and
                sweep (one trial over the space mix), all on drawn shapes; tensorboard/ and figures/ left out
"""

import shutil
import tarfile
from pathlib import Path

import pytest

import tune_spaces
import volo
from volo.cli.train import main as train
from volo.data import shapes
from volo.errors import InputError
from volo.runs.listing import find_runs, read_run
from volo.runs.records import read_records
from volo.settings.config import build_settings
from volo.settings.recipes import recipe_settings
from volo.tuning.options import SweepOptions
from volo.tuning.search.spaces import load_space
from volo.tuning.study import SweepStudy

ROOT = Path(__file__).parents[2]
OF_SWEEP = {
    "model": dict(variant="nano", embed_dim=16, num_heads=2, stem_channels=[8, 16]),
    "data": dict(dataset="shapes", train_images=64),
    "optim": dict(batch_size=16, epochs=1),
}
# What the recipe nano was then, other than now.
THEN = {
    "augment": dict(resize_schedule=[]),
    "optim": dict(optimizer="adamw", lr=2e-3, whiten_stem=False),
}


@pytest.fixture(scope="module")
def older(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("older")
    with tarfile.open(Path(__file__).with_name("older.tar.xz")) as archive:
        archive.extractall(folder, filter="data")
    return folder


VAL_LOSS = {
    "flat": 4.60957211314771,
    "published": 4.614437725758322,
}  # after the eighth step, resumed by the code that made them


@pytest.mark.parametrize("name", VAL_LOSS)
def test_an_older_run_predicts(older, name):
    image = shapes.draw("test", 0, 1).images[0]
    scores = dict(volo.load(older / name).predict(image, k=100))
    assert set(scores) == set(shapes.CLASS_NAMES)
    assert sum(scores.values()) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("name", VAL_LOSS)
def test_an_older_run_resumes_to_what_the_code_that_made_it_resumed_to(older, name, tmp_path):
    run_dir = shutil.copytree(older / name, tmp_path / name)
    train(["--config", str(run_dir / "config.yaml"), "--max-steps", "8", "--output-dir", str(tmp_path)])
    records = read_records(run_dir)
    assert [record["step"] for record in records if record["kind"] == "step"] == [3, 8]
    assert records[-1]["val/loss"] == pytest.approx(VAL_LOSS[name], rel=1e-4)
    assert read_run(run_dir).state == "finished"


def test_older_runs_are_listed_with_their_states(older):
    found = {folder.relative_to(older).as_posix(): read_run(folder).state for folder in find_runs(older)}
    assert found == {"flat": "finished", "published": "finished", "sweep/trials/0000": "finished"}


def test_an_older_sweep_is_extended(older, tmp_path):
    """Its trial counts, and the next one is another. What its recipe has become is refused, each value by name."""
    folder = shutil.copytree(older / "sweep", tmp_path / "sweep")
    space = load_space(str(ROOT / "tune_spaces" / "mix.py"), tune_spaces)
    now = recipe_settings("nano"), OF_SWEEP
    with pytest.raises(InputError, match=r"optim\.lr: 0\.002 before, 0\.008 now") as refused:
        SweepStudy(folder, space, build_settings(*now), SweepOptions("mix", 2))
    assert all(f".{name}: " in str(refused.value) for values in THEN.values() for name in values)
    study = SweepStudy(folder, space, build_settings(*now, THEN), SweepOptions("mix", 2))
    assert [trial.values for trial in study.trials] == [[pytest.approx(0.0105)]]
    assert study.num_left == 1
    work = study.next_work()
    assert work.number == 1
    assert work.settings.augment != study.settings_of(0, study.trials[0].user_attrs["settings"]).augment
