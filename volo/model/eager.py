"""Linear layers, attention, MLP and outlook attention for a CPU, each with its backward pass written out: the products
of PyTorch's own composition, in float32 by oneDNN, which does them twice as fast on some CPUs, and with fewer of the
large buffers that cost a CPU more, by their page faults, than what is computed into them.

Only the eager CPU path comes here (see `Linear`, `Mlp`, `attend`, `OutlookAttention`); compilers and exporters get the
plain composition.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from volo.model.outlook_ops import cpu, outlook_aggregate, window_centres

PIXELS_A_THREAD = 768  # at a time: enough for the matrix products, little enough for a cache
HAS_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


class OneLayer(torch.autograd.Function):
    """Linear over the last axis of (..., C) in float32."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        ctx.has_bias = bias is not None
        ctx.save_for_backward(flat, weight)
        return _linear(flat, weight, bias).view(*x.shape[:-1], len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        flat, weight = ctx.saved_tensors
        shape, grad = (*grad.shape[:-1], flat.shape[-1]), grad.reshape(-1, grad.shape[-1])
        dx = _linear(grad, weight.t()).view(shape) if ctx.needs_input_grad[0] else None
        return dx, grad.t() @ flat, grad.sum(dim=0) if ctx.has_bias else None


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
            return _linear(active, weight2, bias2).view(*x.shape[:-1], len(weight2))

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        flat, hidden, active, weight1, weight2 = ctx.saved_tensors
        of_input, of_weights = ctx.dtypes
        shape, grad = (*grad.shape[:-1], flat.shape[-1]), grad.reshape(-1, grad.shape[-1])
        dweight2, dbias2 = grad.t() @ active, grad.sum(dim=0)
        dhidden = _linear(grad, weight2.t())  # of the activation, then in place of what it activates
        torch.ops.aten.gelu_backward.grad_input(dhidden, hidden, approximate="none", grad_input=dhidden)
        dx = _linear(dhidden, weight1.t()).view(shape).to(of_input) if ctx.needs_input_grad[0] else None
        of_parameters = (dhidden.t() @ flat, dhidden.sum(dim=0), dweight2, dbias2)
        return dx, *(gradient.to(of_weights) for gradient in of_parameters)


class OutlookLayers(torch.autograd.Function):
    """Outlook attention over (B, H, W, C) in float32, its linear layers included, a few images at a time: whole are
    only output, values and logits, and the input's gradient."""

    @staticmethod
    def forward(
        ctx, x: Tensor, v: Tensor, v_bias: Tensor | None, attn: Tensor, attn_bias: Tensor, proj: Tensor,
        proj_bias: Tensor, num_heads: int, window: tuple[int, int, int],
    ) -> Tensor:  # fmt: skip
        kernel_size, stride, _ = window
        out = torch.empty_like(x, memory_format=torch.contiguous_format)
        kept: list[Tensor] = []
        ctx.num_images = -(-PIXELS_A_THREAD * torch.get_num_threads() // (x.shape[1] * x.shape[2]))
        for some, some_out in _few_at_a_time(ctx.num_images, x, out):
            values = _linear(some, v, v_bias)
            logits = _linear(window_centres(some, stride), attn, attn_bias)
            logits = logits.unflatten(-1, (num_heads, kernel_size**2, kernel_size**2))
            mixed = outlook_aggregate(values, logits, *window, op="cpu")
            some_out.copy_(_linear(mixed, proj, proj_bias))
            del mixed
            kept += values, logits
        ctx.window, ctx.has_bias = window, v_bias is not None
        ctx.save_for_backward(x, v, attn, proj, *kept)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, v, attn, proj, *kept = ctx.saved_tensors
        dx = torch.empty_like(x, memory_format=torch.contiguous_format)
        weights = [torch.zeros_like(weight) for weight in (v, attn, proj)]
        biases = [torch.zeros_like(weight[:, 0]) for weight in (v, attn, proj)]

        def add(layer: int, grad: Tensor, source: Tensor) -> None:
            grad, source = grad.flatten(0, 2), source.flatten(0, 2)
            weights[layer].addmm_(grad.t(), source)
            biases[layer] += grad.sum(dim=0)

        def differentiate(some: Tensor, grad: Tensor, some_dx: Tensor, values: Tensor, logits: Tensor) -> None:
            add(2, grad, cpu.aggregate(values, logits, *ctx.window))
            dvalues, dlogits = cpu.gradients_in_place(_linear(grad, proj.t()), values, logits, *ctx.window)
            add(0, dvalues, some)
            some_dx.copy_(_linear(dvalues, v.t()))
            del dvalues
            dlogits = dlogits.flatten(3)
            add(1, dlogits, window_centres(some, ctx.window[1]))
            some_dx += _spread(_linear(dlogits, attn.t()), some, ctx.window[1])

        maps = _few_at_a_time(ctx.num_images, x, grad, dx)
        for (some, some_grad, some_dx), values, logits in zip(maps, kept[::2], kept[1::2], strict=True):
            differentiate(some, some_grad, some_dx, values, logits)
        of_parameters: list[Tensor | None] = [
            gradient for pair in zip(weights, biases, strict=True) for gradient in pair
        ]
        if not ctx.has_bias:
            of_parameters[1] = None
        return dx, *of_parameters, None, None


def _few_at_a_time(num_images: int, *maps: Tensor) -> Iterator[tuple[Tensor, ...]]:
    return zip(*(each.split(num_images) for each in maps), strict=True)


def _spread(grad: Tensor, x: Tensor, stride: int) -> Tensor:
    """The gradient of `window_centres`."""
    if stride == 1:
        return grad
    grad, x, window = grad.permute(0, 3, 1, 2), x.permute(0, 3, 1, 2), [stride, stride]
    dx = torch.ops.aten.avg_pool2d_backward(grad, x, window, window, [0, 0], True, True, None)
    return dx.permute(0, 2, 3, 1)


def is_eager_cpu(x: Tensor) -> bool:
    """Whether this is on a CPU, and no compiler or exporter is at work."""
    return x.device.type == "cpu" and not torch.compiler.is_compiling() and not torch.jit.is_tracing()


def is_eager_float32(x: Tensor, weight: Tensor) -> bool:
    """Whether these are in float32 on a CPU, and neither autocast nor a compiler is at work."""
    return is_eager_cpu(x) and not torch.is_autocast_enabled("cpu") and x.dtype == weight.dtype == torch.float32


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """F.linear, in float32 by oneDNN: PyTorch's own writes the bias to every row first, and multiplies slower."""
    if x.dtype == torch.float32 and HAS_ONEDNN:
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return F.linear(x, weight, bias)
