"""What the CPU kernels compute for one window and head: exponentials, softmax, products, and their gradients.

The legend is that of `cpu_kernels`. In addition:

    e         exp of the logits of all n heads of a window, (n, T, T) flat; a head's begin at index `at`
    inverse   1 / the sum of each row of e, (T,), so that inverse[p] * e[p, q] is the softmax
    rows      inverse[p] * gradient of the output at tap p, (T, D)
    dots      rows[p] . values at tap q, (T, T)
"""

import math

from numba import float32, njit

from volo.model.outlook_ops.cpu_vectors import (
    LANES,
    all_below,
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
)

SMALL = 32.0  # exp of logits below this, summed and multiplied with values, stays far inside float32

compiled = njit(error_model="numpy")  # a division by zero gives infinity or NaN
inlined = njit(error_model="numpy", forceinline=True)  # so that K = 3 becomes a constant


@compiled
def copy(source, i, target, j, count):
    """target[j : j + count] = source[i : i + count]."""
    whole = count - count % LANES
    for c in range(0, whole, LANES):
        store(target, j + c, load(source, i + c))
    for c in range(whole, count):
        store_one(target, j + c, load_one(source, i + c))


@compiled
def exponentials(logits, start, rows, T, e):
    """e[: rows * T] = exp of the logits from `start`; if some logit is not small, each row minus its maximum."""
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
        x = load(logits, start + count - LANES)  # the rest, some of it a second time
        top = largest(top, x)
        store(e, count - LANES, exp(x))
    if not all_below(top, float32(SMALL)):
        copy(logits, start, e, 0, count)
        shifted_exponentials(e, rows, T)


@compiled
def shifted_exponentials(e, rows, T):
    """The slow and safe form, in place: takes logits of any size and propagates NaN."""
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
    """out[p, q] = rows[p] . values at tap q. Four at a time, then one: T is 4 m + 1, as K is odd."""
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
        for q in range(p * T, p * T + T, LANES):  # the next row overwrites what this one writes beyond its end
            store(target, at + q, mul(load(e, at + q), fma(splat(float32(1)), load(dots, q), mean)))
