"""Has one process at a time write to a run's folder on a machine.

A worker can outlive its driver, and its part in the cluster, for as long as it takes to end a save. Meanwhile it prunes
checkpoints, of which a new start may just have chosen one.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from volo.errors import InputError, TrainingError
from volo.locks import take
from volo.runs.places import WORKER_LOCK
from volo.settings.config import Settings
from volo.training.world import World

WAIT_S = 180.0  # longer than a save waits for object storage


@contextlib.contextmanager
def only_writer(settings: Settings, world: World) -> Iterator[None]:
    """Holds the folder for a rank that writes there, until the block ends; all ranks call this.

    Raises:
        TrainingError: a worker of an earlier start still writes there.
    """
    writes = world.local_rank == 0 if settings.is_in_bucket else world.is_main
    lock = _held(settings.run_dir) if writes else None
    try:
        yield
    finally:
        if lock is not None:
            lock.release()


def _held(run_dir: Path) -> FileLock | None:
    """None where the disk has no locks."""
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        return take(run_dir / WORKER_LOCK, WAIT_S, "set --output-dir to another disk")
    except Timeout:
        raise TrainingError(
            f"{run_dir} must be written by one worker at a time, but one of an earlier start still writes there after "
            f"{WAIT_S:.0f} s; end it, and the same command resumes"
        ) from None
    except (OSError, InputError):
        return None
