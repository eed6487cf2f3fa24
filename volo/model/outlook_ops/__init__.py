"""Outlook aggregation: one function, several formulations, tensors in and tensors out (arXiv 2106.13112, section 3.1).

B images, H x W map, C channels in `heads` heads of d = C / heads, K kernel size
h x w windows: h = (H + 2 * padding - K) // stride + 1, w likewise; K*K taps per window
values (B, H, W, C), logits (B, h, w, heads, K*K, K*K) -> output (B, H, W, C)
"""

import os

import torch
import torch.nn.functional as F
from torch import Tensor

from volo.errors import is_whole
from volo.model.outlook_ops import cpu, dense, fused, reference, told
from volo.model.outlook_ops.choice import by_measurement

FORMULATIONS = {
    "reference": reference.aggregate,
    "dense": dense.aggregate,
    "cpu": cpu.aggregate,
    "fused": fused.aggregate,
}


def outlook_aggregate(
    values: Tensor, logits: Tensor, kernel_size: int, stride: int = 1, padding: int | None = None, op: str = "auto"
) -> Tensor:
    """Outlook aggregation: attention within K x K windows of a map, summed where the windows overlap.

    The softmax of the logits over their last axis gives the weights with which the output at each tap of a window (a
    position in it, numbered row by row) mixes the values at all taps of that window. The outputs of all windows are
    summed per pixel. Equals `F.unfold`, softmax, `matmul`, `F.fold`, but without a copy of the values per window in the
    compiled formulations. Source: arXiv 2106.13112, section 3.1.

    Differentiable in values and logits; the compiled formulations only once. Works under autocast, torch.compile,
    and torch.export.

    Args:
        values: (B, H, W, C), channel-last. Any floating dtype, on any device.
        logits: (B, h, w, heads, K*K, K*K) on the same device, with h = (H + 2 * padding - K) // stride + 1 and w
            likewise; `[..., p, q]` is for the output at tap p and the values at tap q. Already scaled by
            (C / heads) ** -0.5. The dtype may differ from that of the values.
        kernel_size: K, odd.
        stride: Pixels between windows, in [1, K].
        padding: Pixels of zeros around the map. Default: K // 2, which gives h = ceil(H / stride).
        op: The formulation, which changes speed and rounding only. "auto" takes the one named by the environment
            variable VOLO_OUTLOOK_OP, or else the fastest by measurement: "cpu" on a CPU (needs Numba; float32,
            bfloat16, float16), "fused" on a GPU (needs Triton; K <= 3), otherwise "dense" for small maps at stride 1
            and "reference" for the rest.

    Returns:
        (B, H, W, C), in the dtype of the values; empty for an empty batch. "cpu" and "fused" accumulate in float32
        (float64 for float64).

    Raises:
        ValueError: arguments of another type, shapes, dtypes, or devices that do not fit each other, a map without
            pixels or channels, a kernel_size, stride, or padding out of range, or a formulation that is unknown or
            cannot compute with these tensors.

    Example:
        >>> import torch
        >>> from volo.ops import outlook_aggregate
        >>> values = torch.randn(2, 8, 8, 64)
        >>> logits = torch.randn(2, 8, 8, 4, 9, 9)  # 4 heads, windows of 3 x 3
        >>> outlook_aggregate(values, logits, kernel_size=3).shape
        torch.Size([2, 8, 8, 64])

        Equal logits take the mean of each window; summing 9 overlapping windows gives 9 for a map of ones.

        >>> outlook_aggregate(torch.ones(1, 5, 5, 1), torch.zeros(1, 5, 5, 1, 9, 9), kernel_size=3)[0, 2, 2].item()
        9.0
    """
    padding = default_padding(kernel_size, stride, padding)
    _check(values, logits, kernel_size, stride, padding)
    return FORMULATIONS[choose(op, values, stride, kernel_size)](values, logits, kernel_size, stride, padding)


def default_padding(kernel_size: int, stride: int, padding: int | None) -> int:
    """The padding, or K // 2 for None. Raises ValueError for a kernel_size, stride, or padding that no window has."""
    are_whole = is_whole(kernel_size) and is_whole(stride) and (padding is None or is_whole(padding))
    if not are_whole or kernel_size % 2 == 0 or not 1 <= stride <= kernel_size or (padding is not None and padding < 0):
        raise ValueError(
            "kernel_size must be odd, stride in [1, kernel_size], and padding at least 0, all whole numbers, got "
            f"{kernel_size=}, {stride=}, {padding=}; use kernel_size=3, 5, or 7"
        )
    return kernel_size // 2 if padding is None else padding


