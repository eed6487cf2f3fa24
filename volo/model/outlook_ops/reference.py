"""The published formulation: unfold, softmax, matmul, fold. All other formulations are compared with it.

Shapes: d = C / heads channels per head, KK = K*K taps per window, h x w windows.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def aggregate(values: Tensor, logits: Tensor, kernel_size: int, stride: int, padding: int) -> Tensor:
    """See `outlook_aggregate`. Any kernel size, stride, and padding; copies values and output kernel_size**2 times."""
    _, H, W, _ = values.shape
    weights = logits.softmax(dim=-1)  # (B, h, w, heads, KK, KK)
    windows = unfold(values, logits.shape[3], kernel_size, stride, padding)  # (B, h*w, heads, KK, d)
    mixed = torch.matmul(weights.flatten(1, 2).to(windows.dtype), windows)  # (B, h*w, heads, KK, d)
    return fold(mixed, (H, W), kernel_size, stride, padding)


def unfold(values: Tensor, heads: int, kernel_size: int, stride: int, padding: int) -> Tensor:
    """The values in each window, with zeros in the padding: (B, H, W, C) -> (B, h*w, heads, KK, d)."""
    windows = F.unfold(values.permute(0, 3, 1, 2), kernel_size, padding=padding, stride=stride)  # (B, C*KK, h*w)
    return windows.unflatten(1, (heads, -1, kernel_size**2)).permute(0, 4, 1, 3, 2)


def fold(mixed: Tensor, size: tuple[int, int], kernel_size: int, stride: int, padding: int) -> Tensor:
    """The sum over all windows per pixel: (B, h*w, heads, KK, d) -> (B, H, W, C) with (H, W) = `size`."""
    mixed = mixed.permute(0, 2, 4, 3, 1).flatten(1, 3)  # (B, C*KK, h*w)
    out = F.fold(mixed, size, kernel_size, padding=padding, stride=stride)  # (B, C, H, W)
    return out.permute(0, 2, 3, 1)
