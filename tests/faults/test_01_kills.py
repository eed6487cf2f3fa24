"""Row 1, on this machine: a run killed anywhere goes on to the weights of an undisturbed one, bit for bit."""

import json
import random
import re
import warnings
from pathlib import Path

import pytest

from tests.conftest import draw_folder
from tests.faults.forked import start, start_ranks
from tests.faults.kills import IN_A_FILE, PLACES, Kill
from tests.training.runs import losses, same, small_run, weights
from volo import checkpoint
from volo.config import Settings

SEED = 6
EPOCHS, EVERY = 20, 2  # of four steps; steps between checkpoints
# The first validation is the best so far, and `best` is put right when the run goes on: killed there as well.
AT_BEST = [Kill("between a checkpoint and best", 1)] * 2
MOST = {"before a file call of a save": 24, IN_A_FILE: 8, "between a rename and its sync": 4, "before a validation": 2}


def drawn_kills() -> list[Kill]:
    """Three of each place but the one above, in any order; at other places than MOST has, of the first four times."""
    draw = random.Random(SEED)
    places = [place for place in PLACES if place != AT_BEST[0].place]
    kills = [Kill(place, draw.randint(1, MOST.get(place, 4))) for place in places for _ in range(3)]
    return AT_BEST + draw.sample(kills, len(kills))


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    counts = {"cat": 40, "dog": 40}
    splits = {"train": counts, "test": dict.fromkeys(counts, 10)}
    return draw_folder(tmp_path_factory.mktemp("data") / "images", splits)


def disturbed_run(tmp_path: Path, images: Path, **run) -> tuple[Settings, list[str]]:
    settings = small_run(tmp_path, images, optim=dict(epochs=EPOCHS), run=dict(checkpoint_every=EVERY) | run)
    (tmp_path / "config.json").write_text(json.dumps(settings.to_dict()))  # JSON is YAML
    return settings, ["--config", str(tmp_path / "config.json")]


def newest_step(run_dir: Path) -> int:
    """Of the newest checkpoint, 0 without one. A kill must not leave a damaged one under a checkpoint's name."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        newest = checkpoint.newest(run_dir)
    return checkpoint.verify(newest).step if newest else 0


def begun_at(said: str) -> int | None:
    """The step that a run said it resumed at, 0 where it starts, None where it died before it could say so."""
    found = re.search(r"(?:resuming at step (\d+)|starting) of", said)
    return int(found[1] or 0) if found else None


def test_a_run_killed_at_26_places_resumes_from_its_newest_checkpoint_to_the_same_weights(tmp_path, images):
    settings, flags = disturbed_run(tmp_path, images)
    run_dir, log, kills = settings.run_dir, tmp_path / "log", drawn_kills()
    step = 0
    for number, kill in enumerate(kills):
        job = start(flags, log, run_dir, kill)
        assert job.wait() == kill.exit_code, f"kill {number}, {kill}: {job.said()}"
        assert begun_at(job.said()) in (step, None)
        assert newest_step(run_dir) >= step, f"kill {number}, {kill}"
        assert max(losses(run_dir), default=0) - newest_step(run_dir) <= 2 * EVERY, f"kill {number}, {kill}"
        step = newest_step(run_dir)
    assert 0 < step < 4 * EPOCHS

    last = start(flags, log, run_dir)
    assert last.wait() == 0, last.said()
    assert begun_at(last.said()) == step
    undisturbed, flags = disturbed_run(tmp_path, images, run_name="undisturbed")
    assert start(flags, log, undisturbed.run_dir).wait() == 0
    assert same(weights(run_dir), weights(undisturbed.run_dir))
    assert losses(run_dir) == losses(undisturbed.run_dir)
    assert (run_dir / "best").read_text() == (undisturbed.run_dir / "best").read_text()


def test_two_ranks_of_which_either_or_both_are_killed_resume_to_the_same_weights(tmp_path, images):
    """The survivor of a killed rank ends by itself and fails."""
    settings, flags = disturbed_run(tmp_path, images, num_workers=None)
    log, later = tmp_path / "log", Kill("after an update", 7)
    for kills in ((None, Kill("before an update", 6)), (Kill("before a file call of a save", 30), None), (later, later)):
        jobs = start_ranks(flags, log, settings.run_dir, kills)
        codes = [job.wait() for job in jobs]
        assert all(code != 0 for code in codes), [job.said() for job in jobs]
        assert -9 in codes
    assert [job.wait() for job in start_ranks(flags, log, settings.run_dir, [None, None])] == [0, 0]

    undisturbed, flags = disturbed_run(tmp_path, images, num_workers=None, run_name="undisturbed")
    assert [job.wait() for job in start_ranks(flags, log, undisturbed.run_dir, [None, None])] == [0, 0]
    assert same(weights(settings.run_dir), weights(undisturbed.run_dir))
    assert losses(settings.run_dir) == losses(undisturbed.run_dir)
