"""A built-in data set: 10 shapes x 10 colors on a cluttered background, drawn from (seed, split, index) alone.

There is nothing to download and little to memorize, and the object's mask is known. No class depends on orientation or
handedness, so flips, crops and rotations keep the class.

Shapes: N images, H = W = IMAGE_SIZE pixels; coordinates (N, H, W) in units of the object's size.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np

VERSION = 1  # part of the image cache's key
IMAGE_SIZE = 32
NUM_IMAGES = {"train": 20_000, "test": 2_000}
AREA = (0.09, 0.22)  # of the image; with the pixel grid's rounding, objects cover 8 to 25%

COLORS = {
    "red": (0.86, 0.08, 0.08),
    "orange": (1.0, 0.52, 0.05),
    "yellow": (0.98, 0.90, 0.10),
    "green": (0.10, 0.68, 0.15),
    "cyan": (0.10, 0.85, 0.88),
    "blue": (0.12, 0.22, 0.92),
    "purple": (0.50, 0.10, 0.78),
    "pink": (1.0, 0.45, 0.78),
    "white": (0.98, 0.98, 0.98),
    "black": (0.03, 0.03, 0.03),
}
COLOR_JITTER = 0.06
NUM_CLUTTER = 5
NUM_DRAWS = 64  # uniform numbers per image, not counting noise
CHUNK = 512


@dataclass(frozen=True)
class Drawing:
    """`images` (N, H, W, 3) uint8, `labels` (N,) int64, `masks` (N, H, W) bool: the object's pixels."""

    images: np.ndarray
    labels: np.ndarray
    masks: np.ndarray


def labels(split: str) -> np.ndarray:
    """(N,) int64, the labels of a split: shape * 10 + color, balanced. Raises ValueError for an unknown split."""
    return np.arange(_num_images(split), dtype=np.int64) % len(CLASS_NAMES)


