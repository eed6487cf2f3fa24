"""Random reads from a memory map larger than memory, without waiting for each of them."""

import os
import weakref

import numpy as np


class ReadAhead:
    """Asks the system to load all images of a batch at once; an image already in memory costs one system call.

    Without it the disk reads one page after another as they are touched, which is several times slower.

    Args:
        images: (N, H, W, C) uint8. Does nothing if this is not a memory map or the system has no such call.
    """

    def __init__(self, images: np.ndarray):
        self._file: int | None = None
        if isinstance(images, np.memmap) and images.filename is not None and hasattr(os, "posix_fadvise"):
            self._file = os.open(images.filename, os.O_RDONLY)
            self._offset, self._size = images.offset, images[0].nbytes
            weakref.finalize(self, os.close, self._file)

    def __call__(self, index: np.ndarray) -> None:
        """`index` (b,): the images that will be read next."""
        if self._file is None:
            return
        for number in np.sort(index).tolist():
            place = self._offset + number * self._size
            os.posix_fadvise(self._file, place, self._size, os.POSIX_FADV_WILLNEED)
