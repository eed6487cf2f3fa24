"""The CPU kernels in Numba: softmax and aggregation of one image (or some heads of it) at a time, forward and backward.

Imported by `cpu` on first use, because importing Numba takes a quarter of a second, and compiling takes longer.

    tap       a position in a window, numbered 0 to T - 1 with T = K*K; p for outputs, q for values
    row       the T logits of one tap p of one window and head: how the output at p weighs the values at taps q
    taps[q]   window offset of tap q in a padded map: numbers from the window's first tap to tap q
    origin    index of a window's first tap in a padded map, for one head
    task      an image, or `splits` tasks per image with n heads each

    H x W map, h x w windows, K kernel size, S stride, P padding, d channels per head, D: d rounded up to whole vectors

Maps are copied once into zero-padded maps (Hp, Wp, n, D), so that no window has an edge case. What is computed for one
window is in `cpu_windows`.
"""

import logging
import zlib
from functools import cache
from pathlib import Path

import numpy as np
from numba import carray, cfunc, from_dtype, types

from volo.model.outlook_ops import cpu_vectors, cpu_windows
from volo.model.outlook_ops.cpu_vectors import LANES, as_pointer, load, load_repeated, mul, store, take_task
from volo.model.outlook_ops.cpu_windows import (
    compiled,
    copy,
    exponentials,
    inlined,
    mix,
    mix_transposed,
    products,
    row_weights,
    softmax_gradient,
)

logger = logging.getLogger("volo")

# Numba compiles again if this file or the signature changes, but not if an imported file does: hence the last argument.
_IMPORTED = b"".join(Path(module.__file__).read_bytes() for module in (cpu_vectors, cpu_windows))
_SOURCE = f"imported_{zlib.crc32(_IMPORTED):x}"
_ADDRESSES = ("values", "logits", "out", "grad", "dvalues", "dlogits")
_NUMBERS = ("half_values", "half_logits", "B", "H", "W", "h", "w", "heads", "d", "K", "S", "P")
ARGUMENTS = np.dtype([(name, np.int64) for name in ("task", "tasks", "splits", *_ADDRESSES, *_NUMBERS, _SOURCE)])


@compiled
def view(address, count):
    """The numbers at an address as float32, and as uint16 (bfloat16)."""
    pointer = as_pointer(address)
    return carray(pointer, count, np.float32), carray(pointer, count, np.uint16)


@compiled
def fill_map(half, address, start, geometry, padded):
    """Copies a task's heads of an image, (H, W, heads, d) from index `start`, into a map of zeros (Hp, Wp, n, D)."""
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
    """Copies a padded map back into an image. Pixels that no window covers become zero."""
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
def tap_offsets(K, Wp, pixel):
    """The window offset of each tap; a pixel of the padded map has `pixel` numbers."""
    taps = np.empty(K * K, np.int64)
    for t in range(K * K):
        taps[t] = ((t // K) * Wp + t % K) * pixel
    return taps


@inlined
def layout(a, K):
    """The sizes of a task's maps, with and without padding."""
    n, D = a.heads // a.splits, -(-a.d // LANES) * LANES
    return a.H, a.W, a.heads, a.d, n, D, (a.h - 1) * a.S + K, (a.w - 1) * a.S + K, a.P


@inlined
def forward_tasks(pointer, K):
    """The forward pass: takes one task after another until none is left."""
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
    """The backward pass, likewise. Computes the attention again, which is faster than keeping it."""
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
    """The address of a kernel, a C function of a pointer to ARGUMENTS; compiles it or loads it from the cache."""
    return _kernel(globals()[name]).address


@cache
def _kernel(function):
    try:
        return cfunc(SIGNATURE, cache=True)(function)
    except (RuntimeError, OSError) as error:  # no writable folder, or a full disk
        logger.warning(
            "the CPU kernel %s cannot be cached, so every process compiles it (%s); set NUMBA_CACHE_DIR to a folder "
            "that can be written",
            function.__name__,
            error,
        )
        return cfunc(SIGNATURE)(function)
