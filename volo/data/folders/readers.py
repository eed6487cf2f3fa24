"""Image files decoded by processes of their own (volo/data/processes.py)."""

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np

from volo.data.folders.image import Unreadable, read_image
from volo.data.folders.parts import Part
from volo.data.processes import SHELVES, SMALL, Shelf, done_ahead, inherits_memory
from volo.settings.data import RGB

TOGETHER, TOGETHER_BYTES = 64, 2**22  # images that a process reads as one part, and their size
FEW = 256  # as many images are decoded before processes have started

File = str | Part
Read = np.ndarray | str
Numbered = tuple[int, list[File]]  # a part, by its number


def read_images(
    files: Sequence[File], image_size: int, resize: str, num_processes: int, crop_pct: float = 1.0, in_chans: int = RGB
) -> Iterator[Read]:
    """Each image, (size, size, in_chans) uint8, or the reason why it cannot be read, in the order of the files.

    Args:
        files: Image files, read as by `read_image`.
        image_size, resize, crop_pct, in_chans: As there.
        num_processes: To decode in beside this one; with one, or few files, this process decodes.
    """
    read = partial(_read, image_size=image_size, resize=resize, crop_pct=crop_pct, in_chans=in_chans)
    if num_processes < 2 or len(files) <= FEW or not inherits_memory():
        yield from map(read, files)
        return
    size = max(1, min(TOGETHER, TOGETHER_BYTES // (in_chans * image_size**2)))
    shelf = Shelf(num_processes, (size, image_size, image_size, in_chans))
    parts = [(number, list(files[start : start + size])) for number, start in enumerate(range(0, len(files), size))]
    done = done_ahead(partial(_leave, read=read, shelf=shelf.number), parts, num_processes)
    for (number, _), reasons in zip(parts, done, strict=True):
        images = shelf.place(number)
        yield from [reason or images[place].copy() for place, reason in enumerate(reasons)]


def _leave(part: Numbered, read: partial, shelf: int) -> list[str]:
    """Leaves the images of a part on the shelf; returns the reason for each that cannot be read, empty for others."""
    number, files = part
    place, reasons = SHELVES[shelf].place(number), list[str]()
    for index, file in enumerate(files):
        found = read(file)
        if not isinstance(found, str):
            place[index] = found
        reasons.append(found if isinstance(found, str) else "")
    return _shortened(reasons)


def _shortened(reasons: list[str]) -> list[str]:
    """All together small, in UTF-8 and beside what a list of them takes."""
    most = SMALL // (8 * max(1, len(reasons)))
    return [reason[:most] for reason in reasons] if sum(map(len, reasons)) > SMALL // 8 else reasons


def _read(file: File, image_size: int, resize: str, crop_pct: float, in_chans: int) -> Read:
    try:
        return read_image(file, image_size, resize, crop_pct, in_chans)
    except Unreadable as error:
        return error.reason