def _check(values: Tensor, logits: Tensor, kernel_size: int, stride: int, padding: int) -> None:
    if not (isinstance(values, Tensor) and isinstance(logits, Tensor)):
        raise ValueError(
            f"values and logits must be tensors, got {type(values).__name__} and {type(logits).__name__}; "
            "use torch.as_tensor"
        )
    if values.ndim != 4 or logits.ndim != 6:
        raise ValueError(
            "values must be (B, H, W, C) and logits (B, h, w, heads, K*K, K*K), got "
            f"{tuple(values.shape)} and {tuple(logits.shape)}; permute (B, C, H, W) maps with x.permute(0, 2, 3, 1)"
        )
    B, H, W, C = values.shape
    h, w = ((size + 2 * padding - kernel_size) // stride + 1 for size in (H, W))
    if min(h, w) < 1:
        raise ValueError(
            f"the padded map must hold a window, got H={H}, W={W}, {padding=}, {kernel_size=}; use a larger padding"
        )
    heads, taps = logits.shape[3], kernel_size**2
    if H < 1 or W < 1 or C < 1 or heads < 1:
        raise ValueError(
            "values and logits must have at least one pixel, one channel, and one head, got "
            f"{tuple(values.shape)} and {tuple(logits.shape)}; skip empty maps"
        )
    if logits.shape != (B, h, w, heads, taps, taps) or C % heads:
        raise ValueError(
            f"logits must be (B, h, w, heads, K*K, K*K) = ({B}, {h}, {w}, heads, {taps}, {taps}) with heads dividing "
            f"C={C}, got {tuple(logits.shape)}; give one set of logits per window, as volo.OutlookAttention does"
        )
    if not (values.is_floating_point() and logits.is_floating_point()):
        raise ValueError(
            f"values and logits must be floating point, got {values.dtype} and {logits.dtype}; use .float()"
        )
    if values.device != logits.device:
        raise ValueError(
            f"values and logits must be on one device, got {values.device} and {logits.device}; "
            "use logits.to(values.device)"
        )


def window_centers(x: Tensor, stride: int) -> Tensor:
    """The map at the windows' centers, from which their logits are made: (B, H, W, C) -> (B, h, w, C), mean-pooled."""
    if stride == 1:
        return x
    return F.avg_pool2d(x.permute(0, 3, 1, 2), stride, stride, ceil_mode=True).permute(0, 2, 3, 1)


def choose(op: str, values: Tensor, stride: int, kernel_size: int = 3) -> str:
    """The formulation to use: `op` if it names one, otherwise VOLO_OUTLOOK_OP, otherwise by the table in `choice`.

    By the table it is the compiled kernel on a CPU with Numba and the fused kernel on a GPU with Triton, neither for
    float64. Exporters get the dense form. The choice is logged once per device, with a warning if a formulation that
    would be faster cannot be used.
    """
    if torch.compiler.is_compiling():
        import volo.model.outlook_ops.constants  # noqa: F401, only here: it loads the compiler
    if op == "auto":
        op = os.environ.get("VOLO_OUTLOOK_OP", "auto")
    if op == "auto":
        op = _fastest(values, stride, kernel_size)
    elif not isinstance(op, str) or op not in FORMULATIONS:
        raise ValueError(f"outlook_op must be one of auto, {', '.join(FORMULATIONS)}, got {op!r}; use auto")
    elif reason := limit(op, values, kernel_size):
        raise ValueError(f"outlook_op={op} {reason}; use auto")
    told.announce(op, values.device.type)
    return op


def _fastest(values: Tensor, stride: int, kernel_size: int) -> str:
    if told.is_exporting():
        return "dense"
    num_pixels = values.shape[1] * values.shape[2]
    for op in by_measurement(values.device.type, values.dtype, num_pixels, stride):
        reason = limit(op, values, kernel_size)
        if reason is None:
            return op
        told.warn(op, reason)
    return "reference"


def limit(op: str, values: Tensor, kernel_size: int) -> str | None:
    """Why a formulation cannot compute with such values, or None if it can."""
    if op == "cpu":
        return cpu.limit(values.device)
    return fused.limit(values.device, values.dtype, kernel_size) if op == "fused" else None
