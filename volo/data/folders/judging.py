"""What stands out in an image folder: sizes that do not fit the training, classes of very different sizes."""

from collections.abc import Sequence

import numpy as np

from volo.data.folders.class_names import quoted
from volo.data.folders.formats import opened
from volo.data.folders.parts import Part

NUM_OPENED = 64  # images; of files, only their headers are read
MUCH_LARGER, SIZES = 2, (32, 48, 64, 96, 128, 160, 192, 224)
UNEVEN = 5  # this many times as many images in the largest class as in the smallest


def evenly_spaced(total: int, most: int = NUM_OPENED) -> list[int]:
    """The numbers of the images, or of other things, that are looked at."""
    return np.linspace(0, total - 1, min(most, total)).astype(int).tolist()


def size_notes(files: Sequence[str | Part], image_size: int) -> list[str]:
    """Says if most of these images are far larger than `image_size`, or smaller."""
    sides = _shorter_sides(files)
    if not len(sides):
        return []
    median = int(np.median(sides))
    if median >= MUCH_LARGER * image_size:
        larger = _at_most(median)
        remedy = f"; --image-size {larger}, say, would keep more of them" if larger > image_size else ""
        found = f"half of the images have {median:,} pixels or more on the shorter side, of which {image_size} remain"
        return [found + remedy]
    if median < image_size:
        return [f"half of the images have {median:,} pixels or fewer on the shorter side, enlarged to {image_size}"]
    return []


def fitting_size(files: Sequence[str | Part]) -> int | None:
    """The largest of SIZES, in pixels, that the shorter sides of half of these images reach, or the smallest; None if
    none can be opened."""
    sides = _shorter_sides(files)
    return _at_most(int(np.median(sides))) if len(sides) else None


def _at_most(pixels: int) -> int:
    return max(size for size in SIZES if size <= max(pixels, SIZES[0]))


def class_notes(labels: np.ndarray, class_names: tuple[str, ...]) -> list[str]:
    """Says if some classes have far fewer images than others."""
    counts = np.bincount(labels, minlength=len(class_names))
    least, most = int(counts.argmin()), int(counts.argmax())
    if counts[most] < UNEVEN * counts[least]:
        return []
    return [
        f"classes are uneven: {counts[least]:,} images of {quoted([class_names[least]], class_names)}, "
        f"{counts[most]:,} of {quoted([class_names[most]], class_names)}"
    ]


def _shorter_sides(files: Sequence[str | Part]) -> np.ndarray:
    """(n,) pixels, of the files that can be opened."""
    sides = []
    for file in files:
        try:
            with opened(file) as image:
                sides.append(min(image.size))
        except Exception:  # a damaged file can raise nearly anything, and is named when it is read
            continue
    return np.array(sides)
