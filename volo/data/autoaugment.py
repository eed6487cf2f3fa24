"""TrivialAugment (arXiv 2103.10158, the "wide" strengths of table 7): one operation per sample, of random strength; and
RandAugment (arXiv 1909.13719, in torchvision's strengths): two operations, one after the other, of one strength. Color
jitter uses three of these operations.

Samples with the same kind of operation are computed together: an affine map, a lookup table of 256 levels, or a blend
with a grayer or smoother copy. Every result depends only on its own sample, bit for bit.

Images of another number of channels than three have no colors: their channels count as grays, each by itself, so COLOR,
and with it the saturation of color jitter, leaves them as they are.

Shapes: B samples, H x W pixels in C channels; images (B, H, W, C) uint8, one draw per sample on the host.
"""

import math
from collections.abc import Mapping
from enum import IntEnum

import numpy as np
import torch
from torch import Tensor

from volo.data.epoch import Draw
from volo.data.transfer import to_device

NUM_LEVELS = 31  # of strength, from 0


class Op(IntEnum):
    IDENTITY = 0
    SHEAR_X = 1
    SHEAR_Y = 2
    TRANSLATE_X = 3
    TRANSLATE_Y = 4
    ROTATE = 5
    BRIGHTNESS = 6
    CONTRAST = 7
    POSTERIZE = 8
    SOLARIZE = 9
    AUTO_CONTRAST = 10
    EQUALIZE = 11
    COLOR = 12
    SHARPNESS = 13


# The largest amount of each operation: a slope, pixels, radians, or a factor's distance from 1.
STRONGEST = {
    Op.SHEAR_X: 0.99,
    Op.SHEAR_Y: 0.99,
    Op.TRANSLATE_X: 32.0,
    Op.TRANSLATE_Y: 32.0,
    Op.ROTATE: math.radians(135),
    Op.BRIGHTNESS: 0.99,
    Op.CONTRAST: 0.99,
    Op.COLOR: 0.99,
    Op.SHARPNESS: 0.99,
}
# RandAugment's, of which translations are shares of the height or width.
RAND_STRONGEST = {
    Op.SHEAR_X: 0.3,
    Op.SHEAR_Y: 0.3,
    Op.TRANSLATE_X: 150 / 331,
    Op.TRANSLATE_Y: 150 / 331,
    Op.ROTATE: math.radians(30),
    Op.BRIGHTNESS: 0.9,
    Op.CONTRAST: 0.9,
    Op.COLOR: 0.9,
    Op.SHARPNESS: 0.9,
}
RAND_DRAWS = ((Draw.AUTO_OP, Draw.AUTO_SIGN), (Draw.AUTO_OP_2, Draw.AUTO_SIGN_2))
JITTERED = ((Op.BRIGHTNESS, Draw.BRIGHTNESS), (Op.CONTRAST, Draw.CONTRAST), (Op.COLOR, Draw.SATURATION))
MOVES = range(Op.SHEAR_X, Op.ROTATE + 1)
TONES = range(Op.BRIGHTNESS, Op.EQUALIZE + 1)
BLENDS = range(Op.COLOR, Op.SHARPNESS + 1)
LUMA = (299, 587, 114)  # ITU-R 601, in thousandths


def trivial_augment(images: Tensor, uniforms: np.ndarray, share: float = 1.0) -> Tensor:
    """Applies one operation to each image, in place.

    Args:
        images: (B, H, W, C) uint8, overwritten.
        uniforms: (B, NUM_UNIFORMS) in [0, 1), columns as in `Draw`.
        share: Of their full size that the images have: translations are in pixels of that, so that smaller images move
            as far.
    """
    ops, amounts = drawn_ops(uniforms)
    is_translated = (ops == Op.TRANSLATE_X) | (ops == Op.TRANSLATE_Y)
    return _applied(images, ops, np.where(is_translated, amounts * np.float32(share), amounts))


def rand_augment(images: Tensor, uniforms: np.ndarray, magnitude: float) -> Tensor:
    """Applies two operations to each image, in place; arguments as above, `magnitude` in [0, NUM_LEVELS - 1]."""
    H, W = images.shape[1:3]
    for op_column, sign_column in RAND_DRAWS:
        images = _applied(images, *rand_ops(uniforms[:, op_column], uniforms[:, sign_column], magnitude, H, W))
    return images


