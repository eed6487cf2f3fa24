"""Row 3: a save that breaks anywhere, because its process dies or the disk refuses, costs that save alone."""

import itertools
import warnings
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from tests.faults.forked import FORKS, LIMIT_S, begin, start
from tests.faults.kills import CUT_AFTER, IN_A_FILE, Kill, Refusal
from tests.faults.runs import disturbed_run, images  # noqa: F401
from tests.test_checkpoint import save
from tests.training.runs import same, weights
from volo import checkpoint
from volo.errors import TrainingError

AT_LEAST = {"before a file call of a save": 12, IN_A_FILE: 4, "between a rename and its sync": 2}


def save_armed(run_dir: Path, fault: Kill | Refusal, answer: Connection) -> None:
    """Saves step 2 in a process that may die of it; else answers with the error, None where there was none."""
    fault.arm(run_dir)
    try:
        checkpoint.save  # noqa: B018
        save(run_dir, 2)
        answer.send(None)
    except TrainingError as error:
        answer.send(str(error))
