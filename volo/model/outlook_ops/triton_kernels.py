"""The GPU kernels in Triton: softmax and aggregation of outlook attention, forward and backward, as gathers.

Source: arXiv 2106.13112, sec. 3.1. Every row of logits belongs to one pixel, the one at the row's place p in its
window, and place q of the window is a way of q - p from there. So the rows of a pixel are added up first, to one
weight for each way (25 of them where K = 3 and S = 1, from 81 probabilities), and only the weights touch channels:

    out[y]        = sum over ways of weight[y, way] * values[y + way]
    dvalues[z]    = sum over ways of weight[z - way, way] * grad[z - way]
    dlogits[p, q] = of softmax, for the products grad[y] . values[y + q - p], 25 of them

A program, one warp, owns PAIRS neighbours in memory, pairs of a pixel and a head, and writes each once: no copy per
window, no atomics, the same bits every time. A pair's numbers are in one lane, its channels in tiles (PAIRS, CHANNELS).
Pixels S apart have the same places in their windows: S * S phases, for each of which the kernels are compiled, with all
shapes as constants and all loops over places and ways written out.

Shapes: H x W map, h x w windows, T = K*K taps, d head size. Along an axis, a pixel has the places FIRST, FIRST + S, ...
BACK of its windows, and there are BACK + K - FIRST ways, from -BACK on.
"""

from contextlib import nullcontext
from itertools import product

import torch
import triton
import triton.language as tl
from torch import Tensor

PAIRS, MAX_CHANNELS = 32, 64


