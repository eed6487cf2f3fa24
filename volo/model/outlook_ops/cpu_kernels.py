"""The CPU kernels in Numba: softmax and aggregation of one image (or some heads of it) at a time, forward and backward.

Imported by `cpu` on its first use, because importing Numba takes a quarter of a second, and compiling some more.

Shapes: H x W map, h x w windows, n heads of this task, d head size (D: rounded up to whole vectors), T = K*K taps.
Maps are copied once into zero-padded (Hp, Wp, n, D), so that no window has an edge case.
"""

import logging
import math
import zlib
from functools import cache
from pathlib import Path

import numpy as np
from numba import carray, cfunc, float32, from_dtype, njit, types

from volo.model.outlook_ops import cpu_vectors
from volo.model.outlook_ops.cpu_vectors import (
    LANES,
    all_below,
    as_pointer,
    exp,
    first_lanes,
    fma,
    lane_sum,
    largest,
    load,
    load_one,
    load_repeated,
    mul,
    splat,
    store,
    store_one,
    store_sums,
    take_task,
)

logger = logging.getLogger("volo")

SMALL = 32.0  # exp of logits below this, summed and multiplied with values, stays far inside float32
# Numba renews its cache when this file changes, or the signature, but not when an imported file does: hence the last.
_SOURCE = f"vectors_{zlib.crc32(Path(cpu_vectors.__file__).read_bytes()):x}"
_ADDRESSES = ("values", "logits", "out", "grad", "dvalues", "dlogits")
_NUMBERS = ("half_values", "half_logits", "B", "H", "W", "h", "w", "heads", "d", "K", "S", "P")
ARGUMENTS = np.dtype([(name, np.int64) for name in ("task", "tasks", "splits", *_ADDRESSES, *_NUMBERS, _SOURCE)])

compiled = njit(error_model="numpy")  # a division by zero gives infinity or NaN
inlined = njit(error_model="numpy", forceinline=True)  # so that K = 3 becomes a constant


@compiled
def view(address, count):
    """The numbers at an address as float32, and as uint16 (bfloat16)."""
    pointer = as_pointer(address)
    return carray(pointer, count, np.float32), carray(pointer, count, np.uint16)


@compiled
def copy(source, i, target, j, count):
    """target[j : j + count] = source[i : i + count]."""
    whole = count - count % LANES
    for c in range(0, whole, LANES):
        store(target, j + c, load(source, i + c))
    for c in range(whole, count):
        store_one(target, j + c, load_one(source, i + c))


@compiled
def fill_map(half, address, start, geometry, padded):
    """A task's heads of an image, (H, W, heads, d) from number `start`, into a map of zeros (Hp, Wp, n, D)."""
    H, W, heads, d, n, D, Hp, Wp, P = geometry
    full32, full16 = view(address, start + H * W * heads * d)
    parts, length = (1, n * d) if d == D else (n, d)
    for y in range(min(H, Hp - P)):
        for x in range(min(W, Wp - P)):
            i, j = start + (y * W + x) * heads * d, ((y + P) * Wp + x + P) * n * D
            for part in range(parts):
                if half:
                    copy(full16, i + part * d, padded, j + part * D, length)
                else:
                    copy(full32, i + part * d, padded, j + part * D, length)


@compiled
def empty_map(half, address, start, geometry, padded):
    """The way back. Pixels that no window reaches become zero."""
    H, W, heads, d, n, D, Hp, Wp, P = geometry
    full32, full16 = view(address, start + H * W * heads * d)
    parts, length = (1, n * d) if d == D else (n, d)
    zeros = np.zeros(n * D, np.float32)
    for y in range(H):
        for x in range(W):
            i, j = start + (y * W + x) * heads * d, ((y + P) * Wp + x + P) * n * D
            source, j = (padded, j) if y + P < Hp and x + P < Wp else (zeros, 0)
            for part in range(parts):
                if half:
                    copy(source, j + part * D, full16, i + part * d, length)
                else:
                    copy(source, j + part * D, full32, i + part * d, length)


