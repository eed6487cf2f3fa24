"""A worker on Ray that hangs."""

import os
import signal
import sys

import pytest

from tests.faults.tools.processes import ended, start, until, workers_of, written
from tests.training.runs import losses, small_run
from volo.runs.listing import read_run


@pytest.mark.slow
@pytest.mark.ray
def test_a_frozen_worker_on_ray_ends_the_run_for_good_with_code_3(tmp_path, folder, head):
    settings = small_run(tmp_path, folder, optim=dict(epochs=1000), run=dict(hang_timeout="3s"))
    flags = [*written(settings, tmp_path), "--num-workers", "2", "--address", head.address]
    process = start([sys.executable, "-m", "jobs.train", *flags], head.env)
    until(lambda: max(losses(settings.run_dir), default=0) >= 3, process)
    frozen = workers_of(head.session)[0]
    os.kill(frozen, signal.SIGSTOP)
    code, _, errors = ended(process)
    assert code == 3, errors
    assert f"pid {frozen}), which is frozen or gone" in errors
    assert [path.name for path in (settings.run_dir / ".ray").iterdir()] == ["001"]
    assert read_run(settings.run_dir).state == "failed"
