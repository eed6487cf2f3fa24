import copy
import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import volo
from tests.model.forms import FORMS
from volo.data.pipeline import Batch
from volo.errors import InputError, TrainingError
from volo.runs.records import read_records, rewind_records
from volo.settings.config import build_settings
from volo.training import meter as meter_module
from volo.training.launch import train_here
from volo.training.learner import Learner
from volo.training.loop import step_seed
from volo.training.meter import Meter
from volo.training.metrics import evaluate
from volo.training.optimizer.average import MovingAverage, ema_decay_at
from volo.training.optimizer.build import build_optimizer
from volo.training.optimizer.schedule import learning_rate
from volo.training.precision import MAX_SKIPPED, Precision
from volo.training.world import single_process

OPTIM = build_settings().resolved().optim
CPU = torch.device("cpu")
ONE = torch.tensor(1.0)


@pytest.mark.parametrize("form", FORMS)
def test_decay_falls_on_matrices_and_kernels_only(form):
    model = volo.create_model("nano", **form)
    decayed, others = build_optimizer(model, OPTIM).param_groups
    names = {id(p): name for name, p in model.named_parameters()}
    assert decayed["weight_decay"] == OPTIM.weight_decay
    assert others["weight_decay"] == 0
    assert all(p.ndim >= 2 for p in decayed["params"])
    undecayed = {names[id(p)] for p in others["params"]}
    own = {name for name in names.values() if name.endswith("pos_embed.weight") or name == "class_token"}
    assert own
    assert own == {name for name in undecayed if not name.endswith("bias") and "norm" not in name}
    assert len(decayed["params"]) + len(others["params"]) == len(names)


@given(warmup=st.integers(0, 20), total=st.integers(21, 300))
def test_the_learning_rate_rises_to_its_peak_and_falls_to_its_end(warmup, total):
    rates = [learning_rate(step, total, warmup, lr=1.0, min_lr=0.1) for step in range(total)]
    peak = int(np.argmax(rates))
    assert max(rates) == pytest.approx(1.0)
    assert (np.diff(rates[: peak + 1]) > 0).all()
    assert (np.diff(rates[max(peak, warmup) :]) < 0).all()
    assert rates[0] > 0
    assert 0.1 < rates[-1] < 0.1 + 0.9 * 4 / (total - warmup)


def test_the_average_of_a_short_run_is_not_its_initial_weights():
    model = torch.nn.Linear(1, 1, bias=False)
    model.weight.data.fill_(0.0)
    ema = MovingAverage(model, decay=0.9999)
    ema.update_parameters(model)
    model.weight.data.fill_(1.0)
    for _ in range(50):
        ema.update_parameters(model)
    assert ema.module.weight.item() > 0.99
    assert ema_decay_at(10**9, 0.9999) == 0.9999


def test_a_loss_that_is_not_finite_stops_training():
    meter = Meter(single_process(), batch_size=4)
    meter.add(1, torch.tensor(float("nan")), ONE, 0)
    with pytest.raises(TrainingError, match="the loss must stay finite, got nan at step 1"):
        meter.add(2, torch.tensor(1.0), ONE, 0)


def test_a_gradient_that_is_not_finite_stops_training_unless_its_update_is_skipped():
    for norm in (float("inf"), float("nan")):
        meter = Meter(single_process(), batch_size=4)
        meter.add(1, ONE, torch.tensor(norm), 0)
        with pytest.raises(TrainingError, match=f"the gradient must stay finite, got a norm of {norm} at step 1"):
            meter.flush()
    meter = Meter(single_process(), batch_size=4, skips_bad_updates=True)
    meter.add(1, ONE, torch.tensor(float("inf")), 0)
    meter.flush()


def test_the_rank_whose_share_is_not_finite_is_found_and_what_is_gone_on_with_does_not_count():
    found = []
    meter = Meter(single_process(), batch_size=4, on_nonfinite=found.append)
    for step, (loss, norm) in enumerate([(4.0, 1.0), (float("-inf"), 1.0), (4.0, float("nan")), (8.0, 1.0)], start=1):
        meter.add(step, torch.tensor(loss), torch.tensor(norm), 0, num_skipped=int(step in (2, 3)))
    assert meter.interval()["train/loss"] == (1.0 + 2.0) / 2
    assert [(bad.step, bad.ranks, bad.num_skipped) for bad in found] == [(2, (0,), 1), (3, (), 1)]
    assert found[0].describe(world_size=2) == "the loss must stay finite, got -inf at step 2 on rank 0"
    meter.add(5, torch.tensor(float("nan")), ONE, 0, num_skipped=1)
    assert np.isnan(meter.interval()["train/loss"])


def test_a_loss_that_is_not_finite_is_skipped_under_the_scaler_too_which_counts_its_own():
    """The loss is infinite, its gradient is not: the scaler alone would take it."""
    settings = OPTIM.model_copy(update=dict(use_amp=True, autocast_dtype="fp16", skip_nonfinite=1, batch_size=2))

    class Labels:
        factor = 1.0

        def module(self, model):
            return model

        def __call__(self, module, images, targets, step):
            return module(images).float().sum() + self.factor

    learner = Learner(torch.nn.Linear(3, 2), settings, single_process("cpu"), objective := Labels())
    batch = Batch(torch.ones(2, 3), torch.ones(2, 2))
    learner.update(batch, lr=1e-3)
    before = copy.deepcopy((learner.model.state_dict(), learner.optimizer.state_dict(), learner.ema.state_dict()))
    objective.factor = float("inf")
    loss, norm = learner.update(batch, lr=1e-4)
    assert loss.isinf() and norm.isfinite()
    assert (learner.step, learner.num_skipped, learner.precision.num_skipped) == (2, 1, 0)
    after = (learner.model.state_dict(), learner.optimizer.state_dict(), learner.ema.state_dict())
    torch.testing.assert_close(after, before, rtol=0, atol=0)
    objective.factor = 1.0
    learner.update(batch, lr=1e-3)
    assert learner.num_skipped == 0
    assert not torch.equal(learner.model.weight, before[0]["weight"])


