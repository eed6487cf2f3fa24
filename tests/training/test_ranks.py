"""Several ranks compute what one does, however uneven their shares: gradients, weights, validation."""

import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.training.ranks import on_ranks
from volo.data.decoded.cache import Images
from volo.data.epoch import worker_share
from volo.data.pipeline import Batch, Pixels, evaluation_batches
from volo.settings.optim import OptimSettings
from volo.training.learner import Learner
from volo.training.metrics import evaluate
from volo.training.world import World, single_process

BATCH, PARTS = 7, (1, 2)  # 7 images are uneven shares of two ranks and of three


def network(num_inputs: int) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(num_inputs, 4), nn.GELU(), nn.Linear(4, 3))


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(BATCH, 5, generator=generator), torch.randn(BATCH, 3, generator=generator).softmax(-1)


def updated(world: World) -> list[dict]:
    """After one update on this rank's share, for each of PARTS: gradients, weights, and what the update returned."""
    first, last = worker_share(0, BATCH, world.rank, world.size)
    found = []
    for parts in PARTS:
        settings = OptimSettings(batch_size=BATCH, grad_accum_steps=parts, grad_clip=0, ema_decay=0)
        learner = Learner(network(5), settings, world)
        loss, norm = learner.update(Batch(*(values[first:last] for values in batch())), lr=0.1)
        parameters = list(learner.model.parameters())
        gradients = [parameter.grad.clone() for parameter in parameters]
        found.append(dict(gradients=gradients, weights=[p.detach() for p in parameters], loss=loss, norm=norm))
    return found


@pytest.mark.parametrize("size", [1, 2, 3])
def test_every_rank_has_the_gradient_of_the_mean_over_the_global_batch(tmp_path, size):
    ranks = on_ranks(size, tmp_path / "ranks", updated) if size > 1 else [updated(single_process("cpu"))]
    model, (images, targets) = network(5), batch()
    loss = F.cross_entropy(model(images), targets)
    expected = list(torch.autograd.grad(loss, model.parameters()))
    norm = torch.stack([gradient.norm() for gradient in expected]).norm()
    for parts in range(len(PARTS)):
        assert sum(float(rank[parts]["loss"]) for rank in ranks) / BATCH == pytest.approx(loss.item(), rel=1e-5)
        for rank in ranks:
            torch.testing.assert_close(rank[parts]["gradients"], expected, rtol=1e-4, atol=1e-6)
            torch.testing.assert_close(rank[parts]["norm"], norm, rtol=1e-4, atol=1e-6)
            torch.testing.assert_close(rank[parts]["weights"], ranks[0][parts]["weights"], rtol=0, atol=0)


def validated(world: World) -> dict[str, float]:
    rng = np.random.default_rng(0)
    data = Images(rng.integers(0, 256, (12, 2, 2, 3), dtype=np.uint8), rng.integers(0, 3, 12), ("a", "b", "c"))
    pixels = Pixels(data, (0.5,) * 3, (0.2,) * 3, world.device)
    batches = evaluation_batches(
        data, np.array([1, 2, 3, 5, 7, 8, 11]), pixels, batch_size=2, rank=world.rank, world_size=world.size
    )
    return evaluate(network(12), batches, world)


def test_every_rank_hears_the_validation_of_all_images_each_counted_once(tmp_path):
    alone = validated(single_process("cpu"))
    for size in (2, 3):
        for found in on_ranks(size, tmp_path / str(size), validated):
            assert found == pytest.approx(alone, rel=1e-6)


def test_no_thread_of_a_group_outlives_it_though_an_optimizer_was_made_meanwhile():
    """In a process that has not loaded PyTorch's compiler. A thread that is left may abort it at its end."""
    code = """
import torch, torch.distributed as dist
from tests.faults.tools.processes import names_of_threads
from volo.training.world import joined_world, open_store

joined_world(0, 1, 0, 1, torch.device("cpu"), open_store("127.0.0.1"))
torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1)
dist.destroy_process_group()
print([name for name in names_of_threads() if "gloo" in name])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
