"""What is saved is what was trained: the average of the weights, and batch norm's statistics with it."""

import copy
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from tests.faults.tools.forked import Command
from tests.training.runs import small_run, train
from volo.data.pipeline import Batch, Pixels, evaluation_batches
from volo.model.build import build_model
from volo.runs import checkpoint
from volo.runs.folder import open_data
from volo.runs.records import read_records
from volo.settings.config import Settings, build_settings
from volo.settings.optim import OptimSettings
from volo.training.learner import Learner
from volo.training.metrics import evaluate
from volo.training.optimizer.average import MovingAverage
from volo.training.world import single_process

CPU = torch.device("cpu")
PUBLISHED = dict(
    variant="volo_d1", stem_dim=8, layers=(1, 1, 1, 1), embed_dims=(16, 32), stage_heads=(2, 4), patch_size=4
)  # fmt: skip


def with_batch_norm() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))


def published_run(tmp_path: Path, folder: Path, **optim) -> Settings:
    base = small_run(tmp_path, folder, optim=optim).to_dict()
    return build_settings({**base, "model": PUBLISHED, "augment": {}})


def test_the_average_is_the_one_pytorch_makes_with_the_same_decay():
    """All that PyTorch's update does: first copy, average, buffers, count."""
    model, decay = with_batch_norm(), 0.6

    def lerp(averaged, current, num_averaged):
        kept = min(decay, (1 + int(num_averaged)) / (10 + int(num_averaged)))
        for one, two in zip(averaged, current, strict=True):
            one.copy_(kept * one + (1 - kept) * two)

    ours, theirs = MovingAverage(model, decay), AveragedModel(model, multi_avg_fn=lerp)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
    for _ in range(12):
        optimizer.zero_grad()
        model(torch.randn(8, 3, 8, 8) + 2).square().mean().backward()
        optimizer.step()
        ours.update_parameters(model)
        theirs.update_parameters(model)
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict())
    assert not torch.allclose(ours.module[0].weight, model[0].weight)
    assert int(ours.module[1].num_batches_tracked) == 12


def validated_again(run_dir: Path) -> dict[str, float]:
    """The metrics of the newest checkpoint's model file alone, on the run's validation images."""
    weights, description = checkpoint.load_model(checkpoint.newest(run_dir))
    settings = description.settings
    model = build_model(settings.model, num_classes=2, image_size=settings.data.image_size)
    model.load_state_dict(weights)
    data, split = open_data(settings)
    batches = evaluation_batches(
        data, split.val, Pixels(data, settings.data.mean, settings.data.std, CPU), batch_size=5
    )
    return evaluate(model, batches, single_process("cpu"))


def last_validation(run_dir: Path) -> dict[str, float]:
    record = [record for record in read_records(run_dir) if record["kind"] == "epoch"][-1]
    return {name: value for name, value in record.items() if name.startswith("val/")}


@pytest.mark.parametrize("ema_decay", [0.99, 0.0])
def test_a_published_model_is_saved_with_the_batch_norm_it_was_validated_with(tmp_path, folder, ema_decay):
    run_dir = train(published_run(tmp_path, folder, ema_decay=ema_decay))
    weights, _ = checkpoint.load_model(checkpoint.newest(run_dir))
    raw = checkpoint.load_state(checkpoint.newest(run_dir))["model"]
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        assert torch.equal(weights[f"patch_embed.conv.1.{name}"], raw[f"patch_embed.conv.1.{name}"])
    assert int(weights["patch_embed.conv.1.num_batches_tracked"]) == 12
    assert validated_again(run_dir) == pytest.approx(last_validation(run_dir), rel=1e-5)


@pytest.mark.parametrize("ema_decay", [0.99, 0.0])
def test_every_rank_validates_the_model_that_rank_0_saves(tmp_path, folder, ema_decay):
    """Each rank's batch norm has seen its own images only."""
    settings = published_run(tmp_path, folder, ema_decay=ema_decay)
    settings = build_settings(settings.to_dict(), {"run": dict(num_workers=None)})
    Command.of(settings).finish(num_ranks=2)
    assert validated_again(settings.run_dir) == pytest.approx(last_validation(settings.run_dir), rel=1e-5)


class LeavesOut:
    """An objective whose loss is what it is told to be."""

    factor = 1.0

    def module(self, model):
        return model

    def __call__(self, module, images, targets, step):
        return module(images).float().square().sum() * self.factor


def test_an_update_left_out_leaves_batch_norms_statistics_alone():
    settings = OptimSettings(skip_nonfinite=1, batch_size=4)
    learner = Learner(with_batch_norm(), settings, single_process("cpu"), LeavesOut())
    learner.update(Batch(torch.randn(4, 3, 8, 8), torch.ones(4, 2)), lr=1e-3)
    before = copy.deepcopy((learner.model.state_dict(), learner.ema.state_dict()))
    learner.update(Batch(torch.full((4, 3, 8, 8), float("nan")), torch.ones(4, 2)), lr=1e-3)
    assert learner.num_skipped == 1
    torch.testing.assert_close((learner.model.state_dict(), learner.ema.state_dict()), before, rtol=0, atol=0)