@compiled
def exponentials(logits, start, rows, T, e):
    """e[: rows * T] = exp of the logits from `start`, rows shifted by their maximum where some logit is not small."""
    count = rows * T
    top = splat(float32(0))
    if count < LANES:
        copy(logits, start, e, 0, count)
        e[count:LANES] = 0
        x = load(e, 0)
        top = largest(top, x)
        store(e, 0, exp(x))
    else:
        for i in range(0, count - LANES + 1, LANES):
            x = load(logits, start + i)
            top = largest(top, x)
            store(e, i, exp(x))
        x = load(logits, start + count - LANES)  # the rest, and some for the second time
        top = largest(top, x)
        store(e, count - LANES, exp(x))
    if not all_below(top, float32(SMALL)):
        copy(logits, start, e, 0, count)
        shifted_exponentials(e, rows, T)


@compiled
def shifted_exponentials(e, rows, T):
    """The slow and safe form, in place: takes logits of any size, and passes on NaN."""
    for row in range(0, rows * T, T):
        top = e[row]
        for q in range(row, row + T):
            if e[q] > top:
                top = e[q]
        for q in range(row, row + T):
            e[q] = math.exp(e[q] - top)


@inlined
def row_weights(e, at, T, inverse):
    """inverse[p] = 1 / the sum of row p."""
    for p in range(T):
        total = load_one(e, at + p * T)
        for q in range(1, T):
            total += load_one(e, at + p * T + q)
        store_one(inverse, p, float32(1) / total)


@inlined
def mix(e, at, inverse, values, target, origin, taps, D, T):
    """target at tap p += inverse[p] * sum over q of e[p, q] * values at tap q. Three rows share a load of values."""
    for c in range(origin, origin + D, LANES):
        for p in range(0, T - 2, 3):
            row = at + p * T
            v = load(values, c + taps[0])
            s0, s1 = mul(load_repeated(e, row), v), mul(load_repeated(e, row + T), v)
            s2 = mul(load_repeated(e, row + 2 * T), v)
            for q in range(1, T):
                v = load(values, c + taps[q])
                s0 = fma(load_repeated(e, row + q), v, s0)
                s1 = fma(load_repeated(e, row + T + q), v, s1)
                s2 = fma(load_repeated(e, row + 2 * T + q), v, s2)
            store(target, c + taps[p], fma(load_repeated(inverse, p), s0, load(target, c + taps[p])))
            store(target, c + taps[p + 1], fma(load_repeated(inverse, p + 1), s1, load(target, c + taps[p + 1])))
            store(target, c + taps[p + 2], fma(load_repeated(inverse, p + 2), s2, load(target, c + taps[p + 2])))
        for p in range(T - T % 3, T):
            s0 = mul(load_repeated(e, at + p * T), load(values, c + taps[0]))
            for q in range(1, T):
                s0 = fma(load_repeated(e, at + p * T + q), load(values, c + taps[q]), s0)
            store(target, c + taps[p], fma(load_repeated(inverse, p), s0, load(target, c + taps[p])))


@inlined
def mix_transposed(e, at, rows, target, origin, taps, D, T):
    """target at tap q += sum over p of e[p, q] * rows[p]."""
    for c in range(0, D, LANES):
        to = origin + c
        for q in range(0, T - 2, 3):
            s0, s1, s2 = load(target, to + taps[q]), load(target, to + taps[q + 1]), load(target, to + taps[q + 2])
            for p in range(T):
                entry, r = at + p * T + q, load(rows, p * D + c)
                s0 = fma(load_repeated(e, entry), r, s0)
                s1 = fma(load_repeated(e, entry + 1), r, s1)
                s2 = fma(load_repeated(e, entry + 2), r, s2)
            store(target, to + taps[q], s0)
            store(target, to + taps[q + 1], s1)
            store(target, to + taps[q + 2], s2)
        for q in range(T - T % 3, T):
            s0 = load(target, to + taps[q])
            for p in range(T):
                s0 = fma(load_repeated(e, at + p * T + q), load(rows, p * D + c), s0)
            store(target, to + taps[q], s0)


