"""The GPU kernels in Triton: softmax and aggregation of outlook attention, forward and backward, as gathers.

Source: arXiv 2106.13112, sec. 3.1. Imported by `fused` on its first use. Every row of logits belongs to one pixel: the
one at the row's place p in its window. So a program owns a block of pixels of one image and head, reads the
ceil(K / S)**2 rows of each, and writes each pixel once: no copy per window, no atomics, the same bits every time.

Shapes: H x W map, h x w windows, T = K*K taps of a window, d head size; tiles are (TAPS, PIXELS, CHANNELS), powers of
two with the taps first, which one warp holds in its registers and sums there. Offsets from the start of an image are
INDEX: int32 where an image's numbers can be counted with it, else int64.
"""

from contextlib import nullcontext

import torch
import triton
import triton.language as tl
from torch import Tensor

TILE = 4096  # numbers of a tile: 128 a lane with one warp, of which 9 in 16 are loaded at K = 3
MAX_PIXELS, MIN_CHANNELS, MAX_WARPS = 32, 8, 8


@triton.jit
def owned_pixels(start, rows, cols, heads, P: tl.constexpr, S: tl.constexpr, PIXELS: tl.constexpr, INDEX: tl.constexpr):
    """This program's image, head and pixels, and the first places that windows have for them.

    The pixels are S apart, so that they have the same places in their windows: first, first + S, ... below K.
    """
    program = tl.program_id(0)
    phase_y, phase_x, program = program // S % S, program % S, program // (S * S)
    blocks = tl.cdiv(rows * cols, PIXELS)
    head, block, image = program % heads, program // heads % blocks, program // heads // blocks
    number = block * PIXELS + tl.arange(0, PIXELS)
    y = start + phase_y + number // cols * S
    x = start + phase_x + number % cols * S
    first_y, first_x = (start + phase_y + P) % S, (start + phase_x + P) % S
    return image.to(tl.int64), head, y.to(INDEX), x.to(INDEX), number < rows * cols, first_y, first_x


@triton.jit
def window_at(
    head, y, x, owned, p_y, p_x, H, W, h, w, heads, d,
    K: tl.constexpr, S: tl.constexpr, P: tl.constexpr, TAPS: tl.constexpr,
):  # fmt: skip
    """The window in which each pixel has the place (p_y, p_x), and its taps.

    Returns: the window's number in the image (PIXELS), whether there is one (PIXELS), the offset of the channels of
    each tap's pixel (TAPS, PIXELS), whether it is a tap of a window, and whether it lies on the map.
    """
    i, j = (y + P - p_y) // S, (x + P - p_x) // S  # the divisions leave no rest
    exists = owned & (i >= 0) & (i < h) & (j >= 0) & (j < w)
    window = (i * w + j) * heads + head
    tap = tl.arange(0, TAPS)
    tap_y, tap_x = tap // K, tap % K
    top, left = y - p_y, x - p_x  # the window's corner on the map, or in its padding
    corner = ((top * W + left) * heads + head) * d
    offset = corner[None, :] + ((tap_y * W + tap_x) * (heads * d))[:, None]
    is_tap = exists[None, :] & (tap < K * K)[:, None]
    pixel_y, pixel_x = top[None, :] + tap_y[:, None], left[None, :] + tap_x[:, None]
    on_map = is_tap & (pixel_y >= 0) & (pixel_y < H) & (pixel_x >= 0) & (pixel_x < W)
    return window, exists, offset, is_tap, on_map


@triton.jit
def load_channels(pointer, offset, on_map, channel, d, FLOAT: tl.constexpr):
    """The channels of every tap's pixel, zero off the map. (TAPS, PIXELS, CHANNELS)"""
    mask = on_map[:, :, None] & (channel < d)[None, None, :]
    return tl.load(pointer + (offset[:, :, None] + channel[None, None, :]), mask=mask, other=0).to(FLOAT)


@triton.jit
def softmax(logits, row, is_tap, T: tl.constexpr, TAPS: tl.constexpr, FLOAT: tl.constexpr):
    """Of a row for each pixel: probabilities (TAPS, PIXELS), and the logarithm of their common divisor (PIXELS)."""
    numbers = tl.load(logits + row, mask=is_tap, other=0).to(FLOAT)
    numbers = tl.where((tl.arange(0, TAPS) < T)[:, None], numbers, float("-inf"))
    top = tl.max(numbers, axis=0)
    powers = tl.exp(numbers - top[None, :])
    total = tl.sum(powers, axis=0)
    return powers / total[None, :], top + tl.log(total)


