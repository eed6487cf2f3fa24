"""Whether a run is in training, asked without taking its lock, on file systems with and without flock."""

import errno
import fcntl
import warnings

import pytest
from filelock import FileLock

from volo.runs.listing import LOCK, is_locked


@pytest.mark.parametrize("has_flock", [True, False])
def test_a_lock_is_seen_while_it_is_held_and_not_afterwards(tmp_path, monkeypatch, has_flock):
    def missing(*_):
        raise OSError(errno.ENOSYS, "Function not implemented")

    if not has_flock:
        monkeypatch.setattr(fcntl, "flock", missing)
    assert not is_locked(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that another kind of lock is used
        with FileLock(tmp_path / LOCK):
            assert is_locked(tmp_path)
    assert not is_locked(tmp_path)
