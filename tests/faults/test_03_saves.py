"""Row 3: a save that breaks anywhere, because its process dies or the disk refuses, costs that save alone."""

import itertools
import warnings
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from tests.faults.tools.forked import FORKS, ended
from tests.faults.tools.kills import CUT_AFTER, IN_A_FILE, Fault, Kill, Refusal
from tests.faults.tools.runs import assert_same, command, draw_images, newest_step
from tests.runs.test_checkpoint import damage, save
from volo.errors import TrainingError
from volo.runs import checkpoint

# How often a save comes there at least. Its files are three and `last`; each has a rename, alone or with its folder.
PLACES = {"before a file call of a save": 12, IN_A_FILE: 4, "between a rename and its sync": 2}


def save_with(run_dir: Path, fault: Fault, answer: Connection) -> None:
    """Saves step 2; answers with the error, or that there was none. May die of it."""
    fault.arm(run_dir)
    try:
        save(run_dir, 2)
        answer.send("saved")
    except TrainingError as error:
        answer.send(str(error))


def outcome(run_dir: Path, fault: Fault) -> tuple[int, str]:
    """Exit code and answer of a process that saves step 2."""
    ours, theirs = FORKS.Pipe(duplex=False)
    process = FORKS.Process(target=save_with, args=(run_dir, fault, theirs))
    process.start()
    theirs.close()
    code = ended(process)
    return code, ours.recv() if code == 0 else ""


def check_survives(run_dir: Path, was_damaged: bool = False) -> None:
    """Step 1 is whole, the newest and `last` are 1 or 2, and the next save clears what was left half-written.

    `was_damaged`: step 2 was there before, damaged, and may be passed over still.
    """
    with warnings.catch_warnings(record=True) as passed_over:
        warnings.simplefilter("always")
        newest = checkpoint.newest(run_dir)
    assert len(passed_over) <= was_damaged
    assert checkpoint.verify(newest).step in (1, 2)
    assert checkpoint.verify(run_dir / "checkpoints" / "step_00000001")
    assert checkpoint.pointed(run_dir, "last").name in ("step_00000001", "step_00000002")
    assert checkpoint.verify(save(run_dir, 2))
    checkpoint.prune(run_dir, keep=2)
    assert sorted(path.name[-1] for path in (run_dir / "checkpoints").iterdir()) == ["1", "2"]


@pytest.mark.parametrize(
    "was_damaged", [pytest.param(False, id="new"), pytest.param(True, id="over a damaged one", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("place", PLACES)
def test_a_process_that_dies_anywhere_in_a_save_leaves_the_checkpoint_before_intact(tmp_path, place, was_damaged):
    for count in itertools.count(1):
        run_dir, kill = tmp_path / str(count), Kill(place, count)
        save(run_dir, 1)
        if was_damaged:
            damage(save(run_dir, 2) / checkpoint.STATE, "flip a byte")
        code, _ = outcome(run_dir, kill)
        if code == 0:
            break
        assert code == kill.exit_code
        check_survives(run_dir, was_damaged)
    assert count > PLACES[place]


def test_a_disk_that_refuses_any_file_of_a_save_is_named_and_leaves_the_checkpoint_before_intact(tmp_path):
    for count in itertools.count(1):
        run_dir = tmp_path / str(count)
        save(run_dir, 1)
        code, answer = outcome(run_dir, Refusal(count, CUT_AFTER))
        assert code == 0
        if answer == "saved":
            break
        assert "could not be written: " in answer and "File too large" in answer
        assert not list(run_dir.rglob(".partial-*"))
        check_survives(run_dir)
    assert count > 4


def test_a_run_whose_disk_refuses_ends_with_code_3_and_resumes_to_the_same_weights(tmp_path):
    images = draw_images(tmp_path)
    undisturbed = command(tmp_path, images, 4, run_name="undisturbed")
    undisturbed.finish()
    refused = command(tmp_path, images, 4)
    job = refused.start(Refusal(count=10, limit=100_000))
    assert job.ends_with() == 3, job.said()
    assert "training failed: the checkpoint of step 6 could not be written" in job.said()
    assert "File too large" in job.said() and "the same command resumes" in job.said()
    assert newest_step(refused.run_dir) == 4
    refused.finish()
    assert_same(refused.run_dir, undisturbed.run_dir)
