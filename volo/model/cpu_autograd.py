"""Hand-written autograd functions for CPUs: linear layers, MLP, attention, and outlook attention.

Each writes out its backward pass, for two reasons. In float32, oneDNN multiplies up to twice as fast as what PyTorch's
own linear layer calls on some CPUs. And fewer large buffers are allocated, whose page faults cost a CPU more time than
computing what is written into them. Results equal PyTorch's own composition up to rounding.

Only eager CPU code comes here (see `Linear`, `Mlp`, `attend`, `OutlookAttention`). GPUs, compilers, and exporters get
the plain composition.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from volo.model.outlook_ops import cpu, outlook_aggregate, window_centers
from volo.model.torch_internals import linear, softmax_backward_

PIXELS_PER_THREAD = 768  # at a time: enough for the matrix products, few enough for a cache


class LinearFunction(torch.autograd.Function):
    """Linear over the last axis of (..., C) in float32."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        ctx.has_bias = bias is not None
        ctx.save_for_backward(flat, weight)
        return linear(flat, weight, bias).view(*x.shape[:-1], len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        flat, weight = ctx.saved_tensors
        shape, grad = (*grad.shape[:-1], flat.shape[-1]), grad.reshape(-1, grad.shape[-1])
        dx = linear(grad, weight.t()).view(shape) if ctx.needs_input_grad[0] else None
        return dx, grad.t() @ flat, grad.sum(dim=0) if ctx.has_bias else None


class AttentionFunction(torch.autograd.Function):
    """softmax(q k^T / sqrt(d)) v over (B, n, N, d), in the dtype of the inputs, also under autocast."""

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
        dlogits = grad @ v.mT  # the gradient of the weights, then in place that of the logits
        softmax_backward_(dlogits, weights)
        return (dlogits @ k).mul_(scaled.shape[-1] ** -0.5), dlogits.mT @ scaled, dv


class MlpFunction(torch.autograd.Function):
    """Linear, GELU, linear over the last axis of (..., C), in float32 or in the autocast dtype."""

    @staticmethod
    def forward(ctx, x: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor, bias2: Tensor) -> Tensor:
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
        ctx.dtypes = x.dtype, weight1.dtype
        with torch.autocast("cpu", enabled=False):
            flat, weight1, bias1, weight2, bias2 = (
                tensor.to(dtype) for tensor in (x.reshape(-1, x.shape[-1]), weight1, bias1, weight2, bias2)
            )
            hidden = linear(flat, weight1, bias1)
            active = F.gelu(hidden)
            ctx.save_for_backward(flat, hidden, active, weight1, weight2)
            return linear(active, weight2, bias2).view(*x.shape[:-1], len(weight2))

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        flat, hidden, active, weight1, weight2 = ctx.saved_tensors
        of_input, of_weights = ctx.dtypes
        shape, grad = (*grad.shape[:-1], flat.shape[-1]), grad.reshape(-1, grad.shape[-1])
        dweight2, dbias2 = grad.t() @ active, grad.sum(dim=0)
        dhidden = linear(grad, weight2.t())  # the gradient after the GELU, then in place that before it
        torch.ops.aten.gelu_backward.grad_input(dhidden, hidden, approximate="none", grad_input=dhidden)
        dx = linear(dhidden, weight1.t()).view(shape).to(of_input) if ctx.needs_input_grad[0] else None
        of_parameters = (dhidden.t() @ flat, dhidden.sum(dim=0), dweight2, dbias2)
        return dx, *(gradient.to(of_weights) for gradient in of_parameters)


class OutlookAttentionFunction(torch.autograd.Function):
    """Outlook attention over (B, H, W, C) in float32, with its linear layers, a few images at a time.

    Only the output, values, logits, and the gradient of the input are held for the whole batch.
    """

    @staticmethod
    def forward(
        ctx, x: Tensor, v: Tensor, v_bias: Tensor | None, attn: Tensor, attn_bias: Tensor, proj: Tensor,
        proj_bias: Tensor, num_heads: int, window: tuple[int, int, int],
    ) -> Tensor:  # fmt: skip
        kernel_size, stride, _ = window
        out = torch.empty_like(x, memory_format=torch.contiguous_format)
        kept: list[Tensor] = []
        ctx.num_images = -(-PIXELS_PER_THREAD * torch.get_num_threads() // (x.shape[1] * x.shape[2]))
        for some, some_out in _few_at_a_time(ctx.num_images, x, out):
            values = linear(some, v, v_bias)
            logits = linear(window_centers(some, stride), attn, attn_bias)
            logits = logits.unflatten(-1, (num_heads, kernel_size**2, kernel_size**2))
            mixed = outlook_aggregate(values, logits, *window, op="cpu")
            some_out.copy_(linear(mixed, proj, proj_bias))
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
            dvalues, dlogits = cpu.gradients_in_place(linear(grad, proj.t()), values, logits, *ctx.window)
            add(0, dvalues, some)
            some_dx.copy_(linear(dvalues, v.t()))
            del dvalues
            dlogits = dlogits.flatten(3)
            add(1, dlogits, window_centers(some, ctx.window[1]))
            some_dx += _spread(linear(dlogits, attn.t()), some, ctx.window[1])

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
    """The backward pass of `window_centers`."""
    if stride == 1:
        return grad
    grad, x, window = grad.permute(0, 3, 1, 2), x.permute(0, 3, 1, 2), [stride, stride]
    dx = torch.ops.aten.avg_pool2d_backward(grad, x, window, window, [0, 0], True, True, None)
    return dx.permute(0, 2, 3, 1)


def is_eager_cpu(x: Tensor) -> bool:
    """Whether x is on a CPU and neither a compiler nor an exporter is tracing."""
    return x.device.type == "cpu" and not torch.compiler.is_compiling() and not torch.jit.is_tracing()


def is_eager_float32(x: Tensor, weight: Tensor) -> bool:
    """Whether x and weight are float32 on a CPU, without autocast and without a compiler or exporter."""
    return is_eager_cpu(x) and not torch.is_autocast_enabled("cpu") and x.dtype == weight.dtype == torch.float32
