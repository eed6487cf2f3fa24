"""The GPU kernels in Triton: softmax and aggregation of outlook attention, forward and backward, as gathers.

Source: arXiv 2106.13112, sec. 3.1. Imported by `fused` on its first use. Every row of logits belongs to one pixel: the
one at the row's place p in its window. So a program, one warp, owns a block of pixels of one image and head, reads the
ceil(K / S)**2 rows of each, and writes each pixel once: no copy per window, no atomics, the same bits every time.

Shapes: H x W map, h x w windows, T = K*K taps of a window, d head size. A warp goes through the taps one by one, with
tiles (PIXELS, CHANNELS), so that all taps of a pixel meet in the registers of the same lane, whatever layout the
compiler takes; what there is of a row, a number for each tap, is a tuple of T vectors (PIXELS). Offsets from the start
of an image are INDEX: int32 where an image's numbers can be counted with it, else int64.
"""

from contextlib import nullcontext

import torch
import triton
import triton.language as tl
from torch import Tensor

TILE = 1024  # numbers of a tile: 32 a lane
MAX_PIXELS, MAX_CHANNELS = 32, 128


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
def window_at(head, y, x, owned, p_y, p_x, h, w, heads, S: tl.constexpr, P: tl.constexpr):
    """The window in which each pixel has the place (p_y, p_x): its number in the image, whether there is one, and its
    upper left corner on the map, or in its padding. All (PIXELS)."""
    i, j = (y + P - p_y) // S, (x + P - p_x) // S  # the divisions leave no rest
    exists = owned & (i >= 0) & (i < h) & (j >= 0) & (j < w)
    return (i * w + j) * heads + head, exists, y - p_y, x - p_x


@triton.jit
def load_tap(
    pointer, tap, exists, top, left, head, channel, H, W, heads, d: tl.constexpr, K: tl.constexpr, FLOAT: tl.constexpr
):
    """The channels of the pixel at place `tap` of each window, zero off the map. (PIXELS, CHANNELS)"""
    y, x = top + tap // K, left + tap % K
    on_map = exists & (y >= 0) & (y < H) & (x >= 0) & (x < W)
    offset = ((y * W + x) * heads + head) * d
    mask = on_map[:, None] & (channel < d)[None, :]
    return tl.load(pointer + (offset[:, None] + channel[None, :]), mask=mask, other=0).to(FLOAT)


@triton.jit
def softmax(logits, row, exists, T: tl.constexpr, FLOAT: tl.constexpr):
    """Of a row for each pixel: T vectors of probabilities, and the logarithm of their common divisor."""
    numbers, powers, probabilities = (), (), ()
    top = tl.full(row.shape, float("-inf"), FLOAT)
    for q in tl.static_range(T):
        number = tl.load(logits + (row + q), mask=exists, other=0).to(FLOAT)
        numbers = numbers + (number,)
        top = tl.maximum(top, number)
    total = tl.zeros(row.shape, FLOAT)
    for q in tl.static_range(T):
        power = tl.exp(numbers[q] - top)
        powers = powers + (power,)
        total += power
    for q in tl.static_range(T):
        probabilities = probabilities + (powers[q] / total,)
    return probabilities, top + tl.log(total)


@triton.jit
def store_own(pointer, tile, y, x, owned, head, channel, H, W, heads, d: tl.constexpr):
    """Writes each pixel's own channels, (PIXELS, CHANNELS), where the pixel is on the map."""
    offset = ((y * W + x) * heads + head) * d
    mask = (owned & (y < H) & (x < W))[:, None] & (channel < d)[None, :]
    tl.store(pointer + (offset[:, None] + channel[None, :]), tile, mask=mask)


@triton.jit
def forward_kernel(
    values, logits, out, H, W, h, w, heads, rows, cols,
    d: tl.constexpr, K: tl.constexpr, S: tl.constexpr, P: tl.constexpr,
    TAPS: tl.constexpr, PIXELS: tl.constexpr, CHANNELS: tl.constexpr, FLOAT: tl.constexpr, INDEX: tl.constexpr,
):  # fmt: skip
    """out[y] = sum, over the windows that cover y at place p, of softmax(logits[p]) . values of the window."""
    T: tl.constexpr = K * K
    image, head, y, x, owned, first_y, first_x = owned_pixels(0, rows, cols, heads, P, S, PIXELS, INDEX)
    map_start, window_start = image * H * W * heads * d, image * h * w * heads
    values, out, logits = values + map_start, out + map_start, logits + window_start * T * T
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    mixed = tl.zeros((PIXELS, CHANNELS), FLOAT)
    for p_y in range(first_y, K, S):
        for p_x in range(first_x, K, S):
            window, exists, top, left = window_at(head, y, x, owned, p_y, p_x, h, w, heads, S, P)
            weights, _ = softmax(logits, (window * T + p_y * K + p_x) * T, exists, T, FLOAT)
            for q in tl.static_range(T):
                tile = load_tap(values, q, exists, top, left, head, channel, H, W, heads, d, K, FLOAT)
                mixed += weights[q][:, None] * tile
    store_own(out, mixed, y, x, owned, head, channel, H, W, heads, d)