@triton.jit
def weighted_sum(weights, tile, T: tl.constexpr, TAPS: tl.constexpr):
    """Over the taps. (PIXELS, CHANNELS)"""
    terms = weights[:, :, None] * tile
    is_tap = (tl.arange(0, TAPS) < T)[:, None, None]  # known to the compiler, who leaves out the other terms
    return tl.sum(tl.where(is_tap, terms, 0.0), axis=0)


@triton.jit
def forward_kernel(
    values, logits, out, H, W, h, w, heads, d, rows, cols,
    K: tl.constexpr, S: tl.constexpr, P: tl.constexpr,
    TAPS: tl.constexpr, PIXELS: tl.constexpr, CHANNELS: tl.constexpr, FLOAT: tl.constexpr, INDEX: tl.constexpr,
):  # fmt: skip
    """out[y] = sum, over the windows that cover y at place p, of softmax(logits[p]) . values of the window."""
    T: tl.constexpr = K * K
    image, head, y, x, owned, first_y, first_x = owned_pixels(0, rows, cols, heads, P, S, PIXELS, INDEX)
    map_start, window_start = image * H * W * heads * d, image * h * w * heads
    values, out, logits = values + map_start, out + map_start, logits + window_start * T * T
    tap, channel = tl.arange(0, TAPS), tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    mixed = tl.zeros((PIXELS, CHANNELS), FLOAT)
    for p_y in range(first_y, K, S):
        for p_x in range(first_x, K, S):
            window, _, offset, is_tap, on_map = window_at(
                head, y, x, owned, p_y, p_x, H, W, h, w, heads, d, K, S, P, TAPS
            )
            row = ((window * T + p_y * K + p_x) * T)[None, :] + tap[:, None]
            weights, _ = softmax(logits, row, is_tap, T, TAPS, FLOAT)
            mixed += weighted_sum(weights, load_channels(values, offset, on_map, channel, d, FLOAT), T, TAPS)
    own = ((y * W + x) * heads + head) * d
    mask = (owned & (y < H) & (x < W))[:, None] & (channel < d)[None, :]
    tl.store(out + (own[:, None] + channel[None, :]), mixed, mask=mask)


@triton.jit
def logits_gradient_kernel(
    grad, values, logits, dlogits, norms, H, W, h, w, heads, d, rows, cols,
    K: tl.constexpr, S: tl.constexpr, P: tl.constexpr,
    TAPS: tl.constexpr, PIXELS: tl.constexpr, CHANNELS: tl.constexpr, FLOAT: tl.constexpr, INDEX: tl.constexpr,
):  # fmt: skip
    """dlogits of the rows of each pixel, and their norms (B, h, w, heads, T): softmax is exp(logits - norms).

    Pixels of the padding are owned too: the gradient of their rows is zero, and has to be written.
    """
    T: tl.constexpr = K * K
    image, head, y, x, owned, first_y, first_x = owned_pixels(-P, rows, cols, heads, P, S, PIXELS, INDEX)
    map_start, window_start = image * H * W * heads * d, image * h * w * heads
    values, grad, norms = values + map_start, grad + map_start, norms + window_start * T
    logits, dlogits = logits + window_start * T * T, dlogits + window_start * T * T
    tap = tl.arange(0, TAPS)
    own = ((y * W + x) * heads + head) * d
    own_on_map = owned & (y >= 0) & (y < H) & (x >= 0) & (x < W)
    for p_y in range(first_y, K, S):
        for p_x in range(first_x, K, S):
            window, exists, offset, is_tap, on_map = window_at(
                head, y, x, owned, p_y, p_x, H, W, h, w, heads, d, K, S, P, TAPS
            )
            row_number = window * T + p_y * K + p_x
            row = (row_number * T)[None, :] + tap[:, None]
            weights, norm = softmax(logits, row, is_tap, T, TAPS, FLOAT)
            dweights = tl.zeros((TAPS, PIXELS), FLOAT)
            for start in range(0, d, CHANNELS):
                channel = start + tl.arange(0, CHANNELS)
                mask = own_on_map[:, None] & (channel < d)[None, :]
                own_grad = tl.load(grad + (own[:, None] + channel[None, :]), mask=mask, other=0).to(FLOAT)
                window_values = load_channels(values, offset, on_map, channel, d, FLOAT)
                dweights += tl.sum(own_grad[None, :, :] * window_values, axis=2)
            mean = tl.sum(weights * dweights, axis=0)
            tl.store(dlogits + row, weights * (dweights - mean[None, :]), mask=is_tap)
            tl.store(norms + row_number, norm, mask=exists)


