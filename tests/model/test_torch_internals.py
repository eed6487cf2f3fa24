"""PyTorch's private names: without them, the same is computed by public ones."""

import copy

import pytest
import torch
from torch import nn

from volo.model import torch_internals
from volo.model.attention import attend
from volo.model.layers import Mlp, are_plain


def gradients(mlp: Mlp) -> list[torch.Tensor]:
    """Of an MLP and an attention over it, both on the CPU's hand-written path."""
    torch.manual_seed(0)
    x = torch.randn(2, 5, 8, requires_grad=True)
    q = mlp(x).reshape(2, 5, 2, 4).transpose(1, 2)
    return [q, *torch.autograd.grad(attend(q, q, q).square().sum(), [x, *mlp.parameters()])]


def test_without_pytorchs_private_operators_the_results_are_the_same(monkeypatch):
    """Which of them a machine uses depends on its CPU."""
    mlp = Mlp(8, 2.0)
    monkeypatch.setattr(torch_internals, "USES_ONEDNN", torch_internals.HAS_ONEDNN)
    expected = gradients(copy.deepcopy(mlp))
    monkeypatch.setattr(torch_internals, "USES_ONEDNN", False)
    monkeypatch.setattr(torch_internals, "HAS_SOFTMAX_BACKWARD", False)
    for found, known in zip(gradients(mlp), expected, strict=True):
        torch.testing.assert_close(found, known, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("missing", ["_has_any_global_hook", "_forward_pre_hooks"])
def test_layers_are_called_one_by_one_if_pytorch_does_not_tell_whether_they_have_hooks(monkeypatch, missing):
    layers = [nn.Linear(2, 2)]
    assert are_plain(layers)
    if missing == "_has_any_global_hook":
        monkeypatch.delattr(torch_internals.nn_module, missing)
    else:
        monkeypatch.setattr(torch_internals, "HOOKS", ("_renamed_hooks",))
    assert not are_plain(layers)