@inlined
def products(rows, values, origin, taps, D, T, out):
    """out[p, q] = rows[p] . values at tap q. Four at a time and one: T, the square of an odd number, is 4 m + 1."""
    for p in range(T):
        for q in range(0, T - 1, 4):
            v0, v1, v2, v3 = origin + taps[q], origin + taps[q + 1], origin + taps[q + 2], origin + taps[q + 3]
            r = load(rows, p * D)
            s0, s1 = mul(r, load(values, v0)), mul(r, load(values, v1))
            s2, s3 = mul(r, load(values, v2)), mul(r, load(values, v3))
            for c in range(LANES, D, LANES):
                r = load(rows, p * D + c)
                s0, s1 = fma(r, load(values, v0 + c), s0), fma(r, load(values, v1 + c), s1)
                s2, s3 = fma(r, load(values, v2 + c), s2), fma(r, load(values, v3 + c), s3)
            store_sums(out, p * T + q, s0, s1, s2, s3)
        v0 = origin + taps[T - 1]
        s0 = mul(load(rows, p * D), load(values, v0))
        for c in range(LANES, D, LANES):
            s0 = fma(load(rows, p * D + c), load(values, v0 + c), s0)
        store_one(out, p * T + T - 1, lane_sum(s0))


@inlined
def softmax_gradient(e, at, inverse, dots, T, target):
    """target[p, q] = e[p, q] * (dots[p, q] - mean of dots[p] under e[p]). The dots contain inverse[p] already."""
    for p in range(T):
        total = splat(float32(0))
        for q in range(0, T, LANES):
            total = fma(first_lanes(load(e, at + p * T + q), T - q), first_lanes(load(dots, p * T + q), T - q), total)
        mean = splat(-lane_sum(total) * load_one(inverse, p))
        for q in range(p * T, p * T + T, LANES):  # the next row mends what this one writes too much
            store(target, at + q, mul(load(e, at + q), fma(splat(float32(1)), load(dots, q), mean)))


