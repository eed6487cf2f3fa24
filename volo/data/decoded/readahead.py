"""Reading a memory map larger than the memory, at random places, without waiting for each."""

import os
import weakref

import numpy as np


class ReadAhead:
    """Asks the system for all images of a batch at once; what is in memory already costs a call.

    Without it a disk is asked for one page after the other, as they are touched, and answers several times slower.

    Args:
        images: (N, H, W, 3) uint8. Where it is no memory map, or the system takes no such advice, nothing is done.
    """

    def __init__(self, images: np.ndarray):
        self._file: int | None = None
        if isinstance(images, np.memmap) and images.filename is not None and hasattr(os, "posix_fadvise"):
            self._file = os.open(images.filename, os.O_RDONLY)
            self._offset, self._size = images.offset, images[0].nbytes
            weakref.finalize(self, os.close, self._file)

    def __call__(self, index: np.ndarray) -> None:
        """`index` (b,): which images will be looked at next."""
        if self._file is None:
            return
        for number in np.sort(index).tolist():
            place = self._offset + number * self._size
            os.posix_fadvise(self._file, place, self._size, os.POSIX_FADV_WILLNEED)