@triton.jit
def values_gradient_kernel(
    grad, logits, norms, dvalues, H, W, h, w, heads, d, rows, cols,
    K: tl.constexpr, S: tl.constexpr, P: tl.constexpr,
    TAPS: tl.constexpr, PIXELS: tl.constexpr, CHANNELS: tl.constexpr, FLOAT: tl.constexpr, INDEX: tl.constexpr,
):  # fmt: skip
    """dvalues[z] = sum, over the windows that cover z at place q and their rows p, of softmax[p, q] * grad[p]."""
    T: tl.constexpr = K * K
    image, head, y, x, owned, first_y, first_x = owned_pixels(0, rows, cols, heads, P, S, PIXELS, INDEX)
    map_start, window_start = image * H * W * heads * d, image * h * w * heads
    grad, dvalues = grad + map_start, dvalues + map_start
    logits, norms = logits + window_start * T * T, norms + window_start * T
    tap, channel = tl.arange(0, TAPS), tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    gathered = tl.zeros((PIXELS, CHANNELS), FLOAT)
    for q_y in range(first_y, K, S):
        for q_x in range(first_x, K, S):
            window, _, offset, is_tap, on_map = window_at(
                head, y, x, owned, q_y, q_x, H, W, h, w, heads, d, K, S, P, TAPS
            )
            row_number = (window * T)[None, :] + tap[:, None]
            numbers = tl.load(logits + (row_number * T + q_y * K + q_x), mask=is_tap, other=0).to(FLOAT)
            weights = tl.exp(numbers - tl.load(norms + row_number, mask=is_tap, other=0))
            gathered += weighted_sum(weights, load_channels(grad, offset, on_map, channel, d, FLOAT), T, TAPS)
    own = ((y * W + x) * heads + head) * d
    mask = (owned & (y < H) & (x < W))[:, None] & (channel < d)[None, :]
    tl.store(dvalues + (own[:, None] + channel[None, :]), gathered, mask=mask)


def forward(values: Tensor, logits: Tensor, kernel_size: int, stride: int, padding: int) -> Tensor:
    """Of contiguous tensors: out, in the values' dtype."""
    out = torch.empty_like(values)
    _launch(forward_kernel, (values, logits, out), values, logits, kernel_size, stride, padding)
    return out


def backward(
    grad: Tensor, values: Tensor, logits: Tensor, kernel_size: int, stride: int, padding: int
) -> tuple[Tensor, Tensor]:
    """Of contiguous tensors: dvalues and dlogits. Besides them, one number a row (the norms) is kept for a moment."""
    window = values, logits, kernel_size, stride, padding
    dvalues, dlogits = torch.empty_like(values), torch.empty_like(logits)
    norms = torch.empty(logits.shape[:-1], dtype=_float(values, logits), device=logits.device)
    _launch(logits_gradient_kernel, (grad, values, logits, dlogits, norms), *window)
    _launch(values_gradient_kernel, (grad, logits, norms, dvalues), *window)
    return dvalues, dlogits


def blocks(kernel_size: int, head_size: int) -> dict[str, int]:
    """Sides of the tiles, and the warps that hold one."""
    taps = triton.next_power_of_2(kernel_size**2)
    channels = min(triton.next_power_of_2(head_size), max(MIN_CHANNELS, TILE // taps))
    pixels = min(MAX_PIXELS, max(1, TILE // (taps * channels)))
    warps = min(MAX_WARPS, max(1, taps * pixels * channels // TILE))
    return {"TAPS": taps, "PIXELS": pixels, "CHANNELS": channels, "num_warps": warps}


def _float(values: Tensor, logits: Tensor) -> torch.dtype:
    return torch.float64 if torch.float64 in (values.dtype, logits.dtype) else torch.float32


def _launch(kernel, tensors: tuple[Tensor, ...], values: Tensor, logits: Tensor, K: int, S: int, P: int) -> None:
    B, H, W, C = values.shape
    _, h, w, heads, _, _ = logits.shape
    whole = kernel is logits_gradient_kernel  # its pixels are all that windows reach, the others' those of the map
    height, width = (S * (h - 1) + K, S * (w - 1) + K) if whole else (H, W)
    rows, cols, d = triton.cdiv(height, S), triton.cdiv(width, S), C // heads
    sides = blocks(K, d)
    programs = B * heads * S * S * triton.cdiv(rows * cols, sides["PIXELS"])
    grid = (programs, 1 if whole else triton.cdiv(d, sides["CHANNELS"]))
    sides["FLOAT"] = tl.float64 if _float(values, logits) == torch.float64 else tl.float32
    sides["INDEX"] = tl.int32 if max(values[:1].numel(), logits[:1].numel()) < 2**31 else tl.int64
    with torch.cuda.device(values.device) if values.is_cuda else nullcontext():
        kernel[grid](*tensors, H, W, h, w, heads, d, rows, cols, K=K, S=S, P=P, **sides)
