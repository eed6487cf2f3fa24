"""What is written out for speed still does what PyTorch's modules do besides computing: hooks, other layers put in the
place of one, modes of their own, parts of a stage."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook
from torch.nn.utils import parametrize, prune

import volo
from tests.model.forms import FORMS
from volo.model.cpu_autograd import AttentionFunction, LinearFunction, MlpFunction, OutlookAttentionFunction
from volo.model.flat import VOLOStage
from volo.model.layers import Linear, Mlp
from volo.model.outlook import OutlookAttention

PUBLISHED = dict(stem_dim=8, layers=(1, 1, 1, 1), embed_dims=(16, 32), stage_heads=(2, 4), patch_size=4)
MODELS = [("quickstart", form) for form in FORMS] + [("volo_d1", PUBLISHED)]


class Doubled(nn.Module):
    """As an adapter is: in the place of a layer, with its weights as attributes."""

    def __init__(self, layer: nn.Linear):
        super().__init__()
        self.layer, self.weight, self.bias = layer, layer.weight, layer.bias

    def forward(self, x):
        return 2 * self.layer(x)


class Halved(nn.Module):
    def forward(self, weight):
        return weight / 2


def composed(mlp: Mlp, x: torch.Tensor) -> torch.Tensor:
    return mlp.fc2(mlp.act(mlp.fc1(x)))


def mlp_and_input() -> tuple[Mlp, torch.Tensor]:
    torch.manual_seed(0)
    return Mlp(16, 3.0), torch.randn(4, 9, 16)


@pytest.mark.parametrize(("name", "form"), MODELS, ids=lambda value: str(value)[:40])
def test_every_layer_of_every_form_is_called_where_a_hook_listens(name, form):
    torch.manual_seed(0)
    model = volo.create_model(name, num_classes=4, img_size=32, **form).eval()
    images = torch.randn(2, 3, 32, 32)
    expected, called = model(images), set()
    for path, module in model.named_modules():
        module.register_forward_hook(lambda *_, path=path: called.add(path))
    assert torch.allclose(model(images), expected, atol=1e-5)
    silent = {path for path, module in model.named_modules() if not isinstance(module, nn.ModuleList)} - called
    assert not silent


def test_hooks_of_every_kind_are_heard_within_an_mlp():
    for register in ("register_forward_hook", "register_forward_pre_hook", "register_full_backward_hook",
                     "register_full_backward_pre_hook"):  # fmt: skip
        (mlp, x), heard = mlp_and_input(), []
        getattr(mlp.fc1, register)(lambda *_, heard=heard: heard.append(True))
        mlp(x.requires_grad_()).sum().backward()
        assert heard, register


def test_a_hook_on_all_modules_hears_all_of_them():
    (mlp, x), heard = mlp_and_input(), []
    handle = register_module_forward_hook(lambda module, *_: heard.append(module))
    try:
        mlp(x)
    finally:
        handle.remove()
    assert {mlp.fc1, mlp.act, mlp.fc2} <= {*heard}


@pytest.mark.parametrize("name", ["v", "attn", "proj"])
def test_an_adapter_in_the_place_of_a_layer_of_outlook_attention_takes_effect(name):
    torch.manual_seed(0)
    adapted, x = OutlookAttention(16, 2), torch.randn(2, 5, 5, 16)
    doubled = copy.deepcopy(adapted)
    for parameter in getattr(doubled, name).parameters():
        parameter.data *= 2
    setattr(adapted, name, Doubled(getattr(adapted, name)))
    assert torch.allclose(adapted(x), doubled(x), atol=1e-5)


@pytest.mark.parametrize("what", ["an adapter", "another activation", "another GELU", "a parametrization"])
def test_another_layer_in_an_mlp_takes_effect(what):
    mlp, x = mlp_and_input()
    before = mlp(x)
    if what == "an adapter":
        mlp.fc1 = Doubled(mlp.fc1)
    elif what == "a parametrization":
        parametrize.register_parametrization(mlp.fc2, "weight", Halved())
    else:
        mlp.act = nn.ReLU() if what == "another activation" else nn.GELU(approximate="tanh")
    assert torch.equal(mlp(x), composed(mlp, x))
    assert not torch.equal(mlp(x), before)


def test_what_was_pruned_stays_pruned_while_the_rest_is_trained():
    mlp, x = mlp_and_input()
    prune.l1_unstructured(mlp.fc1, "weight", amount=0.5)
    optimizer = torch.optim.SGD(mlp.parameters(), lr=0.1)
    mlp(x).square().sum().backward()
    optimizer.step()
    out = mlp(x)
    assert torch.equal(out, composed(mlp, x))
    assert (mlp.fc1.weight == 0).float().mean() == 0.5
    assert mlp.fc1.weight_orig.grad.count_nonzero() > 0


def test_dropout_that_alone_is_switched_on_drops():
    """For uncertainty by many passes: the model is in evaluation mode, its dropout is not."""
    torch.manual_seed(0)
    mlp, attention = Mlp(16, 3.0, drop_rate=0.5).eval(), OutlookAttention(16, 2, attn_drop=0.5).eval()
    for module, x in ((mlp, torch.ones(4, 16)), (attention, torch.randn(2, 5, 5, 16))):
        assert torch.equal(module(x), module(x))
        for layer in module.modules():
            if isinstance(layer, nn.Dropout):
                layer.train()
        assert not torch.equal(module(x), module(x))
        assert torch.equal(module.train(False)(x), module(x))


def test_a_stage_can_be_cut_joined_and_indexed_as_any_sequence_of_layers():
    torch.manual_seed(0)
    stage, x = VOLOStage(16, 2, [0.0, 0.0, 0.0]), torch.randn(1, 5, 5, 16)
    first, rest = stage[:1], stage[1:]
    assert (len(first), len(rest), stage[-1]) == (1, 2, stage[2])
    assert [name for name, _ in rest.named_children()] == ["1", "2"]
    assert torch.equal(rest(first(x)), stage(x))
    assert torch.equal((first + rest)(x), stage(x))


def test_a_second_derivative_is_refused_and_never_wrong():
    torch.manual_seed(0)
    x, maps = torch.randn(2, 5, 16, requires_grad=True), torch.randn(1, 3, 3, 16, requires_grad=True)
    heads = x.unflatten(-1, (2, 8)).transpose(1, 2)
    cases = {
        LinearFunction: (Linear(16, 8)(x), x),
        MlpFunction: (Mlp(16, 2.0)(x), x),
        AttentionFunction: (AttentionFunction.apply(heads, heads, heads), x),
        OutlookAttentionFunction: (OutlookAttention(16, 2)(maps), maps),
    }
    for kind, (out, source) in cases.items():
        assert kind.__name__ in out.grad_fn.name()
        with pytest.raises(RuntimeError, match="differentiate twice"):
            (slope,) = torch.autograd.grad(out.square().sum(), source, create_graph=True)
            slope.sum().backward()


def test_frozen_layers_get_no_gradient_and_pass_it_on():
    mlp, x = mlp_and_input()
    x.requires_grad_()
    expected = torch.autograd.grad(composed(mlp, x).sum(), x)[0]
    mlp.requires_grad_(False)
    mlp(x).sum().backward()
    assert torch.allclose(x.grad, expected, atol=1e-5)
    assert all(parameter.grad is None for parameter in mlp.parameters())