def draw(split: str, start: int, stop: int, seed: int = 0) -> Drawing:
    """Images [start, stop) of a split; an image does not depend on the range it is drawn in.

    Raises:
        ValueError: an unknown split, or a range outside it.
    """
    total = _num_images(split)
    if not 0 <= start <= stop <= total:
        raise ValueError(f"start and stop must lie within the {total} images of {split}, got [{start}, {stop})")
    parts = [_draw(split, first, min(first + CHUNK, stop), seed) for first in range(start, stop, CHUNK)]
    empty = Drawing(
        np.zeros((0, IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8),
        np.zeros(0, np.int64),
        np.zeros((0, IMAGE_SIZE, IMAGE_SIZE), bool),
    )
    fields = ("images", "labels", "masks")
    return Drawing(**{name: np.concatenate([getattr(part, name) for part in [empty, *parts]]) for name in fields})


def _draw(split: str, start: int, stop: int, seed: int) -> Drawing:
    classes = labels(split)[start:stop]
    uniforms = _uniforms(split, "layout", start, stop, seed, NUM_DRAWS)
    noise = _uniforms(split, "noise", start, stop, seed, IMAGE_SIZE * IMAGE_SIZE * 3)
    columns = iter(uniforms.T)
    cover, distance = _object(classes // 10, columns)
    ground = _clutter(columns, len(classes))
    color = np.array(list(COLORS.values()), np.float32)[classes % 10]
    color = color + COLOR_JITTER * (2 * np.stack([next(columns) for _ in range(3)], axis=1) - 1)
    image = ground + cover[..., None] * (color[:, None, None] - ground)
    image += 0.16 * (noise.reshape(image.shape) - 0.5)
    return Drawing((image.clip(0, 1) * 255).round().astype(np.uint8), classes, distance < 0)


def _object(kinds: np.ndarray, columns) -> tuple[np.ndarray, np.ndarray]:
    """The fraction of each pixel covered by the object, and its signed distance to the outline in pixels; (N, H, W)."""
    area = AREA[0] + (AREA[1] - AREA[0]) * next(columns)
    sizes = np.array([_unit_area(kind) for kind in SHAPE_NAMES], np.float32)[kinds]
    scale = IMAGE_SIZE * np.sqrt(area / sizes)
    reach = scale * np.array([REACH[kind] for kind in SHAPE_NAMES], np.float32)[kinds]
    angle = 2 * np.pi * next(columns)
    center_x, center_y = (reach + (IMAGE_SIZE - 2 * reach) * next(columns) for _ in range(2))
    x, y = _local(center_x, center_y, angle)
    x, y = x / scale[:, None, None], y / scale[:, None, None]
    distance = np.empty_like(x)
    for number, kind in enumerate(SHAPE_NAMES):
        chosen = kinds == number
        distance[chosen] = DISTANCES[kind](x[chosen], y[chosen]) * scale[chosen, None, None]
    return (0.5 - distance).clip(0, 1), distance


def _clutter(columns, count: int) -> np.ndarray:
    """A grayish background: a gradient under strips and blobs. (N, H, W, 3) in [0, 1]."""
    x, y = _local(np.full(count, IMAGE_SIZE / 2), np.full(count, IMAGE_SIZE / 2), 2 * np.pi * next(columns))
    slope = 0.3 * next(columns)[:, None, None] * x / IMAGE_SIZE
    ground = _gray(columns)[:, None, None] + slope[..., None]
    for number in range(NUM_CLUTTER):
        center_x, center_y, angle = IMAGE_SIZE * next(columns), IMAGE_SIZE * next(columns), 2 * np.pi * next(columns)
        x, y = _local(center_x, center_y, angle)
        width, length = (2 + 4 * next(columns))[:, None, None], (3 + 6 * next(columns))[:, None, None]
        is_strip = number % 2 == 0
        distance = np.abs(x) - width / 2 if is_strip else (np.hypot(x / width, y / length) - 1) * width
        cover = 0.8 * (0.5 - distance).clip(0, 1)[..., None]
        ground = ground + cover * (_gray(columns)[:, None, None] - ground)
    return ground.clip(0.2, 0.78)


def _gray(columns) -> np.ndarray:
    """(N, 3) colors of medium brightness and low saturation."""
    brightness = 0.25 + 0.5 * next(columns)
    tint = 0.16 * (np.stack([next(columns) for _ in range(3)], axis=1) - 0.5)
    return brightness[:, None] + tint


def _local(center_x: np.ndarray, center_y: np.ndarray, angle: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pixel centers in a rotated frame with its origin at (center_x, center_y), each (N, H, W)."""
    pixel = np.arange(IMAGE_SIZE, dtype=np.float32) + 0.5
    dx = pixel[None, None, :] - center_x[:, None, None]
    dy = pixel[None, :, None] - center_y[:, None, None]
    cos, sin = np.cos(angle)[:, None, None], np.sin(angle)[:, None, None]
    return (cos * dx + sin * dy).astype(np.float32), (cos * dy - sin * dx).astype(np.float32)


# Signed distances to outlines of about unit size, negative inside; accurate enough for antialiasing.


def _disc(x, y):
    return np.hypot(x, y) - 1


def _ring(x, y):
    return np.abs(np.hypot(x, y) - 0.78) - 0.22


def _square(x, y):
    return np.maximum(np.abs(x), np.abs(y)) - 1


def _frame(x, y):
    return np.abs(np.maximum(np.abs(x), np.abs(y)) - 0.78) - 0.22


def _bar(x, y):
    return np.maximum(np.abs(x) - 1, np.abs(y) - 0.3)


def _cross(x, y):
    x, y = np.maximum(np.abs(x), np.abs(y)), np.minimum(np.abs(x), np.abs(y))
    return np.maximum(x - 1, y - 0.3)


def _triangle(x, y):
    return np.maximum(np.abs(x) * 0.866 + y * 0.5, -y) - 0.5


def _star(x, y):
    fifth = 2 * np.pi / 5
    angle = np.abs((np.arctan2(x, -y) + fifth / 2) % fifth - fifth / 2)
    radius = np.hypot(x, y)
    # The line from a tip (radius 1) to the next inner corner (radius 0.42).
    corner_x, corner_y = 0.42 * np.cos(fifth / 2), 0.42 * np.sin(fifth / 2)
    normal_x, normal_y = corner_y, 1 - corner_x
    length = np.hypot(normal_x, normal_y)
    return ((radius * np.cos(angle) - 1) * normal_x + radius * np.sin(angle) * normal_y) / length


def _crescent(x, y):
    return np.maximum(np.hypot(x, y) - 1, 0.78 - np.hypot(x - 0.55, y))


def _hourglass(x, y):
    return np.maximum(np.abs(y) - 1, np.abs(x) * 0.8 - np.abs(y) * 0.6 - 0.08)


DISTANCES: dict[str, Callable] = {
    "disc": _disc,
    "ring": _ring,
    "square": _square,
    "frame": _frame,
    "bar": _bar,
    "cross": _cross,
    "triangle": _triangle,
    "star": _star,
    "crescent": _crescent,
    "hourglass": _hourglass,
}
# How far each outline reaches from its center.
REACH = {
    "disc": 1.0, "ring": 1.0, "square": 1.42, "frame": 1.42, "bar": 1.05,
    "cross": 1.05, "triangle": 1.0, "star": 1.0, "crescent": 1.0, "hourglass": 1.32,
}  # fmt: skip
SHAPE_NAMES = tuple(DISTANCES)
COLOR_NAMES = tuple(COLORS)
CLASS_NAMES = tuple(f"{color} {shape}" for shape in SHAPE_NAMES for color in COLOR_NAMES)


@cache
def _unit_area(shape: str) -> float:
    """The area of a shape at scale 1, counted on a fine grid."""
    side = np.linspace(-1.5, 1.5, 600, dtype=np.float32)
    x, y = np.meshgrid(side, side)
    return float((DISTANCES[shape](x, y) < 0).mean() * 9.0)


def _uniforms(split: str, stream: str, start: int, stop: int, seed: int, per_image: int) -> np.ndarray:
    """(stop - start, per_image) float32 in [0, 1); per_image is a multiple of 8, the numbers per Philox block."""
    key = np.random.SeedSequence((seed, sorted(NUM_IMAGES).index(split), ("layout", "noise").index(stream)))
    bits = np.random.Philox(key).advance(start * (per_image // 8))
    return np.random.Generator(bits).random((stop - start, per_image), dtype=np.float32)


def _num_images(split: str) -> int:
    if split not in NUM_IMAGES:
        raise ValueError(f"split must be one of {', '.join(NUM_IMAGES)}, got {split!r}")
    return NUM_IMAGES[split]
