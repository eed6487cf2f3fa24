"""What only a GPU shows."""

import pytest
import torch

from tests.training.runs import small_run
from volo.runs.folder import open_data
from volo.training.meter import Meter
from volo.training.session import open_session
from volo.training.world import single_process


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_host_prepares_a_step_while_the_gpu_computes_the_one_before(tmp_path, folder):
    """Nothing waits for the device but the meter, which waits for an event."""
    settings = small_run(tmp_path, folder, augment=dict(auto_augment="trivial", random_erasing=0.5)).resolved()
    settings.run_dir.mkdir(parents=True)
    open_data(settings)
    with open_session(settings, single_process("cuda")) as session:
        try:
            for step in range(4):
                torch.cuda.set_sync_debug_mode("error" if step > 1 else "default")
                with session.phase("data"):
                    batch = session.data.batches.batch(0, step)
                with session.phase("update"):
                    session.meter.add(step + 1, *session.learner.update(batch, lr=1e-3))
        finally:
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_meter_waits_for_the_step_before_only():
    meter, device = Meter(single_process("cuda"), batch_size=8), torch.device("cuda")
    loss, norm = torch.full((), 16.0, device=device), torch.ones((), device=device)
    meter.add(1, loss, norm)
    torch.cuda._sleep(10**9)  # cycles: the step that follows
    meter.add(2, loss, norm)
    assert not torch.cuda.current_stream().query(), "has waited for what was queued last"
    assert meter.interval()["train/loss"] == 2
