"""Outlook aggregation: one function, several formulations, tensors in and tensors out (arXiv 2106.13112, sec. 3.1).

Shapes: B images, H x W map, C channels in `heads` heads, K kernel size, windows h = ceil(H / stride), w likewise.
"""

import logging
import os

import torch
import torch.nn.functional as F
from torch import Tensor

from volo.model.outlook_ops import cpu, dense, fused, reference
from volo.model.outlook_ops.choice import by_measurement

logger = logging.getLogger("volo")

FORMULATIONS = {
    "reference": reference.aggregate,
    "dense": dense.aggregate,
    "cpu": cpu.aggregate,
    "fused": fused.aggregate,
}

_announced: set[tuple[str, str]] = set()
_warned: set[tuple[str, str]] = set()


def outlook_aggregate(
    values: Tensor, logits: Tensor, kernel_size: int, stride: int = 1, padding: int | None = None, op: str = "auto"
) -> Tensor:
    """Softmax of the logits over their last axis, then each window's positions mixed by it and summed per pixel.

    Args:
        values: (B, H, W, C), channel-last.
        logits: (B, h, w, heads, K*K, K*K), already scaled by (C / heads) ** -0.5. Row p of a window says how the
            output at the window's position p mixes the values at its positions q.
        kernel_size: K, odd.
        stride: Pixels between windows, at most K.
        padding: Pixels of zeros around the map; None: K // 2.
        op: A formulation of `FORMULATIONS`, or auto: the environment variable VOLO_OUTLOOK_OP, else by measurement
            (the table in `choice`).

    Returns:
        (B, H, W, C), of the values' dtype.

    Raises:
        ValueError: logits that do not fit values, kernel_size and stride; a formulation that is unknown or cannot
            work here.
    """
    padding = kernel_size // 2 if padding is None else padding
    B, H, W, C = values.shape
    h, w = ((size + 2 * padding - kernel_size) // stride + 1 for size in (H, W))
    heads, taps = logits.shape[3], kernel_size**2
    if logits.shape != (B, h, w, heads, taps, taps) or C % heads:
        raise ValueError(
            f"logits must be (B, h, w, heads, K*K, K*K) = ({B}, {h}, {w}, heads, {taps}, {taps}) with heads dividing "
            f"C={C}, got {tuple(logits.shape)}"
        )
    return FORMULATIONS[choose(op, values, stride, kernel_size)](values, logits, kernel_size, stride, padding)


def window_centres(x: Tensor, stride: int) -> Tensor:
    """What the windows' logits are made from: (B, H, W, C) -> (B, h, w, C), pooled by the stride."""
    if stride == 1:
        return x
    return F.avg_pool2d(x.permute(0, 3, 1, 2), stride, stride, ceil_mode=True).permute(0, 2, 3, 1)


def choose(op: str, values: Tensor, stride: int, kernel_size: int = 3) -> str:
    """The formulation to use: `op` where it names one, else VOLO_OUTLOOK_OP, else by the table in `choice`.

    On a CPU that is the compiled kernel wherever Numba is installed, on a GPU the fused kernel wherever Triton is, but
    neither for float64; an exporter gets the dense form. The choice is logged once for each device, and warned of once
    where a formulation that would be faster cannot work.
    """
    if op == "auto":
        op = os.environ.get("VOLO_OUTLOOK_OP", "auto")
    if op == "auto":
        op = _fastest(values, stride, kernel_size)
    elif op not in FORMULATIONS:
        raise ValueError(f"outlook_op must be one of auto, {', '.join(FORMULATIONS)}, got {op!r}")
    elif reason := limit(op, values, kernel_size):
        raise ValueError(f"outlook_op={op} {reason}; use auto")
    _announce(op, values.device.type)
    return op


def _fastest(values: Tensor, stride: int, kernel_size: int) -> str:
    if _is_exporting():
        return "dense"
    num_pixels = values.shape[1] * values.shape[2]
    for op in by_measurement(values.device.type, values.dtype, num_pixels, stride):
        reason = limit(op, values, kernel_size)
        if reason is None:
            return op
        _warn(op, reason)
    return "reference"


def limit(op: str, values: Tensor, kernel_size: int) -> str | None:
    """Why a formulation cannot work on such values, or None where it can."""
    if op == "cpu":
        return cpu.limit(values.device)
    return fused.limit(values.device, values.dtype, kernel_size) if op == "fused" else None


@torch.compiler.assume_constant_result
def _is_exporting() -> bool:
    """Whether torch.export, or the older exporters by tracing, are at work. Asked for real also while torch.compile
    traces, which in torch 2.11 takes is_exporting for true."""
    return torch.compiler.is_exporting() or torch.jit.is_tracing()


@torch.compiler.assume_constant_result
def _announce(op: str, device: str) -> bool:
    """Under torch.compile this runs once, while it traces."""
    is_new = (op, device) not in _announced
    if is_new:
        _announced.add((op, device))
        logger.info("outlook attention on %s: the %s formulation", device, op)
    return is_new


@torch.compiler.assume_constant_result
def _warn(op: str, reason: str) -> bool:
    is_new = (op, reason) not in _warned
    if is_new:
        _warned.add((op, reason))
        logger.warning("the %s formulation of outlook attention %s; falling back to the next best", op, reason)
    return is_new
