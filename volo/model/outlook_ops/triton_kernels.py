"""The GPU kernels in Triton: softmax and aggregation of outlook attention, forward and backward, as gathers.

Source: arXiv 2106.13112, section 3.1. Launched by `triton_launch`.

    tap       a position in a window, numbered 0 to T - 1 with T = K*K; p for outputs, q for values
    row       the T logits of one tap p of one window and head: how the output at p weighs the values at taps q
    offset    q - p: from an output pixel to a pixel that it reads, the same for all windows that hold both
    element   one pixel of one head; `position` is its index (y * W + x) * heads + head
    tile      TILE neighboring elements, owned by one program of one warp; with channels (TILE, CHANNELS)
    phase     the pixels S apart along both axes, which have the same taps in their windows; there are S * S

    H x W map, h x w windows, K kernel size, S stride, P padding, d channels per head

Along an axis, a pixel is at taps FIRST, FIRST + S, ... LAST of its windows, so it has LAST + K - FIRST offsets, from
-LAST on. The rows of a pixel are added up first, to one weight per offset (25 where K = 3 and S = 1, from 81
probabilities), and only the weights touch channels:

    out[y]        = sum over offsets of weight[y, offset] * values[y + offset]
    dvalues[z]    = sum over offsets of weight[z - offset, offset] * grad[z - offset]
    dlogits[p, q] = gradient of the softmax, from the products grad[y] . values[y + q - p], one per offset

A program writes each element of its tile once: no copy per window, no atomics, the same bits every time. The numbers of
an element are in one lane. Kernels are compiled per phase, with all shapes as constants and all loops over taps and
offsets unrolled.
"""

import triton
import triton.language as tl


