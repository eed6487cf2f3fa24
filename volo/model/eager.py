"""Attention and MLP for a CPU, each with its backward pass written out: the same products as PyTorch's own composition,
with fewer of the large buffers that cost a CPU more, by their page faults, than what is computed into them.

Only the eager CPU path comes here (see `attend` and `Mlp`); compilers and exporters get the plain composition.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

HAS_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


class PlainAttention(torch.autograd.Function):
    """softmax(q k^T / sqrt(d)) v over (B, n, N, d), all in the dtype given, also under autocast."""

    @staticmethod
    def forward(ctx, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            scaled = q * q.shape[-1] ** -0.5
            weights = scaled @ k.mT  # (B, n, N, N)
            torch.softmax(weights, dim=-1, out=weights)
            ctx.save_for_backward(scaled, k, v, weights)
            return weights @ v

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        scaled, k, v, weights = ctx.saved_tensors
        dv = weights.mT @ grad
        dlogits = grad @ v.mT  # of the weights, then in place of the logits
        torch.ops.aten._softmax_backward_data.out(dlogits, weights, -1, weights.dtype, grad_input=dlogits)
        return (dlogits @ k).mul_(scaled.shape[-1] ** -0.5), dlogits.mT @ scaled, dv


class TwoLayers(torch.autograd.Function):
    """Linear, GELU, linear over the last axis of (..., C), in float32 or in the autocast's dtype."""

    @staticmethod
    def forward(ctx, x: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor, bias2: Tensor) -> Tensor:
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
        ctx.dtypes = x.dtype, weight1.dtype
        with torch.autocast("cpu", enabled=False):
            flat, weight1, bias1, weight2, bias2 = (
                tensor.to(dtype) for tensor in (x.reshape(-1, x.shape[-1]), weight1, bias1, weight2, bias2)
            )
            hidden = _linear(flat, weight1, bias1)
            active = F.gelu(hidden)
            ctx.save_for_backward(flat, hidden, active, weight1, weight2)
            return _linear(active, weight2, bias2).view(*x.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        flat, hidden, active, weight1, weight2 = ctx.saved_tensors
        of_input, of_weights = ctx.dtypes
        shape, grad = (*grad.shape[:-1], flat.shape[-1]), grad.reshape(-1, grad.shape[-1])
        dweight2, dbias2 = grad.t() @ active, grad.sum(dim=0)
        dhidden = grad @ weight2  # of the activation, then in place of what it activates
        torch.ops.aten.gelu_backward.grad_input(dhidden, hidden, approximate="none", grad_input=dhidden)
        dx = (dhidden @ weight1).view(shape).to(of_input) if ctx.needs_input_grad[0] else None
        of_parameters = (dhidden.t() @ flat, dhidden.sum(dim=0), dweight2, dbias2)
        return dx, *(gradient.to(of_weights) for gradient in of_parameters)


def _linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """F.linear, in float32 by oneDNN: PyTorch's own writes the bias to every row first, and multiplies slower."""
    if x.dtype == torch.float32 and HAS_ONEDNN:
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return F.linear(x, weight, bias)
