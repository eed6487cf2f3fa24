"""The weights of all windows added into one (H*W) x (H*W) matrix per head, applied with one matmul.

Weights of windows that overlap are summed before they touch the values. Good for small maps, whose matrix is small, and
for exporters, which support scatter-add and matmul but not fold.
"""

from functools import lru_cache

import torch
from torch import Tensor


def aggregate(values: Tensor, logits: Tensor, kernel_size: int, stride: int, padding: int) -> Tensor:
    """See `outlook_aggregate`. Memory grows with heads * (H*W)**2."""
    B, H, W, C = values.shape
    _, h, w, heads, _, _ = logits.shape
    # A tensor made while a compiler or exporter traces is valid for that graph only, so it must not be cached.
    make_index = _entry_index if torch.compiler.is_compiling() else _cached_entry_index
    index = make_index(H, W, h, w, kernel_size, stride, padding).to(values.device)  # (h*w*KK*KK,)
    attention = logits.softmax(dim=-1).to(values.dtype)  # (B, h, w, heads, KK, KK)
    entries = attention.permute(0, 3, 1, 2, 4, 5).reshape(B * heads, index.shape[0])  # (B*heads, h*w*KK*KK)
    # The last cell collects the weights of taps in the padding.
    matrix = entries.new_zeros(B * heads, H * W * H * W + 1).scatter_add(1, index.expand_as(entries), entries)
    matrix = matrix[:, :-1].reshape(B, heads, H * W, H * W)
    per_head = values.reshape(B, H * W, heads, C // heads).transpose(1, 2)  # (B, heads, H*W, d)
    return torch.matmul(matrix, per_head).transpose(1, 2).reshape(B, H, W, C)


@torch.inference_mode(False)  # a tensor made in inference mode could not be used for gradients later
def _entry_index(H: int, W: int, h: int, w: int, kernel_size: int, stride: int, padding: int) -> Tensor:
    """The flat matrix index (output pixel, input pixel) of each window's KK x KK weights; H*W*H*W in the padding."""
    rows = torch.arange(h)[:, None] * stride + torch.arange(kernel_size) - padding  # (h, K)
    cols = torch.arange(w)[:, None] * stride + torch.arange(kernel_size) - padding  # (w, K)
    inside = ((rows >= 0) & (rows < H))[:, None, :, None] & ((cols >= 0) & (cols < W))[None, :, None, :]
    pixel = rows[:, None, :, None] * W + cols[None, :, None, :]  # (h, w, K, K)
    pixel, inside = pixel.flatten(2), inside.flatten(2)  # (h, w, KK)
    entries = pixel[..., :, None] * (H * W) + pixel[..., None, :]  # (h, w, KK, KK)
    both = inside[..., :, None] & inside[..., None, :]
    return torch.where(both, entries, H * W * H * W).flatten()


_cached_entry_index = lru_cache(maxsize=32)(_entry_index)
