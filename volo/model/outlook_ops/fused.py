"""Softmax and aggregation in fused Triton kernels for GPUs, forward and backward, with no copy per window.

Source: arXiv 2106.13112, section 3.1. The kernels are in `triton_kernels`, which is imported and compiled on first use.
Only the inputs are kept for the backward pass. It computes the softmax of each row again, because it reads the row
anyway, and holds the pixels' weights (25 per head for windows of 3 x 3) between its two kernels.

With TRITON_INTERPRET=1 the same kernels run on CPU tensors, slowly, for tests. The variable must be set before Triton
is imported, which torch.compile may do before this module is used.
"""

import os
from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor

from volo.model.outlook_ops.registration import make_differentiable

_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
_MAX_KERNEL_SIZE = 3  # loops over taps are unrolled; for 5 one kernel takes four minutes to compile
_MIN_CAPABILITY = (8, 0)  # of NVIDIA GPUs; Triton does not support older ones


def aggregate(values: Tensor, logits: Tensor, kernel_size: int, stride: int, padding: int) -> Tensor:
    """See `outlook_aggregate`. Windows up to 3 x 3, any stride, padding, and head size, on a GPU.

    Accumulates in float32, or in float64 if an input is float64. Differentiable once; a second derivative raises.
    """
    return _forward(values, logits, kernel_size, stride, padding)


def limit(device: torch.device, dtype: torch.dtype, kernel_size: int) -> str | None:
    """Why the kernels cannot compute with such values, or None if they can. Does not import Triton."""
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
    from volo.model.outlook_ops import triton_launch

    return triton_launch.forward(values.contiguous(), logits.contiguous(), kernel_size, stride, padding)


@torch.library.custom_op("volo::outlook_fused_backward", mutates_args=())
def _backward(
    grad: Tensor, values: Tensor, logits: Tensor, kernel_size: int, stride: int, padding: int
) -> tuple[Tensor, Tensor]:
    from volo.model.outlook_ops import triton_launch

    grad, values, logits = (tensor.contiguous() for tensor in (grad, values, logits))
    return triton_launch.backward(grad, values, logits, kernel_size, stride, padding)


make_differentiable(_forward, _backward)
