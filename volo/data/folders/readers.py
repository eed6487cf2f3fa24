"""Image files decoded by processes of their own (volo/data/processes.py)."""

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np

from volo.data.folders.image import Unreadable, read_image
from volo.data.processes import done_ahead

TOGETHER, TOGETHER_BYTES = 64, 2**22  # images that a process reads before it sends them, and their size
FEW = 256  # as many images are decoded before processes have started

Read = np.ndarray | str


def read_images(
    files: Sequence[str], image_size: int, resize: str, num_processes: int, crop_pct: float = 1.0
) -> Iterator[Read]:
    """Each image, (image_size, image_size, 3) uint8, or the reason why it cannot be read, in the order of the files.

    Args:
        files: Image files, read as by `read_image`.
        image_size, resize, crop_pct: As there.
        num_processes: To decode in beside this one; with one, or few files, this process decodes.
    """
    is_alone = num_processes < 2 or len(files) <= FEW
    size = 1 if is_alone else max(1, min(TOGETHER, TOGETHER_BYTES // (3 * image_size**2)))
    parts = (list(files[start : start + size]) for start in range(0, len(files), size))
    work = partial(_read_part, image_size=image_size, resize=resize, crop_pct=crop_pct)
    for read in done_ahead(work, parts, 0 if is_alone else num_processes):
        yield from read


def _read_part(part: list[str], image_size: int, resize: str, crop_pct: float) -> list[Read]:
    return [_read(file, image_size, resize, crop_pct) for file in part]


def _read(file: str, image_size: int, resize: str, crop_pct: float) -> Read:
    try:
        return read_image(file, image_size, resize, crop_pct)
    except Unreadable as error:
        return error.reason
