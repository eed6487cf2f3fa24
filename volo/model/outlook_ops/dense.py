"""The rows of all windows added into one (H*W) x (H*W) matrix per head, applied with one matmul.

Two windows that cover a pixel pair are summed before they touch the values. Good for small maps, where the matrix
is; and for exporters, which know scatter-add and matmul but not fold.
"""

from functools import lru_cache

import torch
from torch import Tensor


def aggregate(values: Tensor, logits: Tensor, kernel_size: int, stride: int, padding: int) -> Tensor:
    """See `outlook_aggregate`. Memory grows with heads * (H*W)**2."""
    B, H, W, C = values.shape
    heads = logits.shape[3]
    # A tensor made while a compiler or exporter traces is good for that graph alone, so it must not be kept.
    make_index = _pair_index if torch.compiler.is_compiling() else _kept_pair_index
    index = make_index(H, W, kernel_size, stride, padding).to(values.device)  # (h*w*KK*KK,)
    attention = logits.softmax(dim=-1).to(values.dtype)  # (B, h, w, heads, KK, KK)
    entries = attention.permute(0, 3, 1, 2, 4, 5).reshape(B * heads, -1)  # (B*heads, h*w*KK*KK)
    # One more cell than pairs takes what falls on padding.
    matrix = entries.new_zeros(B * heads, H * W * H * W + 1).scatter_add(1, index.expand_as(entries), entries)
    matrix = matrix[:, :-1].reshape(B, heads, H * W, H * W)
    per_head = values.reshape(B, H * W, heads, C // heads).transpose(1, 2)  # (B, heads, H*W, d)
    return torch.matmul(matrix, per_head).transpose(1, 2).reshape(B, H, W, C)


@torch.inference_mode(False)  # a tensor first made in inference mode could not be used for gradients later
def _pair_index(H: int, W: int, kernel_size: int, stride: int, padding: int) -> Tensor:
    """For every window and its KK x KK entries: the flat index of (output pixel, input pixel), or H*W*H*W outside."""
    rows = torch.arange(-(-H // stride))[:, None] * stride + torch.arange(kernel_size) - padding  # (h, K)
    cols = torch.arange(-(-W // stride))[:, None] * stride + torch.arange(kernel_size) - padding  # (w, K)
    inside = ((rows >= 0) & (rows < H))[:, None, :, None] & ((cols >= 0) & (cols < W))[None, :, None, :]
    pixel = rows[:, None, :, None] * W + cols[None, :, None, :]  # (h, w, K, K)
    pixel, inside = pixel.flatten(2), inside.flatten(2)  # (h, w, KK)
    pairs = pixel[..., :, None] * (H * W) + pixel[..., None, :]  # (h, w, KK, KK)
    both = inside[..., :, None] & inside[..., None, :]
    return torch.where(both, pairs, H * W * H * W).flatten()


_kept_pair_index = lru_cache(maxsize=32)(_pair_index)
