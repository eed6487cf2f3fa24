"""A run starts only if its folder is writable and has room for the checkpoints to come."""

import contextlib
import resource
from collections.abc import Iterator

import pytest

from tests.training.runs import small_run, train
from volo.errors import InputError
from volo.runs import checkpoint
from volo.runs.disk_room import checkpoint_bytes, needed_bytes, num_checkpoints
from volo.runs.folder import open_run

MORE_THAN_ANY_DISK = dict(keep_checkpoints=10**12)


@contextlib.contextmanager
def full_disk() -> Iterator[None]:
    """No file may grow in this process: a write fails as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_what_a_checkpoint_will_take_is_known_before(tmp_path, folder):
    settings = small_run(tmp_path, folder, model=dict(embed_dim=64), optim=dict(max_steps=1))
    expected = checkpoint_bytes(settings)
    saved = checkpoint.newest(train(settings))
    size = sum(file.stat().st_size for file in saved.iterdir())
    assert expected == pytest.approx(size, rel=0.1)
    assert needed_bytes(settings) == num_checkpoints(settings) * expected - size


def test_the_count_equals_the_checkpoints_on_disk_while_one_is_written(tmp_path, folder):
    assert num_checkpoints(small_run(tmp_path, folder, run=dict(keep_checkpoints=3))) == 5
    assert num_checkpoints(small_run(tmp_path, folder, data=dict(val_fraction=0))) == 3


def test_a_disk_without_room_is_refused_before_anything_is_trained(tmp_path, folder):
    settings = small_run(tmp_path, folder, run=MORE_THAN_ANY_DISK)
    with pytest.raises(
        InputError, match=r"free at .*run for 1000000000002 of .*iB, which need .* TiB more; free some space"
    ):
        train(settings)
    assert not settings.run_dir.exists(), "what is refused leaves no folder"
    train(small_run(tmp_path, folder, optim=dict(max_steps=1)))


def test_a_finished_run_needs_no_room(tmp_path, folder, capsys):
    train(small_run(tmp_path, folder, optim=dict(epochs=1)))
    train(small_run(tmp_path, folder, optim=dict(epochs=1), run=MORE_THAN_ANY_DISK))
    assert "this run is finished" in capsys.readouterr().out


def test_a_disk_too_full_for_the_settings_is_a_wrong_input(tmp_path, folder):
    settings = small_run(tmp_path, folder)
    with full_disk(), pytest.raises(InputError, match=r"the run folder must be writable, got .*run \(File too large\)"):
        open_run(settings)
    assert not settings.run_dir.exists(), "what is refused leaves no folder"
    _, lock = open_run(settings)
    lock.release()
