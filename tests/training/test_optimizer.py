"""Muon beside AdamW: what each one updates, the update itself, and what a resumed run has of it."""

import copy

import pytest
import torch
from torch import nn

import volo
from tests.model.forms import FORMS
from tests.training.ranks import on_ranks
from tests.training.runs import losses, same, small_run, train, weights
from volo.data.pipeline import Batch
from volo.errors import InputError
from volo.settings.optim import OptimSettings
from volo.training.learner import Learner
from volo.training.optimizer.build import build_optimizer, hidden_weights
from volo.training.optimizer.muon import Muon, orthogonalize
from volo.training.optimizer.schedule import set_learning_rate
from volo.training.world import World, single_process

MUON = OptimSettings(optimizer="muon", weight_decay=0.1)


@pytest.mark.parametrize("form", FORMS)
def test_muon_takes_the_matrices_and_kernels_below_the_head_and_adamw_the_rest(form):
    model = volo.create_model("nano", **form)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    optimizer = build_optimizer(model, MUON)
    taken = {
        name: {names[id(p)] for group in part.param_groups for p in group["params"]}
        for name, part in optimizer.optimizers.items()
    }
    assert sum(map(len, taken.values())) == len(names)
    assert taken["muon"] == hidden_weights(model)
    assert {"patch_embed.stem.0.weight", "patch_embed.proj.weight"} <= taken["muon"]
    assert all(
        name.endswith("weight") and not {"norm", "pos_embed", "head"} & {*name.split(".")} for name in taken["muon"]
    )
    for name in {*names.values()} - taken["muon"]:
        own = model.get_parameter(name)
        assert name == "head.weight" or own.ndim == 1 or "pos_embed" in name or name == "class_token"
    decays = {names[id(p)]: group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert {name for name, decay in decays.items() if decay} == taken["muon"] | {"head.weight"}


@pytest.mark.parametrize("shape", [(3, 16, 16), (2, 8, 30), (2, 64, 27)])
def test_a_direction_has_singular_values_near_one_and_the_singular_vectors_of_the_gradient(shape):
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonalize(matrices))
    assert values.min() > 0.6 and values.max() < 1.3
    left, _, right = torch.linalg.svd(matrices, full_matrices=False)
    inside = left.mT @ orthogonalize(matrices) @ right.mT
    torch.testing.assert_close(inside, torch.diag_embed(inside.diagonal(dim1=1, dim2=2)), rtol=0, atol=1e-4)