@triton.jit
def logits_gradient_kernel(
    grad, values, logits, dlogits, norms, H, W, h, w, heads, rows, cols,
    d: tl.constexpr, K: tl.constexpr, S: tl.constexpr, P: tl.constexpr,
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
    own = ()  # the pixel's own gradient, by blocks of channels
    for start in tl.static_range(0, d, CHANNELS):
        channel = start + tl.arange(0, CHANNELS)
        own = own + (load_tap(grad, 0, owned, y, x, head, channel, H, W, heads, d, K, FLOAT),)
    for p_y in range(first_y, K, S):
        for p_x in range(first_x, K, S):
            window, exists, top, left = window_at(head, y, x, owned, p_y, p_x, h, w, heads, S, P)
            row_number = window * T + p_y * K + p_x
            weights, norm = softmax(logits, row_number * T, exists, T, FLOAT)
            dweights = ()
            mean = tl.zeros((PIXELS,), FLOAT)
            for q in tl.static_range(T):
                dweight = tl.zeros((PIXELS,), FLOAT)
                for start in tl.static_range(0, d, CHANNELS):
                    channel = start + tl.arange(0, CHANNELS)
                    tile = load_tap(values, q, exists, top, left, head, channel, H, W, heads, d, K, FLOAT)
                    dweight += tl.sum(own[start // CHANNELS] * tile, axis=1)
                dweights = dweights + (dweight,)
                mean += weights[q] * dweight
            gradients = tl.zeros((PIXELS, TAPS), FLOAT)  # the rows whole, so that they are written side by side
            for q in tl.static_range(T):
                gradients = tl.where((tap == q)[None, :], (weights[q] * (dweights[q] - mean))[:, None], gradients)
            mask = exists[:, None] & (tap < T)[None, :]
            tl.store(dlogits + ((row_number * T)[:, None] + tap[None, :]), gradients, mask=mask)
            tl.store(norms + row_number, norm, mask=exists)


@triton.jit
def values_gradient_kernel(
    grad, logits, norms, dvalues, H, W, h, w, heads, rows, cols,
    d: tl.constexpr, K: tl.constexpr, S: tl.constexpr, P: tl.constexpr,
    TAPS: tl.constexpr, PIXELS: tl.constexpr, CHANNELS: tl.constexpr, FLOAT: tl.constexpr, INDEX: tl.constexpr,
):  # fmt: skip
    """dvalues[z] = sum, over the windows that cover z at place q and their rows p, of softmax[p, q] * grad[p]."""
    T: tl.constexpr = K * K
    image, head, y, x, owned, first_y, first_x = owned_pixels(0, rows, cols, heads, P, S, PIXELS, INDEX)
    map_start, window_start = image * H * W * heads * d, image * h * w * heads
    grad, dvalues = grad + map_start, dvalues + map_start
    logits, norms = logits + window_start * T * T, norms + window_start * T
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    gathered = tl.zeros((PIXELS, CHANNELS), FLOAT)
    for q_y in range(first_y, K, S):
        for q_x in range(first_x, K, S):
            window, exists, top, left = window_at(head, y, x, owned, q_y, q_x, h, w, heads, S, P)
            for p in tl.static_range(T):
                row_number = window * T + p
                number = tl.load(logits + (row_number * T + q_y * K + q_x), mask=exists, other=0).to(FLOAT)
                weight = tl.exp(number - tl.load(norms + row_number, mask=exists, other=0))
                tile = load_tap(grad, p, exists, top, left, head, channel, H, W, heads, d, K, FLOAT)
                gathered += weight[:, None] * tile
    store_own(dvalues, gathered, y, x, owned, head, channel, H, W, heads, d)


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


def blocks(kernel_size: int, head_size: int, num_pixels: int) -> dict[str, int]:
    """Sides of the tiles of a program, for blocks of a map of `num_pixels`. Code is written out for every tap: where
    windows are wider than three, tiles are narrower by as much."""
    taps, channels = kernel_size**2, min(MAX_CHANNELS, triton.next_power_of_2(head_size))
    room = max(1, TILE * 9 // (max(9, taps) * channels))
    pixels = min(MAX_PIXELS, triton.next_power_of_2(room + 1) // 2, triton.next_power_of_2(num_pixels))
    return {"TAPS": triton.next_power_of_2(taps), "PIXELS": pixels, "CHANNELS": channels, "num_warps": 1}


def _float(values: Tensor, logits: Tensor) -> torch.dtype:
    return torch.float64 if torch.float64 in (values.dtype, logits.dtype) else torch.float32


def _launch(kernel, tensors: tuple[Tensor, ...], values: Tensor, logits: Tensor, K: int, S: int, P: int) -> None:
    B, H, W, C = values.shape
    _, h, w, heads, _, _ = logits.shape
    whole = kernel is logits_gradient_kernel  # its pixels are all that windows reach, the others' those of the map
    height, width = (S * (h - 1) + K, S * (w - 1) + K) if whole else (H, W)
    rows, cols, d = triton.cdiv(height, S), triton.cdiv(width, S), C // heads
    sides = blocks(K, d, rows * cols)
    programs = B * heads * S * S * triton.cdiv(rows * cols, sides["PIXELS"])
    grid = (programs, 1 if whole else triton.cdiv(d, sides["CHANNELS"]))
    sides["FLOAT"] = tl.float64 if _float(values, logits) == torch.float64 else tl.float32
    sides["INDEX"] = tl.int32 if max(values[:1].numel(), logits[:1].numel()) < 2**31 else tl.int64
    with torch.cuda.device(values.device) if values.is_cuda else nullcontext():
        kernel[grid](*tensors, H, W, h, w, heads, rows, cols, d=d, K=K, S=S, P=P, **sides)