def color_jitter(images: Tensor, uniforms: np.ndarray, strength: float) -> Tensor:
    """Changes brightness, contrast and saturation of each image, one after the other and in place, each by a factor of
    1 - strength to 1 + strength; arguments as above."""
    for op, column in JITTERED:
        amounts = strength * (2 * uniforms[:, column] - 1)
        images = _applied(images, np.full(len(images), op), amounts.astype(np.float32))
    return images


def _applied(images: Tensor, ops: np.ndarray, amounts: np.ndarray) -> Tensor:
    for kind, apply in ((MOVES, moved), (TONES, retoned), (BLENDS, blended)):
        places = np.flatnonzero((ops >= kind.start) & (ops < kind.stop))
        if len(places):
            at = to_device(places, images.device)
            images[at] = apply(images[at], ops[places], amounts[places])
    return images


def drawn_ops(uniforms: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(B,) operations and their (B,) float32 amounts: signed, or the bits POSTERIZE keeps, or SOLARIZE's threshold."""
    ops = (uniforms[:, Draw.AUTO_OP] * len(Op)).astype(np.int64)
    level = np.floor(uniforms[:, Draw.AUTO_LEVEL] * NUM_LEVELS) / (NUM_LEVELS - 1)  # (B,) in [0, 1]
    return ops, _amounts(ops, level, uniforms[:, Draw.AUTO_SIGN], STRONGEST, num_bits_lost=6)


def rand_ops(
    op_draws: np.ndarray, sign_draws: np.ndarray, magnitude: float, H: int, W: int
) -> tuple[np.ndarray, np.ndarray]:
    """As `drawn_ops`, for one of RandAugment's operations on images of H x W pixels."""
    ops = (op_draws * len(Op)).astype(np.int64)
    level = np.full(len(ops), magnitude / (NUM_LEVELS - 1))
    sides = {Op.TRANSLATE_X: W, Op.TRANSLATE_Y: H}
    strongest = {op: amount * sides.get(op, 1) for op, amount in RAND_STRONGEST.items()}
    return ops, _amounts(ops, level, sign_draws, strongest, num_bits_lost=4)


def _amounts(
    ops: np.ndarray, level: np.ndarray, sign_draws: np.ndarray, strongest: Mapping[Op, float], num_bits_lost: int
) -> np.ndarray:
    sign = np.where(sign_draws < 0.5, -1, 1)
    amounts = np.array([strongest.get(op, 0.0) for op in Op])[ops] * level * sign
    amounts = np.where((ops == Op.TRANSLATE_X) | (ops == Op.TRANSLATE_Y), np.trunc(amounts), amounts)
    amounts = np.where(ops == Op.POSTERIZE, 8 - np.round(num_bits_lost * level), amounts)
    amounts = np.where(ops == Op.SOLARIZE, 255 * (1 - level), amounts)
    return amounts.astype(np.float32)


def moved(images: Tensor, ops: np.ndarray, amounts: np.ndarray) -> Tensor:
    """Shears from the upper left corner, translates, or rotates about the center; nearest pixel, filled with black."""
    _, H, W, _ = images.shape
    maps = to_device(_inverse_maps(ops, amounts, H, W), images.device)[..., None, None]  # (B, 2, 3, 1, 1)
    y = torch.arange(H, device=images.device)[:, None] + 0.5
    x = torch.arange(W, device=images.device) + 0.5
    source = (maps[:, :, 0] * x + maps[:, :, 1] * y + maps[:, :, 2]).floor().long()  # (B, 2, H, W)
    cols, rows = source.unbind(1)  # (B, H, W) each
    is_inside = (cols >= 0) & (cols < W) & (rows >= 0) & (rows < H)
    sample = torch.arange(len(images), device=images.device)[:, None, None]
    return images[sample, rows.clamp(0, H - 1), cols.clamp(0, W - 1)] * is_inside[..., None]  # (B, H, W, C)


def _inverse_maps(ops: np.ndarray, amounts: np.ndarray, H: int, W: int) -> np.ndarray:
    """(B, 2, 3) float32: the source of a pixel's x and y, as factors of x, y and 1."""
    maps = np.tile(np.eye(2, 3, dtype=np.float32), (len(ops), 1, 1))
    for op, row, col in ((Op.SHEAR_X, 0, 1), (Op.SHEAR_Y, 1, 0), (Op.TRANSLATE_X, 0, 2), (Op.TRANSLATE_Y, 1, 2)):
        sign = -1 if col == 2 else 1
        maps[ops == op, row, col] = sign * amounts[ops == op]
    turned = ops == Op.ROTATE
    cos, sin = np.cos(amounts[turned]), np.sin(amounts[turned])
    maps[turned, 0] = np.stack([cos, -sin, (W - cos * W + sin * H) / 2], axis=1)
    maps[turned, 1] = np.stack([sin, cos, (H - sin * W - cos * H) / 2], axis=1)
    return maps


def retoned(images: Tensor, ops: np.ndarray, amounts: np.ndarray) -> Tensor:
    """Replaces every level of every channel using each image's own lookup table."""
    op, amount = (to_device(values, images.device)[:, None, None] for values in (ops, amounts))  # (B, 1, 1)
    level = torch.arange(256, device=images.device)
    flat = images.flatten(1, 2).transpose(1, 2).long()  # (B, C, H*W)
    mask = 256 - 2 ** (8 - torch.where(op == Op.POSTERIZE, amount, 8).long())
    tables = torch.where(op == Op.SOLARIZE, torch.where(level >= amount, 255 - level, level), level & mask)
    is_scaled = (op == Op.BRIGHTNESS) | (op == Op.CONTRAST) | (op == Op.AUTO_CONTRAST)
    tables = torch.where(is_scaled, _scaled_levels(flat, level, op, amount), tables)
    tables = torch.where(op == Op.EQUALIZE, _equalizing_levels(flat), tables)  # (B, C, 256)
    return tables.gather(2, flat).to(torch.uint8).transpose(1, 2).reshape(images.shape)  # (B, H, W, C)


def _scaled_levels(flat: Tensor, level: Tensor, op: Tensor, amount: Tensor) -> Tensor:
    """(B, C, 256): levels scaled around black, around the mean gray, or to span 0 to 255."""
    low, high = flat.amin(2, keepdim=True), flat.amax(2, keepdim=True)  # (B, C, 1)
    mean = _gray(flat, dim=1).sum(2, keepdim=True) / flat.shape[2]  # (B, 1, 1), or (B, C, 1) without colors
    can_spread = (op == Op.AUTO_CONTRAST) & (high > low)
    scale = torch.where(can_spread, 255 / (high - low).clamp(min=1), 1 + amount)
    pivot = torch.where(op == Op.CONTRAST, mean, torch.where(can_spread, low.to(mean), 0))
    base = torch.where(op == Op.CONTRAST, mean, 0)
    return (base + scale * (level - pivot)).round().clamp(0, 255).long()


def _equalizing_levels(flat: Tensor) -> Tensor:
    """(B, C, 256): levels that make the histogram as flat as possible; Pillow's rule."""
    counts = torch.zeros((*flat.shape[:2], 256), dtype=torch.long, device=flat.device)
    counts.scatter_add_(2, flat, torch.ones_like(flat))
    step = (flat.shape[2] - counts.gather(2, flat.amax(2, keepdim=True))) // 255  # (B, C, 1); 0: nothing to spread
    below = counts.cumsum(2) - counts
    levels = ((below + step // 2) // step.clamp(min=1)).clamp(max=255)
    return torch.where(step > 0, levels, torch.arange(256, device=flat.device))


def blended(images: Tensor, ops: np.ndarray, amounts: np.ndarray) -> Tensor:
    """Blends the image away from or toward its gray (COLOR) or smoothed (SHARPNESS) copy."""
    op, amount = (to_device(values, images.device)[:, None, None, None] for values in (ops, amounts))
    whole = images.int()
    other = torch.where(op == Op.COLOR, _gray(whole, dim=3), _smoothed(whole))  # (B, H, W, C)
    return (other + (1 + amount) * (whole - other)).round().clamp(0, 255).to(torch.uint8)


def _gray(values: Tensor, dim: int) -> Tensor:
    """Integer brightness, one channel at `dim`, where the three colors are; other channels as they are."""
    if values.shape[dim] != len(LUMA):
        return values
    red, green, blue = (values.select(dim, channel) * weight for channel, weight in enumerate(LUMA))
    return ((red + green + blue) // 1000).unsqueeze(dim)


def _smoothed(whole: Tensor) -> Tensor:
    """(B, H, W, C) int: the mean of each pixel's 3x3 neighborhood, with weight 5 at its center; the border is kept."""
    _, H, W, _ = whole.shape
    if H < 3 or W < 3:
        return whole
    total = 4 * whole[:, 1:-1, 1:-1]
    for top in range(3):
        for left in range(3):
            total = total + whole[:, top : H - 2 + top, left : W - 2 + left]
    smooth = whole.clone()
    smooth[:, 1:-1, 1:-1] = (2 * total + 13) // 26
    return smooth