@triton.jit
def own_pairs(
    H: tl.constexpr, W: tl.constexpr, heads: tl.constexpr, S: tl.constexpr, Y: tl.constexpr, X: tl.constexpr,
    PAIRS: tl.constexpr, INDEX: tl.constexpr,
):  # fmt: skip
    """This program's image and pairs: head, row and column of each, its place on the map, and whether there is one."""
    rows: tl.constexpr = (H - Y + S - 1) // S
    cols: tl.constexpr = (W - X + S - 1) // S
    blocks: tl.constexpr = (rows * cols * heads + PAIRS - 1) // PAIRS
    number = tl.program_id(0) % blocks * PAIRS + tl.arange(0, PAIRS)
    head, pixel = number % heads, number // heads
    y, x = Y + pixel // cols * S, X + pixel % cols * S
    place = (y * W + x).to(INDEX) * heads + head
    return (tl.program_id(0) // blocks).to(tl.int64), head, y, x, place, number < rows * cols * heads


@triton.jit
def on_map(start, size: tl.constexpr, back: tl.constexpr, num: tl.constexpr):
    """For each way on an axis, whether it ends on the map."""
    found = ()
    for way in tl.static_range(num):
        found = found + ((start + (way - back) >= 0) & (start + (way - back) < size),)
    return found


@triton.jit
def load_tile(pointers, mask, channel, d: tl.constexpr, FLOAT: tl.constexpr):
    """(PAIRS, CHANNELS), zero where the mask (PAIRS) is not set."""
    return tl.load(pointers, mask=mask[:, None] & (channel < d)[None, :], other=0).to(FLOAT)


@triton.jit
def row_of(
    pointers, i, j, owned, p_y: tl.constexpr, p_x: tl.constexpr, FIRST_Y: tl.constexpr, FIRST_X: tl.constexpr,
    h: tl.constexpr, w: tl.constexpr, heads: tl.constexpr, K: tl.constexpr, S: tl.constexpr,
):  # fmt: skip
    """Where each pair's row of place (p_y, p_x) begins, and whether there is one. Pointers are to the first row of the
    window (i, j), in which the pair has the first place that it can."""
    a: tl.constexpr = (p_y - FIRST_Y) // S  # windows back
    b: tl.constexpr = (p_x - FIRST_X) // S
    exists = owned & (i >= a) & (i < h + a) & (j >= b) & (j < w + b)
    return pointers + (p_y * K + p_x - (a * w + b) * heads * K * K) * K * K, exists


@triton.jit
def softmax(row, exists, T: tl.constexpr, FLOAT: tl.constexpr):
    """Of a row for each pair: T vectors of probabilities, zero where the row does not exist."""
    numbers, powers, probabilities = (), (), ()
    for q in tl.static_range(T):
        numbers = numbers + (tl.load(row + q, mask=exists, other=0).to(FLOAT),)
    top = numbers[0]
    for q in tl.static_range(1, T):
        top = tl.maximum(top, numbers[q])
    total = tl.zeros(top.shape, FLOAT)
    for q in tl.static_range(T):
        powers = powers + (tl.exp(numbers[q] - top),)
        total += powers[q]
    scale = tl.where(exists, 1 / total, 0)
    for q in tl.static_range(T):
        probabilities = probabilities + (powers[q] * scale,)
    return probabilities


@triton.jit
def no_weights(like, num: tl.constexpr, FLOAT: tl.constexpr):
    weights = ()
    for _ in tl.static_range(num):
        weights = weights + (tl.zeros(like.shape, FLOAT),)
    return weights


@triton.jit
def with_row(
    weights, row, top: tl.constexpr, left: tl.constexpr, ways_y: tl.constexpr, ways_x: tl.constexpr, K: tl.constexpr
):
    """The weights with a row added; its first tap is the way (top, left)."""
    added = ()
    for way in tl.static_range(ways_y * ways_x):
        if top <= way // ways_x and way // ways_x < top + K and left <= way % ways_x and way % ways_x < left + K:
            added = added + (weights[way] + row[(way // ways_x - top) * K + way % ways_x - left],)
        else:
            added = added + (weights[way],)
    return added


@triton.jit
def weighted_sum(
    pointers, weights, rows_there, cols_there, owned, channel,
    BACK_Y: tl.constexpr, BACK_X: tl.constexpr, ways_y: tl.constexpr, ways_x: tl.constexpr,
    W: tl.constexpr, heads: tl.constexpr, d: tl.constexpr, FLOAT: tl.constexpr,
):  # fmt: skip
    """The sum over all ways of a weight times what lies there. (PAIRS, CHANNELS)"""
    total = tl.zeros(pointers.shape, FLOAT)
    for way in tl.static_range(ways_y * ways_x):
        mask = owned & rows_there[way // ways_x] & cols_there[way % ways_x]
        way_pointers = pointers + ((way // ways_x - BACK_Y) * W + way % ways_x - BACK_X) * heads * d
        total += weights[way][:, None] * load_tile(way_pointers, mask, channel, d, FLOAT)
    return total


@triton.jit
def side_by_side(vectors, num: tl.constexpr, NUMBERS: tl.constexpr):
    """`num` vectors (PAIRS) as the first columns of a tile (PAIRS, NUMBERS), a power of two; the others are zero."""
    columns = vectors
    for _ in tl.static_range(num, NUMBERS):
        columns = columns + (tl.zeros(vectors[0].shape, vectors[0].dtype),)
    for level in tl.static_range(6):
        if NUMBERS >> level > 1:
            columns = joined(columns, NUMBERS >> level + 1)
    return tl.reshape(columns[0], (vectors[0].shape[0], NUMBERS))


@triton.jit
def joined(columns, half: tl.constexpr):
    pairs = ()
    for column in tl.static_range(half):
        pairs = pairs + (tl.join(columns[column], columns[column + half]),)
    return pairs


@triton.jit
def weight_back(
    planes, mask, dy: tl.constexpr, dx: tl.constexpr, FIRST_Y: tl.constexpr, FIRST_X: tl.constexpr,
    H: tl.constexpr, W: tl.constexpr, heads: tl.constexpr, K: tl.constexpr, S: tl.constexpr, FLOAT: tl.constexpr,
):  # fmt: skip
    """Of the way back from the pixel (dy, dx) away, for each pair. Ways are counted from that pixel's own BACK."""
    SIDE: tl.constexpr = K + (K - 1) // S * S
    first_y: tl.constexpr = (FIRST_Y + dy) % S
    first_x: tl.constexpr = (FIRST_X + dx) % S
    way_y: tl.constexpr = first_y + (K - 1 - first_y) // S * S - dy
    way_x: tl.constexpr = first_x + (K - 1 - first_x) // S * S - dx
    start: tl.constexpr = ((way_y * SIDE + way_x) * H * W + dy * W + dx) * heads
    return tl.load(planes + start, mask=mask, other=0).to(FLOAT)


@triton.jit
def forward_kernel(
    values, logits, out,
    H: tl.constexpr, W: tl.constexpr, h: tl.constexpr, w: tl.constexpr, heads: tl.constexpr, d: tl.constexpr,
    K: tl.constexpr, S: tl.constexpr, P: tl.constexpr, Y: tl.constexpr, X: tl.constexpr,
    FIRST_Y: tl.constexpr, FIRST_X: tl.constexpr, BACK_Y: tl.constexpr, BACK_X: tl.constexpr,
    PAIRS: tl.constexpr, TAPS: tl.constexpr, CHANNELS: tl.constexpr, FLOAT: tl.constexpr, INDEX: tl.constexpr,
):  # fmt: skip
    """The pairs' outputs, of a block of channels."""
    T: tl.constexpr = K * K
    WAYS_Y: tl.constexpr = BACK_Y + K - FIRST_Y
    WAYS_X: tl.constexpr = BACK_X + K - FIRST_X
    image, head, y, x, place, owned = own_pairs(H, W, heads, S, Y, X, PAIRS, INDEX)
    i, j = (y + P - FIRST_Y) // S, (x + P - FIRST_X) // S  # the window where the pixel's place is the first it can have
    logits += image * h * w * heads * T * T + ((i * w + j).to(INDEX) * heads + head) * T * T
    weights = no_weights(y, WAYS_Y * WAYS_X, FLOAT)
    for p_y in tl.static_range(FIRST_Y, BACK_Y + 1, S):
        for p_x in tl.static_range(FIRST_X, BACK_X + 1, S):
            pointers, exists = row_of(logits, i, j, owned, p_y, p_x, FIRST_Y, FIRST_X, h, w, heads, K, S)
            row = softmax(pointers, exists, T, FLOAT)
            weights = with_row(weights, row, BACK_Y - p_y, BACK_X - p_x, WAYS_Y, WAYS_X, K)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    offset = image * H * W * heads * d + ((place * d)[:, None] + channel[None, :])
    rows_there, cols_there = on_map(y, H, BACK_Y, WAYS_Y), on_map(x, W, BACK_X, WAYS_X)
    mixed = weighted_sum(
        values + offset, weights, rows_there, cols_there, owned, channel,
        BACK_Y, BACK_X, WAYS_Y, WAYS_X, W, heads, d, FLOAT,
    )  # fmt: skip
    tl.store(out + offset, mixed, mask=owned[:, None] & (channel < d)[None, :])


@triton.jit
def logits_gradient_kernel(
    grad, values, logits, dlogits, planes,
    H: tl.constexpr, W: tl.constexpr, h: tl.constexpr, w: tl.constexpr, heads: tl.constexpr, d: tl.constexpr,
    K: tl.constexpr, S: tl.constexpr, P: tl.constexpr, Y: tl.constexpr, X: tl.constexpr,
    FIRST_Y: tl.constexpr, FIRST_X: tl.constexpr, BACK_Y: tl.constexpr, BACK_X: tl.constexpr,
    PAIRS: tl.constexpr, TAPS: tl.constexpr, CHANNELS: tl.constexpr, FLOAT: tl.constexpr, INDEX: tl.constexpr,
):  # fmt: skip
    """dlogits of the pairs' rows, and their weights as planes (B, SIDE * SIDE, H, W, heads), a plane for each way; a
    phase may have fewer than SIDE on an axis."""
    T: tl.constexpr = K * K
    WAYS_Y: tl.constexpr = BACK_Y + K - FIRST_Y
    WAYS_X: tl.constexpr = BACK_X + K - FIRST_X
    image, head, y, x, place, owned = own_pairs(H, W, heads, S, Y, X, PAIRS, INDEX)

    offset = image * H * W * heads * d + (place * d)[:, None]
    rows_there, cols_there = on_map(y, H, BACK_Y, WAYS_Y), on_map(x, W, BACK_X, WAYS_X)
    products = no_weights(y, WAYS_Y * WAYS_X, FLOAT)
    for start in tl.static_range(0, d, CHANNELS):
        channel = start + tl.arange(0, CHANNELS)
        own = load_tile(grad + offset + channel[None, :], owned, channel, d, FLOAT)
        pointers = values + offset + channel[None, :]
        added = ()
        for way in tl.static_range(WAYS_Y * WAYS_X):
            mask = owned & rows_there[way // WAYS_X] & cols_there[way % WAYS_X]
            way_pointers = pointers + ((way // WAYS_X - BACK_Y) * W + way % WAYS_X - BACK_X) * heads * d
            tile = load_tile(way_pointers, mask, channel, d, FLOAT)
            added = added + (products[way] + tl.sum(own * tile, axis=1),)
        products = added

    i, j = (y + P - FIRST_Y) // S, (x + P - FIRST_X) // S
    offset = image * h * w * heads * T * T + ((i * w + j).to(INDEX) * heads + head) * T * T
    logits += offset
    dlogits += offset
    tap = tl.arange(0, TAPS)
    weights = no_weights(y, WAYS_Y * WAYS_X, FLOAT)
    for p_y in tl.static_range(FIRST_Y, BACK_Y + 1, S):
        for p_x in tl.static_range(FIRST_X, BACK_X + 1, S):
            pointers, exists = row_of(logits, i, j, owned, p_y, p_x, FIRST_Y, FIRST_X, h, w, heads, K, S)
            row = softmax(pointers, exists, T, FLOAT)
            weights = with_row(weights, row, BACK_Y - p_y, BACK_X - p_x, WAYS_Y, WAYS_X, K)
            mean = tl.zeros(y.shape, FLOAT)
            for q in tl.static_range(T):
                mean += row[q] * products[(BACK_Y - p_y + q // K) * WAYS_X + BACK_X - p_x + q % K]
            gradients = ()
            for q in tl.static_range(T):
                product = products[(BACK_Y - p_y + q // K) * WAYS_X + BACK_X - p_x + q % K]
                gradients = gradients + (row[q] * (product - mean),)
            pointers, exists = row_of(dlogits, i, j, owned, p_y, p_x, FIRST_Y, FIRST_X, h, w, heads, K, S)
            tile = side_by_side(gradients, T, TAPS)
            tl.store(pointers[:, None] + tap[None, :], tile, mask=exists[:, None] & (tap < T)[None, :])

    SIDE: tl.constexpr = K + (K - 1) // S * S
    planes += image * SIDE * SIDE * H * W * heads + place
    for way in tl.static_range(WAYS_Y * WAYS_X):
        tl.store(planes + (way // WAYS_X * SIDE + way % WAYS_X) * H * W * heads, weights[way], mask=owned)


@triton.jit
def values_gradient_kernel(
    grad, planes, dvalues,
    H: tl.constexpr, W: tl.constexpr, h: tl.constexpr, w: tl.constexpr, heads: tl.constexpr, d: tl.constexpr,
    K: tl.constexpr, S: tl.constexpr, P: tl.constexpr, Y: tl.constexpr, X: tl.constexpr,
    FIRST_Y: tl.constexpr, FIRST_X: tl.constexpr, BACK_Y: tl.constexpr, BACK_X: tl.constexpr,
    PAIRS: tl.constexpr, TAPS: tl.constexpr, CHANNELS: tl.constexpr, FLOAT: tl.constexpr, INDEX: tl.constexpr,
):  # fmt: skip
    """dvalues of the pairs, of a block of channels: from all pixels which the pair is on a way of."""
    WAYS_Y: tl.constexpr = BACK_Y + K - FIRST_Y
    WAYS_X: tl.constexpr = BACK_X + K - FIRST_X
    SIDE: tl.constexpr = K + (K - 1) // S * S
    image, _, y, x, place, owned = own_pairs(H, W, heads, S, Y, X, PAIRS, INDEX)
    rows_there, cols_there = on_map(y, H, BACK_Y, WAYS_Y), on_map(x, W, BACK_X, WAYS_X)
    planes += image * SIDE * SIDE * H * W * heads + place
    weights = ()
    for way in tl.static_range(WAYS_Y * WAYS_X):
        mask = owned & rows_there[way // WAYS_X] & cols_there[way % WAYS_X]
        weight = weight_back(
            planes, mask, way // WAYS_X - BACK_Y, way % WAYS_X - BACK_X, FIRST_Y, FIRST_X, H, W, heads, K, S, FLOAT
        )
        weights = weights + (weight,)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    offset = image * H * W * heads * d + ((place * d)[:, None] + channel[None, :])
    gathered = weighted_sum(
        grad + offset, weights, rows_there, cols_there, owned, channel,
        BACK_Y, BACK_X, WAYS_Y, WAYS_X, W, heads, d, FLOAT,
    )  # fmt: skip
    tl.store(dvalues + offset, gathered, mask=owned[:, None] & (channel < d)[None, :])


def forward(values: Tensor, logits: Tensor, kernel_size: int, stride: int, padding: int) -> Tensor:
    """Of contiguous tensors: out, in the values' dtype."""
    out = torch.empty_like(values)
    _launch(forward_kernel, (values, logits, out), values, logits, kernel_size, stride, padding)
    return out


def backward(
    grad: Tensor, values: Tensor, logits: Tensor, kernel_size: int, stride: int, padding: int
) -> tuple[Tensor, Tensor]:
    """Of contiguous tensors: dvalues and dlogits. Besides them, the pixels' weights are kept for a moment."""
    window = values, logits, kernel_size, stride, padding
    dvalues, dlogits = torch.empty_like(values), torch.empty_like(logits)
    planes = _planes(values, logits, kernel_size, stride)
    _clear_rows_off_the_map(dlogits, values.shape[1:3], kernel_size, stride, padding)
    _launch(logits_gradient_kernel, (grad, values, logits, dlogits, planes), *window)
    _launch(values_gradient_kernel, (grad, planes, dvalues), *window)
    return dvalues, dlogits


def _planes(values: Tensor, logits: Tensor, K: int, S: int) -> Tensor:
    """Room for the weights of all pairs. They lie between 0 and T, where float16 is finer than bfloat16 is."""
    B, H, W, _ = values.shape
    side = (K - 1) // S * S + K
    is_half = max(values.dtype.itemsize, logits.dtype.itemsize) == 2
    dtype = torch.float16 if is_half else _float(values, logits)
    return torch.empty(B, side * side, H, W, logits.shape[3], dtype=dtype, device=values.device)


def _clear_rows_off_the_map(dlogits: Tensor, map_size: tuple[int, int], K: int, S: int, P: int) -> None:
    """Rows whose place is in the padding belong to no pixel, and their gradient is zero."""
    by_place = dlogits.unflatten(-2, (K, K))  # (B, h, w, heads, K, K, T)
    for axis, size in enumerate(map_size):
        windows = by_place.movedim((1 + axis, 4 + axis), (0, 1))  # and places on this axis
        for p in range(K):
            first, last = (max(0, triton.cdiv(edge + P - p, S)) for edge in (0, size))  # that have place p on the map
            windows[:first, p].zero_()
            windows[last:, p].zero_()


def _float(values: Tensor, logits: Tensor) -> torch.dtype:
    return torch.float64 if torch.float64 in (values.dtype, logits.dtype) else torch.float32


def constants(
    H: int, W: int, h: int, w: int, heads: int, d: int, K: int, S: int, P: int, Y: int = 0, X: int = 0
) -> dict[str, int]:
    """What the kernels of the phase with pixel (Y, X) are compiled for, but for the types."""
    places = {}
    for axis, start in (("Y", Y), ("X", X)):
        first = (start + P) % S
        places |= {axis: start, f"FIRST_{axis}": first, f"BACK_{axis}": first + (K - 1 - first) // S * S}
    tiles = dict(PAIRS=PAIRS, TAPS=triton.next_power_of_2(K * K), CHANNELS=min(MAX_CHANNELS, triton.next_power_of_2(d)))
    return dict(H=H, W=W, h=h, w=w, heads=heads, d=d, K=K, S=S, P=P) | tiles | places


def _launch(kernel, tensors: tuple[Tensor, ...], values: Tensor, logits: Tensor, K: int, S: int, P: int) -> None:
    B, H, W, C = values.shape
    _, h, w, heads, _, _ = logits.shape
    types = dict(
        FLOAT=tl.float64 if _float(values, logits) == torch.float64 else tl.float32,
        INDEX=tl.int32 if max(values[:1].numel(), logits[:1].numel()) < 2**31 else tl.int64,
    )
    with torch.cuda.device(values.device) if values.is_cuda else nullcontext():
        for Y, X in product(range(min(S, H)), range(min(S, W))):
            found = constants(H, W, h, w, heads, C // heads, K, S, P, Y, X)
            pairs = triton.cdiv(H - Y, S) * triton.cdiv(W - X, S) * heads
            channel_blocks = 1 if kernel is logits_gradient_kernel else triton.cdiv(C // heads, found["CHANNELS"])
            kernel[(B * triton.cdiv(pairs, PAIRS), channel_blocks)](*tensors, **found, **types, num_warps=1)