@compiled
def tap_offsets(K, Wp, pixel):
    """Where the taps of a window lie in a padded map, counted from its first."""
    taps = np.empty(K * K, np.int64)
    for t in range(K * K):
        taps[t] = ((t // K) * Wp + t % K) * pixel
    return taps


@inlined
def layout(a, K):
    """The sizes of a task's maps, padded and not."""
    n, D = a.heads // a.splits, -(-a.d // LANES) * LANES
    return a.H, a.W, a.heads, a.d, n, D, (a.h - 1) * a.S + K, (a.w - 1) * a.S + K, a.P


@inlined
def forward_tasks(pointer, K):
    """Images, or parts of their heads, until none is left."""
    a = carray(pointer, 1)[0]
    h, w, splits, S, half_values, half_logits = a.h, a.w, a.splits, a.S, a.half_values, a.half_logits
    geometry = layout(a, K)
    H, W, heads, d, n, D, Hp, Wp, _ = geometry
    T = K * K
    logits, logits16 = view(a.logits, a.B * h * w * heads * T * T)
    taps = tap_offsets(K, Wp, n * D)
    values, out = np.zeros(Hp * Wp * n * D, np.float32), np.empty(Hp * Wp * n * D, np.float32)
    e, inverse = np.empty(n * T * T + LANES, np.float32), np.empty(T, np.float32)
    task = take_task(pointer)
    while task < a.tasks:
        b, first = task // splits, task % splits * n
        image = b * H * W * heads * d + first * d
        fill_map(half_values, a.values, image, geometry, values)
        out[:] = 0
        for i in range(h):
            for j in range(w):
                start = (((b * h + i) * w + j) * heads + first) * T * T
                if half_logits:
                    exponentials(logits16, start, n * T, T, e)
                else:
                    exponentials(logits, start, n * T, T, e)
                for head in range(n):
                    at, origin = head * T * T, ((i * S * Wp + j * S) * n + head) * D
                    row_weights(e, at, T, inverse)
                    mix(e, at, inverse, values, out, origin, taps, D, T)
        empty_map(half_values, a.out, image, geometry, out)
        task = take_task(pointer)


@inlined
def backward_tasks(pointer, K):
    """Likewise; the attention is computed again, which is quicker than to have kept it."""
    a = carray(pointer, 1)[0]
    h, w, splits, S, half_values, half_logits = a.h, a.w, a.splits, a.S, a.half_values, a.half_logits
    geometry = layout(a, K)
    H, W, heads, d, n, D, Hp, Wp, _ = geometry
    T = K * K
    count = a.B * h * w * heads * T * T
    (logits, logits16), (dlogits, dlogits16) = view(a.logits, count), view(a.dlogits, count)
    taps = tap_offsets(K, Wp, n * D)
    values, grad = np.zeros(Hp * Wp * n * D, np.float32), np.zeros(Hp * Wp * n * D, np.float32)
    dvalues = np.empty(Hp * Wp * n * D, np.float32)
    e, inverse = np.empty(n * T * T + LANES, np.float32), np.empty(T, np.float32)
    rows, dots = np.empty(T * D, np.float32), np.empty(T * T + LANES, np.float32)
    de = np.empty(n * T * T + LANES, np.float32)
    task = take_task(pointer)
    while task < a.tasks:
        b, first = task // splits, task % splits * n
        image = b * H * W * heads * d + first * d
        fill_map(half_values, a.values, image, geometry, values)
        fill_map(half_values, a.grad, image, geometry, grad)
        dvalues[:] = 0
        for i in range(h):
            for j in range(w):
                start = (((b * h + i) * w + j) * heads + first) * T * T
                if half_logits:
                    exponentials(logits16, start, n * T, T, e)
                else:
                    exponentials(logits, start, n * T, T, e)
                for head in range(n):
                    at, origin = head * T * T, ((i * S * Wp + j * S) * n + head) * D
                    row_weights(e, at, T, inverse)
                    for p in range(T):
                        for c in range(0, D, LANES):
                            store(rows, p * D + c, mul(load_repeated(inverse, p), load(grad, origin + taps[p] + c)))
                    products(rows, values, origin, taps, D, T, dots)
                    mix_transposed(e, at, rows, dvalues, origin, taps, D, T)
                    softmax_gradient(e, at, inverse, dots, T, de)
                if half_logits:
                    copy(de, 0, dlogits16, start, n * T * T)
                else:
                    copy(de, 0, dlogits, start, n * T * T)
        empty_map(half_values, a.dvalues, image, geometry, dvalues)
        task = take_task(pointer)


SIGNATURE = types.void(types.CPointer(from_dtype(ARGUMENTS)))


def forward_3(pointer):
    forward_tasks(pointer, 3)


def backward_3(pointer):
    backward_tasks(pointer, 3)


def forward_any(pointer):
    forward_tasks(pointer, carray(pointer, 1)[0].K)


def backward_any(pointer):
    backward_tasks(pointer, carray(pointer, 1)[0].K)


@cache
def address(name):
    """Where a kernel is, compiled or loaded: a C function of a pointer to ARGUMENTS."""
    return _kernel(globals()[name]).address


@cache
def _kernel(function):
    try:
        return cfunc(SIGNATURE, cache=True)(function)
    except (RuntimeError, OSError) as error:  # no folder to keep it in, or a full disk
        logger.warning("the CPU kernel cannot be cached and will be compiled by every process: %s", error)
        return cfunc(SIGNATURE)(function)