def test_the_rate_counts_training_before_and_after_a_pause_and_not_the_pause(monkeypatch):
    clock = iter([0.0, 10.0, 15.0, 25.0, 25.0])  # begins, pauses, goes on, is read and begins anew
    monkeypatch.setattr(meter_module.time, "monotonic", lambda: next(clock))
    meter = Meter(single_process(), batch_size=4)
    for step in (1, 2):
        meter.add(step, ONE, ONE, 0)
        if step == 1:
            with meter.paused():
                pass
    rate = meter.interval()["images_per_s"]
    monkeypatch.undo()
    assert rate == pytest.approx(2 * 4 / 20.0)


def test_the_meter_means_over_samples():
    meter = Meter(single_process(), batch_size=4)
    for step, loss in enumerate([4.0, 8.0, 12.0], start=1):
        meter.add(step, torch.tensor(loss), ONE, 0)
    assert meter.interval()["train/loss"] == 2.0
    meter.add(4, torch.tensor(24.0), ONE, 15)
    assert meter.epoch()["train/loss"] == 3.0
    assert meter.must_stop


def test_fp16_gives_up_after_twenty_updates_that_were_not_finite():
    settings = OPTIM.model_copy(update=dict(use_amp=True, autocast_dtype="fp16"))
    precision = Precision(settings, CPU)
    weight = torch.nn.Parameter(torch.ones(1))
    optimizer = torch.optim.AdamW([weight])
    with pytest.raises(TrainingError, match=f"got {MAX_SKIPPED} updates in a row"):
        for _ in range(MAX_SKIPPED):
            optimizer.zero_grad()
            precision.scale((weight * float("inf")).sum()).backward()
            precision.clip(optimizer, [weight], grad_clip=1.0)
            assert not precision.step(optimizer)
    assert weight.item() == 1.0


def test_fp16_begun_without_a_scaler_goes_on_with_one():
    off, on = (
        Precision(OPTIM.model_copy(update=dict(use_amp=use, autocast_dtype="fp16")), CPU) for use in (False, True)
    )
    begun = on.state_dict()
    on.load_state_dict(off.state_dict())
    assert on.state_dict() == begun
    assert on.skips_bad_updates
    assert not off.skips_bad_updates


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_autocast_types_train_on_a_cpu_too(dtype):
    torch.manual_seed(0)
    settings = OPTIM.model_copy(update=dict(use_amp=True, autocast_dtype=dtype))
    precision, model = Precision(settings, CPU), volo.create_model("quickstart", num_classes=3)
    optimizer = build_optimizer(model, settings)
    images, labels = torch.randn(6, 3, 32, 32), torch.arange(6) % 3
    losses = []
    for _ in range(15):
        optimizer.zero_grad()
        with precision.autocast():
            loss = torch.nn.functional.cross_entropy(model(images).float(), labels)
        precision.scale(loss).backward()
        precision.clip(optimizer, list(model.parameters()), 1.0)
        precision.step(optimizer)
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


def test_validation_counts_every_sample_once():
    class Constant(torch.nn.Module):
        def forward(self, images):
            return torch.tensor([[3.0, 2.0, 1.0, 0.0, -1.0, -2.0]]).expand(len(images), 6)

    labels = torch.tensor([0, 0, 1, 5, 4])
    batches = [(torch.zeros(3, 1), labels[:3]), (torch.zeros(2, 1), labels[3:])]
    found = evaluate(Constant(), batches, single_process())
    assert found["val/acc1"] == pytest.approx(2 / 5)
    assert found["val/acc5"] == pytest.approx(4 / 5)
    logits = Constant()(labels)
    assert found["val/loss"] == pytest.approx(torch.nn.functional.cross_entropy(logits, labels).item(), rel=1e-6)


def test_what_was_recorded_after_the_checkpoint_is_dropped_and_a_cut_line_left_out(tmp_path):
    lines = ['{"kind": "step", "step": 10}', '{"kind": "step", "step": 20}', '{"kind": "st']
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
    assert [record["step"] for record in read_records(tmp_path)] == [10, 20]
    rewind_records(tmp_path, 10)
    assert (tmp_path / "metrics.jsonl").read_text() == lines[0] + "\n"


def test_each_rank_and_step_draws_its_own():
    seeds = {step_seed(0, step, rank) for step in range(20) for rank in range(4)}
    assert len(seeds) == 80


@pytest.mark.parametrize("settings", [None, {}, "quickstart", {"optim": {"epochs": 1}}])
def test_training_takes_built_settings_alone(settings):
    with pytest.raises(InputError, match=f"settings must be those .*, got {re.escape(repr(settings))}; use train_here"):
        train_here(settings)
