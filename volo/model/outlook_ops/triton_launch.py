"""Launches the Triton kernels of `triton_kernels`, whose legend holds here too: one launch per kernel and phase."""

from contextlib import nullcontext
from itertools import product

import torch
import triton
import triton.language as tl
from torch import Tensor

from volo.model.outlook_ops.triton_kernels import forward_kernel, logits_gradient_kernel, values_gradient_kernel

TILE, MAX_CHANNELS = 32, 64


def forward(values: Tensor, logits: Tensor, kernel_size: int, stride: int, padding: int) -> Tensor:
    """The output, in the dtype of the values. All tensors are contiguous."""
    out = torch.empty_like(values)
    _launch(forward_kernel, (values, logits, out), values, logits, kernel_size, stride, padding)
    return out


def backward(
    grad: Tensor, values: Tensor, logits: Tensor, kernel_size: int, stride: int, padding: int
) -> tuple[Tensor, Tensor]:
    """dvalues and dlogits. All tensors are contiguous. Takes memory for the pixels' weights while it runs."""
    window = values, logits, kernel_size, stride, padding
    dvalues, dlogits = torch.empty_like(values), torch.empty_like(logits)
    planes = _planes(values, logits, kernel_size, stride)
    H, W = values.shape[1:3]
    _clear_rows_outside_the_map(dlogits, (H, W), kernel_size, stride, padding)
    _launch(logits_gradient_kernel, (grad, values, logits, dlogits, planes), *window)
    _launch(values_gradient_kernel, (grad, planes, dvalues), *window)
    return dvalues, dlogits


def _planes(values: Tensor, logits: Tensor, K: int, S: int) -> Tensor:
    """A buffer for the weights of all pixels. They are between 0 and T, where float16 is finer than bfloat16."""
    B, H, W, _ = values.shape
    side = (K - 1) // S * S + K
    is_half = max(values.dtype.itemsize, logits.dtype.itemsize) == 2
    dtype = torch.float16 if is_half else _float(values, logits)
    return torch.empty(B, side * side, H, W, logits.shape[3], dtype=dtype, device=values.device)


def _clear_rows_outside_the_map(dlogits: Tensor, map_size: tuple[int, int], K: int, S: int, P: int) -> None:
    """Zeroes the gradient of rows whose tap is in the padding: they belong to no pixel."""
    by_tap = dlogits.unflatten(-2, (K, K))  # (B, h, w, heads, K, K, T)
    for axis, size in enumerate(map_size):
        windows = by_tap.movedim((1 + axis, 4 + axis), (0, 1))  # (windows, taps, ...) along this axis
        for p in range(K):
            first, last = (max(0, triton.cdiv(edge + P - p, S)) for edge in (0, size))  # windows with tap p in the map
            windows[:first, p].zero_()
            windows[last:, p].zero_()


def _float(values: Tensor, logits: Tensor) -> torch.dtype:
    return torch.float64 if torch.float64 in (values.dtype, logits.dtype) else torch.float32


def constants(
    H: int, W: int, h: int, w: int, heads: int, d: int, K: int, S: int, P: int, Y: int = 0, X: int = 0
) -> dict[str, int]:
    """The constants, except for types, of the kernels for the phase of pixel (Y, X)."""
    taps: dict[str, int] = {}
    for axis, start in (("Y", Y), ("X", X)):
        first = (start + P) % S
        taps |= {axis: start, f"FIRST_{axis}": first, f"LAST_{axis}": first + (K - 1 - first) // S * S}
    tiles = dict(TILE=TILE, TAPS=triton.next_power_of_2(K * K), CHANNELS=min(MAX_CHANNELS, triton.next_power_of_2(d)))
    return dict(H=H, W=W, h=h, w=w, heads=heads, d=d, K=K, S=S, P=P) | tiles | taps


def _launch(kernel, tensors: tuple[Tensor, ...], values: Tensor, logits: Tensor, K: int, S: int, P: int) -> None:
    B, H, W, C = values.shape
    _, h, w, heads, _, _ = logits.shape
    types = dict(
        FLOAT=tl.float64 if _float(values, logits) == torch.float64 else tl.float32,
        INDEX=tl.int32 if max(values[:1].numel(), logits[:1].numel()) < 2**31 else tl.int64,
    )
    with torch.cuda.device(values.device) if values.is_cuda else nullcontext():
        for Y, X in product(range(min(S, H)), range(min(S, W))):
            found = constants(H, W, h, w, heads, C // heads, K, S, P, Y, X)
            num_elements = triton.cdiv(H - Y, S) * triton.cdiv(W - X, S) * heads
            channel_blocks = 1 if kernel is logits_gradient_kernel else triton.cdiv(C // heads, found["CHANNELS"])
            kernel[(B * triton.cdiv(num_elements, TILE), channel_blocks)](*tensors, **found, **types, num_warps=1)
