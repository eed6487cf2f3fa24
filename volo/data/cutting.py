"""Training images read and cut anew at every step, ahead of the step, by processes of their own."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import count

import numpy as np

from volo.data.crops import Cut
from volo.data.folders.parts import Part
from volo.data.processes import SHELVES, Shelf, done_ahead, inherits_memory

Shape = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Unread:
    """n images to read: each by its file, or as (H, W, in_chans) uint8 where it is decoded.

    Attributes:
        draws: (n, NUM_CROP_DRAWS), by which they are cut.
        flips: (n,) bool, which of them are mirrored.
        size: Height and width of the results, if parts are cut at random; at most that of the `Cut`, which others have.
    """

    images: list[str | Part | np.ndarray]
    draws: np.ndarray
    flips: np.ndarray
    size: int


class Cutting:
    """The images of a training's steps, of which the following ones are read meanwhile.

    Args:
        cut: How they are cut, and the largest size of a step.
        unread: What step `number` reads, counted from the beginning of the training.
        most: The largest number of images in a step.
        num_processes: That read ahead; 0: none.
    """

    def __init__(self, cut: Cut, unread: Callable[[int], Unread], most: int, num_processes: int):
        self._cut, self._unread, self._most, self._num_processes = cut, unread, most, num_processes
        self._shelf: Shelf | None = None
        self._ahead: Iterator[np.ndarray | Shape] = iter(())
        self._next = -1

    def __call__(self, number: int) -> np.ndarray:
        """(n, size, size, in_chans) uint8, the images of a step, until the next call; quick if the step is the one
        after the last.

        Raises:
            Unreadable: names the first file that cannot be read.
        """
        if number != self._next:
            self._begin(number)
        self._next = -1  # an error ends what is read ahead
        found = next(self._ahead)
        self._next = number + 1
        if isinstance(found, np.ndarray):
            return found
        assert self._shelf is not None, "only what lies on it is told by its shape"
        return _laid(self._shelf.place(number), found)

    def close(self) -> None:
        """Ends the processes."""
        self._ahead, self._next = iter(()), -1

    def _begin(self, number: int) -> None:
        """Reads from step `number` on. The shelf is a new one: earlier processes may still be writing on theirs."""
        self.close()
        self._shelf = None
        if self._num_processes and inherits_memory():
            self._shelf = Shelf(self._num_processes, (self._most * self._cut.image_size**2 * self._cut.in_chans,))
        read = partial(_read, cut=self._cut, shelf=self._shelf.number if self._shelf else None)
        self._ahead = done_ahead(read, map(self._part, count(number)), self._num_processes)

    def _part(self, number: int) -> tuple[int, Unread]:
        return number, self._unread(number)


def _read(part: tuple[int, Unread], cut: Cut, shelf: int | None) -> np.ndarray | Shape:
    """The images; or their shape, if there is a shelf on which they are left."""
    number, unread = part
    if cut.area is not None:
        cut = replace(cut, image_size=unread.size)
    images = zip(unread.images, unread.draws, unread.flips, strict=True)
    read = (_mirrored(cut.of(one, draws), flip) for one, draws, flip in images)
    if shelf is None:
        return np.stack(list(read))
    shape = (len(unread.images), cut.image_size, cut.image_size, cut.in_chans)
    place = _laid(SHELVES[shelf].place(number), shape)
    for found, image in enumerate(read):
        place[found] = image
    return shape


def _laid(place: np.ndarray, shape: Shape) -> np.ndarray:
    """The images that begin a place."""
    return place[: math.prod(shape)].reshape(shape)


def _mirrored(image: np.ndarray, flip: bool) -> np.ndarray:
    return image[:, ::-1] if flip else image
