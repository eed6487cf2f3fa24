"""The published formulation: unfold, softmax, matmul, fold. The yardstick of every other one."""

import torch
import torch.nn.functional as F
from torch import Tensor


def aggregate(values: Tensor, logits: Tensor, kernel_size: int, stride: int, padding: int) -> Tensor:
    """See `outlook_aggregate`. Any kernel, stride and padding; copies values and output kernel_size**2 times."""
    return mix(values, logits.softmax(dim=-1), kernel_size, stride, padding)


def mix(values: Tensor, attention: Tensor, kernel_size: int, stride: int, padding: int) -> Tensor:
    """The aggregation alone, with the weights (B, h, w, heads, K*K, K*K) that a softmax gave."""
    B, H, W, C = values.shape
    _, h, w, heads, taps, _ = attention.shape
    windows = F.unfold(values.permute(0, 3, 1, 2), kernel_size, padding=padding, stride=stride)  # (B, C*KK, h*w)
    windows = windows.reshape(B, heads, C // heads, taps, h * w).permute(0, 4, 1, 3, 2)  # (B, h*w, heads, KK, d)
    attention = attention.reshape(B, h * w, heads, taps, taps).to(windows.dtype)
    mixed = torch.matmul(attention, windows)  # (B, h*w, heads, KK, d)
    mixed = mixed.permute(0, 2, 4, 3, 1).reshape(B, C * taps, h * w)
    out = F.fold(mixed, (H, W), kernel_size, padding=padding, stride=stride)  # (B, C, H, W)
    return out.permute(0, 2, 3, 1)
