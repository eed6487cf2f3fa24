"""Row 1, without Ray and torchrun: a run killed anywhere resumes to the weights of an undisturbed one, bit for bit."""

import random
from pathlib import Path

import pytest

from tests.faults.tools.kills import IN_A_FILE, PLACES, Kill
from tests.faults.tools.runs import EVERY, assert_same, begun_at, command, draw_images, newest_step
from tests.training.runs import losses

SEED = 6
EPOCHS = 20
# The first validation is the best so far, and `best` is corrected when the run resumes: it is killed there as well.
AT_BEST = [Kill("between a checkpoint and best", 1)] * 2
MOST = {"before a file call of a save": 24, IN_A_FILE: 8, "before a validation": 2}


def drawn_kills() -> list[Kill]:
    """Three of each other place, in any order: at one of the first four times, or of as many as MOST has."""
    draw = random.Random(SEED)
    places = [place for place in PLACES if place != AT_BEST[0].place]
    kills = [Kill(place, draw.randint(1, MOST.get(place, 4))) for place in places for _ in range(3)]
    return AT_BEST + draw.sample(kills, len(kills))


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    return draw_images(tmp_path_factory.mktemp("data"))


def test_a_run_killed_at_29_places_resumes_each_time_from_its_newest_checkpoint_to_the_same_weights(tmp_path, images):
    disturbed, step = command(tmp_path, images, EPOCHS), 0
    for number, kill in enumerate(drawn_kills(), start=1):
        job = disturbed.start(kill)
        assert job.ends_with() == kill.exit_code, f"kill {number}, {kill}: {job.said()}"
        assert begun_at(job.said()) in (step, None)
        saved, recorded = newest_step(disturbed.run_dir), max(losses(disturbed.run_dir), default=0)
        assert step <= saved and recorded - saved <= 2 * EVERY, f"kill {number}, {kill}"
        step = saved
    assert number == 29 and 0 < step < 4 * EPOCHS

    [said] = disturbed.finish()
    assert begun_at(said) == step
    undisturbed = command(tmp_path, images, EPOCHS, run_name="undisturbed")
    undisturbed.finish()
    assert_same(disturbed.run_dir, undisturbed.run_dir)


def test_two_ranks_of_which_either_or_both_are_killed_resume_to_the_same_weights(tmp_path, images):
    """The survivor of a killed rank ends by itself and fails."""
    disturbed = command(tmp_path, images, EPOCHS, num_workers=None)
    one, other, both = Kill("before an update", 6), Kill("before a file call of a save", 30), Kill("after an update", 7)
    for faults in ((None, one), (other, None), (both, both)):
        jobs = disturbed.start_ranks(*faults)
        codes = [job.ends_with() for job in jobs]
        assert all(codes) and -9 in codes, [job.said() for job in jobs]
    assert newest_step(disturbed.run_dir) > 0
    disturbed.finish(num_ranks=2)

    undisturbed = command(tmp_path, images, EPOCHS, num_workers=None, run_name="undisturbed")
    undisturbed.finish(num_ranks=2)
    assert_same(disturbed.run_dir, undisturbed.run_dir)
