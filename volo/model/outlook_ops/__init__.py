"""Outlook aggregation: one function, several formulations, tensors in and tensors out (arXiv 2106.13112, sec. 3.1).

Shapes: B images, H x W map, C channels in `heads` heads, K kernel size, windows h = ceil(H / stride), w likewise.
"""

import logging
import os

import torch
from torch import Tensor

from volo.model.outlook_ops import cpu, dense, reference

logger = logging.getLogger("volo")

FORMULATIONS = {"reference": reference.aggregate, "dense": dense.aggregate, "cpu": cpu.aggregate}

# Without the CPU kernel the dense matrix is the faster form on maps up to this many pixels, at stride 1
# (benchmarks/RESULTS.md).
DENSE_MAX_PIXELS = 256

_announced: set[tuple[str, str]] = set()


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
        op: A formulation of `FORMULATIONS`, or auto: the environment variable VOLO_OUTLOOK_OP, else by measurement.

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
    return FORMULATIONS[choose(op, values, stride)](values, logits, kernel_size, stride, padding)


def choose(op: str, values: Tensor, stride: int) -> str:
    """The formulation to use: `op` where it names one, else VOLO_OUTLOOK_OP, else by device, map size and stride.

    On a CPU that is the compiled kernel wherever Numba is installed, but not for float64, which it would round, nor
    under an exporter, which gets the dense form. The choice is logged once for each device.
    """
    if op == "auto":
        op = os.environ.get("VOLO_OUTLOOK_OP", "auto")
    if op == "auto":
        op = _fastest(values, stride)
    elif op not in FORMULATIONS:
        raise ValueError(f"outlook_op must be one of auto, {', '.join(FORMULATIONS)}, got {op!r}")
    elif op == "cpu":
        _check_cpu(values)
    _announce(op, values.device.type)
    return op


def _fastest(values: Tensor, stride: int) -> str:
    if _is_exporting():
        return "dense"
    if values.device.type == "cpu" and values.dtype != torch.float64 and cpu.is_available():
        return "cpu"
    num_pixels = values.shape[1] * values.shape[2]
    return "dense" if stride == 1 and num_pixels <= DENSE_MAX_PIXELS else "reference"


def _check_cpu(values: Tensor) -> None:
    if values.device.type != "cpu":
        raise ValueError(f"outlook_op=cpu computes on the CPU only, got values on {values.device}; use auto")
    if not cpu.is_available():
        raise ValueError("outlook_op=cpu needs numba, which is not installed; install it, or use auto")


def _is_exporting() -> bool:
    """Whether torch.export, or the older exporters by tracing, are at work."""
    return torch.compiler.is_exporting() or torch.jit.is_tracing()


@torch.compiler.assume_constant_result
def _announce(op: str, device: str) -> bool:
    """Under torch.compile this runs once, while it traces."""
    is_new = (op, device) not in _announced
    if is_new:
        _announced.add((op, device))
        logger.info("outlook attention on %s: the %s formulation", device, op)
    return is_new
