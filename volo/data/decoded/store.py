"""Decoded images on this node's disk, added as they are needed: rows of one shape, each under a key.

    <folder>/images.bin    the rows, uint8, one after another
    <folder>/keys.bin      16 bytes per row: which image it holds

A row counts once its key is written, and keys are written after their rows are on disk. An interrupted decoding
therefore loses only the rows since the last commit, which are overwritten.
"""

import math
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np

KEY = np.dtype("S16")
COMMIT_BYTES = 2**28


class Store:
    """The current rows of a folder. Hold a lock on the folder while adding rows.

    Args:
        folder: Need not exist.
        shape: The shape of a row: (H, W, 3).
    """

    def __init__(self, folder: Path, shape: tuple[int, ...]):
        self.folder, self.shape, self.row_bytes = folder, shape, math.prod(shape)
        self._images, self._keys = folder / "images.bin", folder / "keys.bin"
        self.keys = self._read_keys()

    def rows(self, keys: np.ndarray) -> np.ndarray:
        """(N,) keys -> (N,) int64, the rows of their images; -1 if there is none."""
        if not len(self.keys):
            return np.full(len(keys), -1)
        order = np.argsort(self.keys, kind="stable")
        found = order[np.searchsorted(self.keys, keys, sorter=order).clip(max=len(order) - 1)]
        return np.where(self.keys[found] == keys, found, -1)

    def images(self) -> np.ndarray:
        """(rows, H, W, 3) uint8, a read-only memory map."""
        shape = (len(self.keys), *self.shape)
        return np.memmap(self._images, np.uint8, "r", shape=shape) if len(self.keys) else np.zeros(shape, np.uint8)

    def add(self, parts: Iterable[tuple[np.ndarray, np.ndarray]]) -> None:
        """Appends rows, given as (n,) keys and (n, H, W, 3) images. Rows before an error are kept, unless the disk
        failed."""
        added: list[np.ndarray] = []
        with open(self._images, "r+b" if self._images.exists() else "wb") as file:
            file.seek(len(self.keys) * self.row_bytes)
            file.truncate()
            try:
                for keys, images in parts:
                    file.write(np.ascontiguousarray(images).data)
                    added.append(keys)
                    if sum(map(len, added)) * self.row_bytes >= COMMIT_BYTES:
                        self._commit(file, added)
            except OSError:
                raise
            except BaseException:
                self._commit(file, added)
                raise
            self._commit(file, added)

    def _commit(self, file, added: list[np.ndarray]) -> None:
        file.flush()
        os.fsync(file.fileno())
        self.keys = np.concatenate([self.keys, *added])
        with open(self._keys, "r+b" if self._keys.exists() else "wb") as keys:
            keys.seek((len(self.keys) - sum(map(len, added))) * KEY.itemsize)
            keys.truncate()
            keys.write(np.concatenate([np.zeros(0, KEY), *added]).tobytes())
            keys.flush()
            os.fsync(keys.fileno())
        added.clear()

    def _read_keys(self) -> np.ndarray:
        try:
            size, content = self._images.stat().st_size, self._keys.read_bytes()
        except FileNotFoundError:
            return np.zeros(0, KEY)
        num_rows = min(size // self.row_bytes, len(content) // KEY.itemsize)
        return np.frombuffer(content, KEY, num_rows)
