"""Softmax and aggregation in fused Triton kernels for GPUs, forward and backward, with no copy per window.

Source: arXiv 2106.13112, sec. 3.1. The kernels are in `triton_kernels`, which is imported, and compiled, on first use.
Nothing but the inputs is kept for the backward pass: it takes the softmax of each row anew, because a row is read there
anyway, and holds the pixels' weights (25 for each head where windows are 3 x 3) between its two kernels.

With TRITON_INTERPRET=1 the same kernels run on CPU tensors, slowly: for tests. It has to be set before Triton is
imported, which torch.compile may have done by the time this module is.
"""

import os
from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor

from volo.model.outlook_ops.registration import make_differentiable

_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
_MAX_KERNEL_SIZE = 3  # the kernels are written out for every tap; for 5 the compiler takes four minutes for one
_MIN_CAPABILITY = (8, 0)  # of NVIDIA's GPUs; Triton supports no older ones


def aggregate(values: Tensor, logits: Tensor, kernel_size: int, stride: int, padding: int) -> Tensor:
    """See `outlook_aggregate`. Windows up to 3 x 3, any stride, padding, head size, on a GPU; accumulates in float32,
    or in float64 where an input is float64.

    Differentiable once: a second derivative raises.
    """
    return _forward(values, logits, kernel_size, stride, padding)


@torch.compiler.assume_constant_result
def limit(device: torch.device, dtype: torch.dtype, kernel_size: int) -> str | None:
    """Why the kernels cannot work on such values, or None where they can. Does not import triton."""
    if device.type != "cuda" and not (device.type == "cpu" and _is_interpreted()):
        return f"computes on the GPU only, got values on {device}"
    if not _has_triton():
        return "needs triton, which is not installed"
    if dtype not in _DTYPES:
        return f"needs values of float32, bfloat16, float16 or float64, got {dtype}"
    if kernel_size > _MAX_KERNEL_SIZE:
        return f"needs windows of at most {_MAX_KERNEL_SIZE} x {_MAX_KERNEL_SIZE}, got kernel_size={kernel_size}"
    if device.type == "cuda" and torch.version.hip is None:
        capability = torch.cuda.get_device_capability(device)
        if capability < _MIN_CAPABILITY:
            return "needs a GPU of compute capability {}.{} or more, got {}.{}".format(*_MIN_CAPABILITY, *capability)
    return None


@cache
def _has_triton() -> bool:
    return find_spec("triton") is not None


def _is_interpreted() -> bool:
    return os.environ.get("TRITON_INTERPRET", "").lower() in ("1", "true", "on", "y", "yes")


@torch.library.custom_op("volo::outlook_fused", mutates_args=())
def _forward(values: Tensor, logits: Tensor, kernel_size: int, stride: int, padding: int) -> Tensor:
    from volo.model.outlook_ops import triton_kernels

    return triton_kernels.forward(values.contiguous(), logits.contiguous(), kernel_size, stride, padding)


@torch.library.custom_op("volo::outlook_fused_backward", mutates_args=())
def _backward(
    grad: Tensor, values: Tensor, logits: Tensor, kernel_size: int, stride: int, padding: int
) -> tuple[Tensor, Tensor]:
    from volo.model.outlook_ops import triton_kernels

    grad, values, logits = (tensor.contiguous() for tensor in (grad, values, logits))
    return triton_kernels.backward(grad, values, logits, kernel_size, stride, padding)


make_differentiable(_forward, _backward)
