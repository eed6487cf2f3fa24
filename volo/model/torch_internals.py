"""The names that PyTorch keeps to itself and for which it has no public equivalent, each with what happens without it.

Only the hand-written CPU path (cpu_autograd.py, layers.py) uses them. Without any of these names it computes the same
with public operators, more slowly.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules import module as nn_module

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")  # what Module.__call__ reads


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """F.linear, in float32 by oneDNN where that is faster than PyTorch's own, which writes the bias to every row first:
    with AVX-512, but not with AVX2 alone (benchmarks/RESULTS.md)."""
    if x.dtype == torch.float32 and USES_ONEDNN:
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return F.linear(x, weight, bias)


def softmax_backward_(grad: Tensor, weights: Tensor) -> None:
    """Turns the gradient of softmax(logits, -1) into that of the logits, in place, from what softmax returned."""
    if HAS_SOFTMAX_BACKWARD:
        torch.ops.aten._softmax_backward_data.out(grad, weights, -1, weights.dtype, grad_input=grad)
    else:
        grad.sub_((grad * weights).sum(dim=-1, keepdim=True)).mul_(weights)


def may_have_hooks(layer: nn.Module) -> bool:
    """Whether calling a layer may run hooks; True if PyTorch does not tell."""
    return any(getattr(layer, name, True) for name in HOOKS)


def may_have_global_hooks() -> bool:
    """Whether calling any layer may run hooks; True if PyTorch does not tell."""
    has_any = getattr(nn_module, "_has_any_global_hook", None)
    return has_any is None or has_any()


HAS_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
USES_ONEDNN = HAS_ONEDNN and torch.backends.cpu.get_cpu_capability() != "AVX2"
HAS_SOFTMAX_BACKWARD = hasattr(torch.ops.aten, "_softmax_backward_data")
