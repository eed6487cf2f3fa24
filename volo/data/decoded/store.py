"""Decoded images on this node's disk, added as they are needed: rows of one shape, each under a key, with checksums.

    <folder>/images.bin    the rows, uint8, one after another
    <folder>/index.bin     24 bytes per row: its key, the checksum of its pixels, and the checksum of these two

A row counts once its record is written, and records are written after their rows are on disk. An interrupted decoding
therefore loses only the rows since the last commit, which are overwritten.

Other processes have mapped the rows, so a row that counts is never changed. One that is damaged is forgotten (its
record becomes zeros) and its image is added again; files that do not fit together are removed and made again, and who
has mapped the old ones keeps those.
"""

import math
import os
import stat
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

import numpy as np

from volo.files import delete

KEY = np.dtype("S16")
RECORD = np.dtype([("key", KEY), ("pixels", "<u4"), ("record", "<u4")])
SUMMED = RECORD.itemsize - 4  # bytes of a record that its last four are the checksum of
COMMIT_BYTES = 2**28
SAMPLE_BYTES = 2**30  # of the rows to be used, as many are checked when a process opens them


class Store:
    """The current rows of a folder. Hold a lock on the folder while changing it.

    Args:
        folder: Need not exist.
        shape: The shape of a row: (H, W, C).

    Attributes:
        flaw: Why no row of the folder counts although there are files; empty if they fit together.
    """

    def __init__(self, folder: Path, shape: tuple[int, ...]):
        self.folder, self.shape, self.row_bytes = folder, shape, math.prod(shape)
        self._images, self._index = folder / "images.bin", folder / "index.bin"
        self._seed = zlib.crc32(f"uint8 {shape}".encode())  # a store of another shape or type has no valid record
        records, self.flaw = self._read()
        self._set(records)

    def rows(self, keys: np.ndarray) -> np.ndarray:
        """(N,) keys -> (N,) int64, the rows of their images; -1 if there is none."""
        if not len(self._keys):
            return np.full(len(keys), -1)
        order = np.argsort(self._keys, kind="stable")
        found = order[np.searchsorted(self._keys, keys, sorter=order).clip(max=len(order) - 1)]
        return np.where(self._keys[found] == keys, found, -1)

    def used(self) -> np.ndarray:
        """(n,) int64, all rows that count."""
        return np.flatnonzero(self._keys != b"")

    def opened(self) -> BinaryIO:
        """The file of the images, to check and map the same one even if it is replaced meanwhile."""
        return open(self._images, "rb")

    def images(self, file: BinaryIO | None = None) -> np.ndarray:
        """(rows, H, W, C) uint8, a read-only memory map of `file`, or of the current one."""
        shape = (len(self._keys), *self.shape)
        return np.memmap(file or self._images, np.uint8, "r", shape=shape) if shape[0] else np.zeros(shape, np.uint8)

    def sample(self, rows: np.ndarray) -> np.ndarray:
        """The rows to check before they are used: all, or, evenly spaced, as many as have SAMPLE_BYTES."""
        num_rows = max(1, SAMPLE_BYTES // self.row_bytes)
        return rows if len(rows) <= num_rows else rows[np.linspace(0, len(rows) - 1, num_rows).astype(np.int64)]

    def damaged(self, rows: np.ndarray, file: BinaryIO | None = None) -> np.ndarray:
        """(n,) rows -> those whose pixels in `file`, or the current one, are not the ones that were stored. Raises
        OSError if the disk fails."""
        if not len(rows):
            return rows
        if file is None:
            with self.opened() as file:
                return self.damaged(rows, file)
        sums, size, handle = self._records["pixels"], self.row_bytes, file.fileno()
        return rows[[zlib.crc32(os.pread(handle, size, row * size)) != sums[row] for row in rows.tolist()]]

    def add(self, parts: Iterable[tuple[np.ndarray, np.ndarray]]) -> None:
        """Appends rows, given as (n,) keys and (n, H, W, C) images. Rows before an error are kept, unless the disk
        failed."""
        added: list[np.ndarray] = []
        if not len(self._records):
            self._images.unlink(missing_ok=True)
        with open(self._images, "r+b" if len(self._records) else "wb") as file:
            file.seek(len(self._records) * self.row_bytes)
            try:
                for keys, images in parts:
                    rows = np.ascontiguousarray(images)
                    file.write(rows.data)
                    added.append(self._recorded(keys, rows))
                    if sum(map(len, added)) * self.row_bytes >= COMMIT_BYTES:
                        self._commit(file, added)
            except OSError:
                raise
            except BaseException:
                self._commit(file, added)
                raise
            self._commit(file, added)

    def forget(self, rows: np.ndarray) -> None:
        """These rows no longer count."""
        with open(self._index, "r+b") as file:
            for row in rows.tolist():
                file.seek(row * RECORD.itemsize)
                file.write(bytes(RECORD.itemsize))
            file.flush()
            os.fsync(file.fileno())
        self._records[rows] = np.zeros((), RECORD)
        self._set(self._records)

    def discard(self) -> None:
        """No row counts any longer. Removes the files, whatever they are."""
        for path in (self._index, self._images) if self.folder.is_dir() else (self.folder,):
            delete(path)
        self.folder.mkdir(exist_ok=True)
        self._set(np.zeros(0, RECORD))
        self.flaw = ""

    def _commit(self, file, added: list[np.ndarray]) -> None:
        file.flush()
        os.fsync(file.fileno())
        new = np.concatenate([np.zeros(0, RECORD), *added])
        with open(self._index, "r+b" if self._index.exists() else "wb") as index:
            index.seek(len(self._records) * RECORD.itemsize)
            index.truncate()
            index.write(new.tobytes())
            index.flush()
            os.fsync(index.fileno())
        self._set(np.concatenate([self._records, new]))
        added.clear()

    def _set(self, records: np.ndarray) -> None:
        self._records, self._keys = records, np.ascontiguousarray(records["key"])

    def _recorded(self, keys: np.ndarray, rows: np.ndarray) -> np.ndarray:
        records = np.zeros(len(keys), RECORD)
        records["key"] = keys
        records["pixels"] = [zlib.crc32(row.data) for row in rows]
        records["record"] = self._sums(records)
        return records

    def _sums(self, records: np.ndarray) -> np.ndarray:
        """(n,) uint32, what the checksums of these records must be."""
        view = memoryview(records.tobytes())
        starts = range(0, len(view), RECORD.itemsize)
        return np.array([zlib.crc32(view[start : start + SUMMED], self._seed) for start in starts], np.uint32)

    def _read(self) -> tuple[np.ndarray, str]:
        """The records, and the flaw that leaves none."""
        records, flaw = np.zeros(0, RECORD), ""
        if self.folder.exists() and not self.folder.is_dir():
            return records, f"{self.folder} is not a folder"
        index_bytes, image_bytes = _length(self._index), _length(self._images)
        num_rows, rest = divmod(index_bytes, RECORD.itemsize)
        if index_bytes < 0 or image_bytes < 0:
            flaw = f"{self._index if index_bytes < 0 else self._images} is not a file"
        elif num_rows * self.row_bytes > image_bytes:
            flaw = f"{self._images} has {image_bytes:,} bytes, not the {num_rows * self.row_bytes:,} of its index"
        elif num_rows or rest:
            records = self._read_index(num_rows)
            is_valid = (records["record"] == self._sums(records)) | (records == np.zeros((), RECORD))
            if rest or len(records) < num_rows or not is_valid.all():
                records, flaw = records[:0], f"{self._index} is damaged"
        return records, flaw

    def _read_index(self, num_rows: int) -> np.ndarray:
        """So many records; fewer if another process, which holds the lock, is just removing them."""
        try:
            with open(self._index, "rb") as file:
                content = bytearray(file.read(num_rows * RECORD.itemsize))
        except FileNotFoundError:
            content = bytearray()
        return np.frombuffer(content, RECORD, len(content) // RECORD.itemsize)


def _length(path: Path) -> int:
    """Bytes of a file: 0 if there is none, -1 if it is something else."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return 0
    return found.st_size if stat.S_ISREG(found.st_mode) else -1
