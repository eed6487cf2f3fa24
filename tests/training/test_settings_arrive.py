"""Settings of training reach what they set: each of these changed nothing that another test would have seen."""

import math

import pytest
import torch
from torch import nn

from tests.training.runs import small_run, train
from volo.data.pipeline import Batch
from volo.model.token_labels import DenseLogits
from volo.settings.optim import OptimSettings
from volo.settings.teaching import TeachingSettings
from volo.training import loop
from volo.training.learner import Learner
from volo.training.objective import TokenLabels
from volo.training.precision import Precision
from volo.training.world import single_process

CPU = torch.device("cpu")


def learner(**optim) -> Learner:
    torch.manual_seed(0)
    return Learner(nn.Linear(3, 2), OptimSettings(batch_size=4, **optim), single_process("cpu"))


def test_only_a_better_validation_is_the_best_so_the_first_of_equals_stays():
    trained, found = learner(), []
    accuracies = [0.5, 0.5, 0.4, 0.7, 0.7, None, 0.8]
    for step, accuracy in enumerate(accuracies, start=1):
        trained.step = step
        found.append(trained.is_best({} if accuracy is None else {"val/acc1": accuracy, "val/loss": 1.0}))
    assert found == [True, False, False, True, False, False, True]
    assert (trained.best, trained.best_step) == (0.8, 7)
    assert not trained.is_best({"val/acc1": 0.9, "val/loss": math.inf})


@pytest.mark.parametrize("beta2", [0.9, 0.999])
def test_adamw_keeps_its_second_moment_for_as_long_as_beta2_says(beta2):
    """As by hand: two updates with gradients of known squares."""
    trained = learner(beta2=beta2, grad_clip=0, ema_decay=0)
    squares = []
    for seed in (1, 2):
        images = torch.randn(4, 3, generator=torch.Generator().manual_seed(seed))
        trained.update(Batch(images, torch.eye(2)[[0, 1, 1, 0]]), lr=1e-3)
        squares.append(trained.model.weight.grad.square())
    moment = trained.optimizer.state[trained.model.weight]["exp_avg_sq"]
    torch.testing.assert_close(moment, (1 - beta2) * (beta2 * squares[0] + squares[1]))


@pytest.mark.parametrize("amp", [dict(use_amp=False), dict(use_amp=True, autocast_dtype="fp16")], ids=str)
@pytest.mark.parametrize("grad_clip", [1.0, 100.0, 0.0])
def test_gradients_are_clipped_to_the_norm_that_was_asked_for_whatever_scales_the_loss(amp, grad_clip):
    precision, weight = Precision(OptimSettings(**amp), CPU), nn.Parameter(torch.ones(2))
    optimizer = torch.optim.AdamW([weight])
    precision.scale((weight * torch.tensor([3.0, 4.0])).sum()).backward()
    assert precision.clip(optimizer, [weight], grad_clip).item() == pytest.approx(5.0)
    assert weight.grad.norm().item() == pytest.approx(min(5.0, grad_clip or 5.0), rel=1e-4)
    assert precision.step(optimizer)


def test_dropout_is_drawn_again_for_each_step_and_rank(tmp_path, folder, monkeypatch):
    seeds, real = [], Learner.update

    def noted(self, batch, lr):
        seeds.append(torch.initial_seed())
        return real(self, batch, lr)

    monkeypatch.setattr(Learner, "update", noted)
    train(small_run(tmp_path, folder, optim=dict(epochs=1)))
    assert seeds == [loop.step_seed(0, step, 0) for step in range(4)]
    assert len({loop.step_seed(seed, step, rank) for seed in (0, 1) for step in (0, 1) for rank in (0, 1)}) == 8


class Patches:
    """Teacher and student at once, to whom all patches look alike; notes the boxes that it was given."""

    def __init__(self):
        self.boxes = []

    def patch_probabilities(self, images, grid):
        return torch.full((len(images), *grid, 2), 0.5)

    def __call__(self, images, box):
        self.boxes.append(box)
        return DenseLogits(torch.zeros(len(images), 2), torch.zeros(len(images), 8, 8, 2))


def test_mixtoken_draws_another_box_for_each_step():
    patches = Patches()
    objective = TokenLabels(TeachingSettings(teacher="x", token_labels=True, mix_token=True), patches, 0, (8, 8))
    for step in range(20):
        objective(patches, torch.zeros(2, 3, 32, 32), torch.eye(2), step)
    assert len({*patches.boxes}) > 10