def test_a_direction_does_not_depend_on_the_size_of_the_gradient_and_none_has_none():
    matrix = torch.randn(1, 8, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(orthogonalize(matrix * 1e-4), orthogonalize(matrix))
    assert not orthogonalize(torch.zeros(1, 8, 8)).any()


def test_five_steps_equal_pytorchs_own_one_matrix_after_another():
    torch.manual_seed(0)
    ours = [nn.Parameter(torch.randn(shape)) for shape in [(16, 24), (16, 24), (24, 8), (16, 24)]]
    theirs = copy.deepcopy(ours)
    optimizers = (
        Muon(ours, lr=0.01, weight_decay=0.1),
        torch.optim.Muon(theirs, lr=0.01, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
    )
    begin = [weight.detach().clone() for weight in ours]
    for _ in range(5):
        for one, other in zip(ours, theirs, strict=True):
            one.grad = torch.randn_like(one)
            other.grad = one.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    for one, other, before in zip(ours, theirs, begin, strict=True):
        assert (one - before).abs().max() > 0.02
        torch.testing.assert_close(one, other, rtol=0, atol=1e-3)  # theirs iterates in bfloat16


def test_a_kernel_moves_as_its_matrix_does_and_a_vector_is_refused():
    torch.manual_seed(0)
    kernel = nn.Parameter(torch.randn(6, 3, 3, 3))
    matrix = nn.Parameter(kernel.detach().flatten(1).clone())
    optimizer = Muon([kernel, matrix], lr=0.1)
    kernel.grad = torch.randn_like(kernel)
    matrix.grad = kernel.grad.flatten(1).clone()
    optimizer.step()
    torch.testing.assert_close(kernel.detach().flatten(1), matrix.detach())
    with pytest.raises(ValueError, match="must be matrices or kernels"):
        Muon([nn.Parameter(torch.ones(3))], lr=0.1)


def test_each_layers_rate_holds_for_muon_too_also_after_its_state_was_loaded():
    model = volo.create_model("nano")
    settings = MUON.model_copy(update=dict(layer_decay=0.5))
    saved = build_optimizer(model, settings).state_dict()
    optimizer = build_optimizer(model, settings)
    optimizer.load_state_dict(saved)
    set_learning_rate(optimizer, 1.0)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    rates = {
        names[id(p)]: group["lr"]
        for part in optimizer.optimizers.values()
        for group in part.param_groups
        for p in group["params"]
    }
    assert rates["head.weight"] == 1.0
    assert rates["patch_embed.proj.weight"] == rates["patch_embed.proj.bias"] == min(rates.values()) < 0.1


@pytest.mark.parametrize("amp", [dict(), dict(use_amp=True, autocast_dtype="fp16")], ids=str)
def test_an_update_that_is_left_out_leaves_both_optimizers_as_they_were(amp):
    class Sum:
        factor = 1.0

        def module(self, model):
            return model

        def __call__(self, module, images, targets, step):
            return module(images).float().sum() * self.factor

    torch.manual_seed(0)
    model = volo.create_model("quickstart", num_classes=3, embed_dim=16, num_heads=2, stem_channels=(4, 8))
    settings = MUON.model_copy(update=dict(batch_size=2, skip_nonfinite=2, **amp))
    learner = Learner(model, settings, single_process("cpu"), objective := Sum())
    batch = Batch(torch.randn(2, 3, 32, 32), torch.ones(2, 3))
    learner.update(batch, lr=1e-3)
    before = copy.deepcopy((learner.model.state_dict(), learner.optimizer.state_dict()))
    objective.factor = float("nan")
    learner.update(batch, lr=1e-3)
    torch.testing.assert_close((learner.model.state_dict(), learner.optimizer.state_dict()), before, rtol=0, atol=0)
    objective.factor = 1.0
    learner.update(batch, lr=1e-3)
    assert not torch.equal(learner.model.patch_embed.proj.weight, before[0]["patch_embed.proj.weight"])


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_run_that_resumes_in_mid_epoch_ends_with_the_same_weights(tmp_path, folder, optimizer):
    optim = dict(optimizer=optimizer, layer_decay=0.8)
    whole = train(small_run(tmp_path, folder, optim=optim, run=dict(run_name="whole")))
    train(small_run(tmp_path, folder, optim={**optim, "max_steps": 6}))
    parts = train(small_run(tmp_path, folder, optim=optim))
    assert same(weights(whole), weights(parts))
    assert losses(whole) == losses(parts)


def test_a_run_resumes_with_its_own_optimizer_only(tmp_path, folder):
    train(small_run(tmp_path, folder, optim=dict(max_steps=4)))
    with pytest.raises(InputError, match="optimizer"):
        train(small_run(tmp_path, folder, optim=dict(optimizer="muon")))


def updated(world: World) -> list[torch.Tensor]:
    torch.manual_seed(0)
    model = volo.create_model("quickstart", num_classes=3, embed_dim=16, num_heads=2, stem_channels=(4, 8))
    settings = MUON.model_copy(update=dict(batch_size=4, ema_decay=0))
    learner = Learner(model, settings, world)
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    share = slice(world.rank * 4 // world.size, (world.rank + 1) * 4 // world.size)
    for _ in range(3):
        learner.update(Batch(images[share], torch.eye(3)[[0, 1, 2, 0]][share]), lr=1e-3)
    return [parameter.detach() for parameter in learner.model.parameters()]


def test_two_ranks_have_the_same_weights_and_those_of_one(tmp_path):
    first, second = on_ranks(2, tmp_path / "ranks", updated)
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    torch.testing.assert_close(first, updated(single_process("cpu")), rtol=0, atol=1e-4)
