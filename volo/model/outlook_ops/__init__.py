"""Outlook aggregation: one function, several formulations, tensors in and tensors out (arXiv 2106.13112, sec. 3.1).

Shapes: B images, H x W map, C channels in `heads` heads, K kernel size, windows h = ceil(H / stride), w likewise.
"""

import os

from torch import Tensor

from volo.model.outlook_ops import dense, reference

FORMULATIONS = {"reference": reference.aggregate, "dense": dense.aggregate}

# The dense matrix is the faster form on maps up to this many pixels, at stride 1 (benchmarks/RESULTS.md).
DENSE_MAX_PIXELS = 256


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
        ValueError: logits that do not fit values, kernel_size and stride, or an unknown formulation.
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
    """The formulation to use: `op` where it names one, else VOLO_OUTLOOK_OP, else by map size and stride."""
    if op == "auto":
        op = os.environ.get("VOLO_OUTLOOK_OP", "auto")
    if op == "auto":
        num_pixels = values.shape[1] * values.shape[2]
        return "dense" if stride == 1 and num_pixels <= DENSE_MAX_PIXELS else "reference"
    if op not in FORMULATIONS:
        raise ValueError(f"outlook_op must be one of auto, {', '.join(FORMULATIONS)}, got {op!r}")
    return op