@triton.jit
def own_tile(
    H: tl.constexpr, W: tl.constexpr, heads: tl.constexpr, S: tl.constexpr, Y: tl.constexpr, X: tl.constexpr,
    TILE: tl.constexpr, INDEX: tl.constexpr,
):  # fmt: skip
    """The image of this program; head, y, x, and position of each element of its tile; and whether it is in the map."""
    rows: tl.constexpr = (H - Y + S - 1) // S
    cols: tl.constexpr = (W - X + S - 1) // S
    blocks: tl.constexpr = (rows * cols * heads + TILE - 1) // TILE
    number = tl.program_id(0) % blocks * TILE + tl.arange(0, TILE)
    head, pixel = number % heads, number // heads
    y, x = Y + pixel // cols * S, X + pixel % cols * S
    position = (y * W + x).to(INDEX) * heads + head
    return (tl.program_id(0) // blocks).to(tl.int64), head, y, x, position, number < rows * cols * heads


@triton.jit
def on_map(start, size: tl.constexpr, last: tl.constexpr, num: tl.constexpr):
    """For each offset along an axis, whether the pixel it leads to is in the map."""
    found = ()
    for offset in tl.static_range(num):
        found = found + ((start + (offset - last) >= 0) & (start + (offset - last) < size),)
    return found


@triton.jit
def load_tile(pointers, mask, channel, d: tl.constexpr, FLOAT: tl.constexpr):
    """A tile (TILE, CHANNELS), zero where the mask (TILE) is not set."""
    return tl.load(pointers, mask=mask[:, None] & (channel < d)[None, :], other=0).to(FLOAT)


@triton.jit
def row_at(
    pointers, i, j, owned, p_y: tl.constexpr, p_x: tl.constexpr, FIRST_Y: tl.constexpr, FIRST_X: tl.constexpr,
    h: tl.constexpr, w: tl.constexpr, heads: tl.constexpr, K: tl.constexpr, S: tl.constexpr,
):  # fmt: skip
    """Pointers to the row of logits of tap (p_y, p_x) of each element, and whether that window exists.

    `pointers` are to the first row of window (i, j), the one in which the element has its first tap.
    """
    a: tl.constexpr = (p_y - FIRST_Y) // S  # windows before (i, j)
    b: tl.constexpr = (p_x - FIRST_X) // S
    exists = owned & (i >= a) & (i < h + a) & (j >= b) & (j < w + b)
    return pointers + (p_y * K + p_x - (a * w + b) * heads * K * K) * K * K, exists


@triton.jit
def softmax(row, exists, T: tl.constexpr, FLOAT: tl.constexpr):
    """The softmax of a row for each element: T vectors of probabilities, zero where the row does not exist."""
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
def zero_weights(like, num: tl.constexpr, FLOAT: tl.constexpr):
    weights = ()
    for _ in tl.static_range(num):
        weights = weights + (tl.zeros(like.shape, FLOAT),)
    return weights


@triton.jit
def add_row(
    weights, row, top: tl.constexpr, left: tl.constexpr,
    offsets_y: tl.constexpr, offsets_x: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    """The weights with a row of probabilities added, whose first tap is at offset (top, left)."""
    added = ()
    for offset in tl.static_range(offsets_y * offsets_x):
        if (
            top <= offset // offsets_x
            and offset // offsets_x < top + K
            and left <= offset % offsets_x
            and offset % offsets_x < left + K
        ):
            added = added + (weights[offset] + row[(offset // offsets_x - top) * K + offset % offsets_x - left],)
        else:
            added = added + (weights[offset],)
    return added


@triton.jit
def weighted_sum(
    pointers, weights, rows_there, cols_there, owned, channel,
    LAST_Y: tl.constexpr, LAST_X: tl.constexpr, offsets_y: tl.constexpr, offsets_x: tl.constexpr,
    W: tl.constexpr, heads: tl.constexpr, d: tl.constexpr, FLOAT: tl.constexpr,
):  # fmt: skip
    """The sum over all offsets of weight times the map at that offset, (TILE, CHANNELS)."""
    total = tl.zeros(pointers.shape, FLOAT)
    for offset in tl.static_range(offsets_y * offsets_x):
        mask = owned & rows_there[offset // offsets_x] & cols_there[offset % offsets_x]
        shifted = pointers + ((offset // offsets_x - LAST_Y) * W + offset % offsets_x - LAST_X) * heads * d
        total += weights[offset][:, None] * load_tile(shifted, mask, channel, d, FLOAT)
    return total


@triton.jit
def side_by_side(vectors, num: tl.constexpr, NUMBERS: tl.constexpr):
    """`num` vectors (TILE) as the first columns of (TILE, NUMBERS), a power of two; the other columns are zero."""
    columns = vectors
    for _ in tl.static_range(num, NUMBERS):
        columns = columns + (tl.zeros(vectors[0].shape, vectors[0].dtype),)
    for level in tl.static_range(6):
        if NUMBERS >> level > 1:
            columns = joined(columns, NUMBERS >> level + 1)
    return tl.reshape(columns[0], (vectors[0].shape[0], NUMBERS))


@triton.jit
def joined(columns, half: tl.constexpr):
    """Half as many columns, each twice as wide."""
    wider = ()
    for column in tl.static_range(half):
        wider = wider + (tl.join(columns[column], columns[column + half]),)
    return wider


@triton.jit
def reverse_weight(
    planes, mask, dy: tl.constexpr, dx: tl.constexpr, FIRST_Y: tl.constexpr, FIRST_X: tl.constexpr,
    H: tl.constexpr, W: tl.constexpr, heads: tl.constexpr, K: tl.constexpr, S: tl.constexpr, FLOAT: tl.constexpr,
):  # fmt: skip
    """The weight with which the pixel at offset (dy, dx) from each element reads that element.

    Planes are numbered by the offsets of the pixel that reads, from its own -LAST on.
    """
    SIDE: tl.constexpr = K + (K - 1) // S * S
    first_y: tl.constexpr = (FIRST_Y + dy) % S
    first_x: tl.constexpr = (FIRST_X + dx) % S
    offset_y: tl.constexpr = first_y + (K - 1 - first_y) // S * S - dy
    offset_x: tl.constexpr = first_x + (K - 1 - first_x) // S * S - dx
    start: tl.constexpr = ((offset_y * SIDE + offset_x) * H * W + dy * W + dx) * heads
    return tl.load(planes + start, mask=mask, other=0).to(FLOAT)


@triton.jit
def forward_kernel(
    values, logits, out,
    H: tl.constexpr, W: tl.constexpr, h: tl.constexpr, w: tl.constexpr, heads: tl.constexpr, d: tl.constexpr,
    K: tl.constexpr, S: tl.constexpr, P: tl.constexpr, Y: tl.constexpr, X: tl.constexpr,
    FIRST_Y: tl.constexpr, FIRST_X: tl.constexpr, LAST_Y: tl.constexpr, LAST_X: tl.constexpr,
    TILE: tl.constexpr, TAPS: tl.constexpr, CHANNELS: tl.constexpr, FLOAT: tl.constexpr, INDEX: tl.constexpr,
):  # fmt: skip
    """Output of the tile, for a block of channels."""
    T: tl.constexpr = K * K
    OFFSETS_Y: tl.constexpr = LAST_Y + K - FIRST_Y
    OFFSETS_X: tl.constexpr = LAST_X + K - FIRST_X
    image, head, y, x, position, owned = own_tile(H, W, heads, S, Y, X, TILE, INDEX)
    i, j = (y + P - FIRST_Y) // S, (x + P - FIRST_X) // S  # the window in which the pixel has its first tap
    logits += image * h * w * heads * T * T + ((i * w + j).to(INDEX) * heads + head) * T * T
    weights = zero_weights(y, OFFSETS_Y * OFFSETS_X, FLOAT)
    for p_y in tl.static_range(FIRST_Y, LAST_Y + 1, S):
        for p_x in tl.static_range(FIRST_X, LAST_X + 1, S):
            pointers, exists = row_at(logits, i, j, owned, p_y, p_x, FIRST_Y, FIRST_X, h, w, heads, K, S)
            row = softmax(pointers, exists, T, FLOAT)
            weights = add_row(weights, row, LAST_Y - p_y, LAST_X - p_x, OFFSETS_Y, OFFSETS_X, K)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    base = image * H * W * heads * d + ((position * d)[:, None] + channel[None, :])
    rows_there, cols_there = on_map(y, H, LAST_Y, OFFSETS_Y), on_map(x, W, LAST_X, OFFSETS_X)
    mixed = weighted_sum(
        values + base, weights, rows_there, cols_there, owned, channel,
        LAST_Y, LAST_X, OFFSETS_Y, OFFSETS_X, W, heads, d, FLOAT,
    )  # fmt: skip
    tl.store(out + base, mixed, mask=owned[:, None] & (channel < d)[None, :])


@triton.jit
def logits_gradient_kernel(
    grad, values, logits, dlogits, planes,
    H: tl.constexpr, W: tl.constexpr, h: tl.constexpr, w: tl.constexpr, heads: tl.constexpr, d: tl.constexpr,
    K: tl.constexpr, S: tl.constexpr, P: tl.constexpr, Y: tl.constexpr, X: tl.constexpr,
    FIRST_Y: tl.constexpr, FIRST_X: tl.constexpr, LAST_Y: tl.constexpr, LAST_X: tl.constexpr,
    TILE: tl.constexpr, TAPS: tl.constexpr, CHANNELS: tl.constexpr, FLOAT: tl.constexpr, INDEX: tl.constexpr,
):  # fmt: skip
    """dlogits of the tile's rows, and its weights as planes (B, SIDE * SIDE, H, W, heads), one plane per offset.

    A phase may have fewer than SIDE offsets along an axis.
    """
    T: tl.constexpr = K * K
    OFFSETS_Y: tl.constexpr = LAST_Y + K - FIRST_Y
    OFFSETS_X: tl.constexpr = LAST_X + K - FIRST_X
    image, head, y, x, position, owned = own_tile(H, W, heads, S, Y, X, TILE, INDEX)

    base = image * H * W * heads * d + (position * d)[:, None]
    rows_there, cols_there = on_map(y, H, LAST_Y, OFFSETS_Y), on_map(x, W, LAST_X, OFFSETS_X)
    products = zero_weights(y, OFFSETS_Y * OFFSETS_X, FLOAT)
    for start in tl.static_range(0, d, CHANNELS):
        channel = start + tl.arange(0, CHANNELS)
        own = load_tile(grad + base + channel[None, :], owned, channel, d, FLOAT)
        pointers = values + base + channel[None, :]
        added = ()
        for offset in tl.static_range(OFFSETS_Y * OFFSETS_X):
            mask = owned & rows_there[offset // OFFSETS_X] & cols_there[offset % OFFSETS_X]
            shifted = pointers + ((offset // OFFSETS_X - LAST_Y) * W + offset % OFFSETS_X - LAST_X) * heads * d
            tile = load_tile(shifted, mask, channel, d, FLOAT)
            added = added + (products[offset] + tl.sum(own * tile, axis=1),)
        products = added

    i, j = (y + P - FIRST_Y) // S, (x + P - FIRST_X) // S
    base = image * h * w * heads * T * T + ((i * w + j).to(INDEX) * heads + head) * T * T
    logits += base
    dlogits += base
    tap = tl.arange(0, TAPS)
    weights = zero_weights(y, OFFSETS_Y * OFFSETS_X, FLOAT)
    for p_y in tl.static_range(FIRST_Y, LAST_Y + 1, S):
        for p_x in tl.static_range(FIRST_X, LAST_X + 1, S):
            pointers, exists = row_at(logits, i, j, owned, p_y, p_x, FIRST_Y, FIRST_X, h, w, heads, K, S)
            row = softmax(pointers, exists, T, FLOAT)
            weights = add_row(weights, row, LAST_Y - p_y, LAST_X - p_x, OFFSETS_Y, OFFSETS_X, K)
            mean = tl.zeros(y.shape, FLOAT)
            for q in tl.static_range(T):
                mean += row[q] * products[(LAST_Y - p_y + q // K) * OFFSETS_X + LAST_X - p_x + q % K]
            gradients = ()
            for q in tl.static_range(T):
                product = products[(LAST_Y - p_y + q // K) * OFFSETS_X + LAST_X - p_x + q % K]
                gradients = gradients + (row[q] * (product - mean),)
            pointers, exists = row_at(dlogits, i, j, owned, p_y, p_x, FIRST_Y, FIRST_X, h, w, heads, K, S)
            tile = side_by_side(gradients, T, TAPS)
            tl.store(pointers[:, None] + tap[None, :], tile, mask=exists[:, None] & (tap < T)[None, :])

    SIDE: tl.constexpr = K + (K - 1) // S * S
    planes += image * SIDE * SIDE * H * W * heads + position
    for offset in tl.static_range(OFFSETS_Y * OFFSETS_X):
        tl.store(
            planes + (offset // OFFSETS_X * SIDE + offset % OFFSETS_X) * H * W * heads, weights[offset], mask=owned
        )


@triton.jit
def values_gradient_kernel(
    grad, planes, dvalues,
    H: tl.constexpr, W: tl.constexpr, h: tl.constexpr, w: tl.constexpr, heads: tl.constexpr, d: tl.constexpr,
    K: tl.constexpr, S: tl.constexpr, P: tl.constexpr, Y: tl.constexpr, X: tl.constexpr,
    FIRST_Y: tl.constexpr, FIRST_X: tl.constexpr, LAST_Y: tl.constexpr, LAST_X: tl.constexpr,
    TILE: tl.constexpr, TAPS: tl.constexpr, CHANNELS: tl.constexpr, FLOAT: tl.constexpr, INDEX: tl.constexpr,
):  # fmt: skip
    """dvalues of the tile, for a block of channels: gathered from all pixels that read the tile."""
    OFFSETS_Y: tl.constexpr = LAST_Y + K - FIRST_Y
    OFFSETS_X: tl.constexpr = LAST_X + K - FIRST_X
    SIDE: tl.constexpr = K + (K - 1) // S * S
    image, _, y, x, position, owned = own_tile(H, W, heads, S, Y, X, TILE, INDEX)
    rows_there, cols_there = on_map(y, H, LAST_Y, OFFSETS_Y), on_map(x, W, LAST_X, OFFSETS_X)
    planes += image * SIDE * SIDE * H * W * heads + position
    weights = ()
    for offset in tl.static_range(OFFSETS_Y * OFFSETS_X):
        mask = owned & rows_there[offset // OFFSETS_X] & cols_there[offset % OFFSETS_X]
        weight = reverse_weight(
            planes, mask, offset // OFFSETS_X - LAST_Y, offset % OFFSETS_X - LAST_X,
            FIRST_Y, FIRST_X, H, W, heads, K, S, FLOAT,
        )  # fmt: skip
        weights = weights + (weight,)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    base = image * H * W * heads * d + ((position * d)[:, None] + channel[None, :])
    gathered = weighted_sum(
        grad + base, weights, rows_there, cols_there, owned, channel,
        LAST_Y, LAST_X, OFFSETS_Y, OFFSETS_X, W, heads, d, FLOAT,
    )  # fmt: skip
    tl.store(dvalues + base, gathered, mask=owned[:, None] & (channel < d)[None, :])
