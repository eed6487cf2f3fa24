"""Test images that are nearly the same as images trained on: the test knows too much about them.

Images are compared at 16 pixels: first by their brightness in 8 x 8 cells, shifted and scaled to the same mean and
spread, whose most similar pairs are then compared pixel by pixel. So a copy that was saved again, resized, or made
brighter a little is found; one that was cut or mirrored is not.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from volo.analysis.subject import View
from volo.data.datasets import open_source, split_of
from volo.data.decoded.cache import Images, cached, room
from volo.data.folders.encoded import THUMBNAIL, EncodedImages
from volo.errors import InputError, first_of
from volo.files import replace_synced
from volo.settings.data import ResolvedData
from volo.tables import TableWriter

FILE = "near_duplicates.csv"
CELLS = 8
LIKELY = 0.98  # correlation of the cells, above which pixels are compared
SAME = 8.0  # mean difference of pixels, of 255
FLAT = 1.0  # spread of the cells, of 255, below which an image shows too little to be compared
MOST_PAIRS = 2**32  # of test and training images, which take half a minute
TOGETHER = 1024
SHOWN = 3


@dataclass(frozen=True)
class Duplicates:
    """n pairs: places in the view, and the names of the images there and of those trained on."""

    places: np.ndarray
    tested: tuple[str, ...]
    trained: tuple[str, ...]


def near_duplicates(view: View, data: ResolvedData) -> Duplicates | None:
    """Test images with a nearly equal one among those trained on, the most similar of them.

    Args:
        view: Test images.
        data: The training's, resolved.

    Returns:
        None if the images trained on are not at hand, or there are too many.
    """
    try:
        trained, numbers = _trained(data.here())
    except (InputError, OSError):
        return None
    if len(numbers) * len(view.index) > MOST_PAIRS:
        return None
    tested = np.concatenate(list(_small(view.images, view.index)) or [np.zeros((0, THUMBNAIL, THUMBNAIL, 1), np.uint8)])
    cells, start = _cells(tested), 0
    best, partner = np.full(len(tested), SAME), np.full(len(tested), -1)
    for part in _small(trained, numbers):
        likely = np.argwhere(cells @ _cells(part).T > LIKELY)
        for place, other in likely.tolist():
            difference = np.abs(tested[place].astype(np.float32) - part[other]).mean()
            if difference < best[place]:
                best[place], partner[place] = difference, numbers[start + other]
        start += len(part)
    places = np.flatnonzero(partner >= 0)
    assert trained.source is not None, "it was opened from one"
    names = tuple(trained.source.name_of(int(partner[place])) for place in places)
    return Duplicates(places, tuple(view.name_of(int(place)) for place in places), names)


def save_duplicates(found: Duplicates, output_dir: Path) -> None:
    """near_duplicates.csv, a row for each pair: file, trained_on."""
    file = io.StringIO()
    table = TableWriter(file, ["file", "trained_on"])
    for pair in zip(found.tested, found.trained, strict=True):
        table.write(pair)
    replace_synced(output_dir / FILE, file.getvalue().encode())


def in_words(found: Duplicates, correct: np.ndarray) -> str:
    """A note on the pairs, of which there are some; `correct` (N,) bool says which images are predicted right."""
    named = first_of([f"{one} like {other}" for one, other in zip(found.tested, found.trained, strict=True)], SHOWN)
    others = np.delete(correct, found.places)
    without = f" Without them, top-1 is {others.mean():.2%}." if len(others) else ""
    return (
        f"{len(found.places):,} of these {len(correct):,} images are nearly the same as images trained on, listed in "
        f"{FILE}: {named}.{without}"
    )


def _trained(data: ResolvedData) -> tuple[Images, np.ndarray]:
    """The images trained on, as far as they are decoded already or else very small, and their numbers."""
    source = open_source(data, "train")
    numbers = split_of(source, data).train
    if isinstance(source, EncodedImages) and room([(source, numbers)]).num_images:
        source = source.thumbnails()
    images = cached(source, numbers, skip_damaged=True)
    return images, numbers[images.row(numbers) >= 0]


def _small(images: Images, numbers: np.ndarray) -> Iterator[np.ndarray]:
    """(n, THUMBNAIL, THUMBNAIL, in_chans) uint8, part by part."""
    for start in range(0, len(numbers), TOGETHER):
        pixels = images.pixels(numbers[start : start + TOGETHER])
        size = (THUMBNAIL, THUMBNAIL)
        if pixels.shape[1:3] != size:
            pixels = np.stack([_resized(each, size) for each in pixels])
        yield pixels


def _resized(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(H, W, C) uint8, channel by channel."""
    planes = (Image.fromarray(np.ascontiguousarray(plane)) for plane in np.moveaxis(pixels, 2, 0))
    return np.dstack([np.asarray(plane.resize(size, Image.Resampling.BOX)) for plane in planes])


def _cells(images: np.ndarray) -> np.ndarray:
    """(n, H, W, C) uint8 -> (n, CELLS * CELLS) float32 of mean 0 and norm 1; all 0 where an image is flat."""
    n, side = len(images), THUMBNAIL // CELLS
    gray = images.astype(np.float32).mean(axis=3).reshape(n, CELLS, side, CELLS, side).mean(axis=(2, 4))
    cells = gray.reshape(n, -1)
    cells -= cells.mean(axis=1, keepdims=True)
    spread = cells.std(axis=1, keepdims=True)
    return np.where(spread < FLAT, 0, cells / np.maximum(np.linalg.norm(cells, axis=1, keepdims=True), 1e-9))
