"""Packed images as a data set: what `volo pack` made of an image folder."""

from pathlib import Path

import numpy as np

from volo.data.contents import Contents
from volo.data.decoded.store import KEY
from volo.data.folders.encoded import EncodedImages
from volo.data.folders.layout import TEST, TRAIN, NoTestSplit
from volo.data.folders.parts import Part
from volo.data.folders.passed_over import PassedOver
from volo.data.packed.index import Index, read_index


class PackedFolder(EncodedImages):
    """The split `train` or `test` of packed images; a `Source`.

    It has the images of the folder that was packed, by the same numbers, so a run trained on either goes on with the
    other. An image's name is its path below that folder.

    Raises:
        InputError: as `read_index`.
        NoTestSplit: there is no test split.
    """

    kind = "packed images"  # in messages

    def _open(self, data_dir: str | Path, split: str) -> None:
        self.place, self.passed_over = str(data_dir), PassedOver()
        self._take(read_index(data_dir), split)
        self.notes = self._noted() if split == TRAIN else ()

    def _take(self, index: Index, split: str) -> None:
        if split not in index.splits:
            raise NoTestSplit(
                f"{self.kind} must have a {split} split, got {', '.join(index.splits)} in {self.place}; use --split "
                "val, or pass labeled images with --data-dir"
            )
        self._index, self._about, (self._first, self._stop) = index, index.splits[split], index.rows(split)
        self.class_names, self.is_split_here = self._about.class_names, index.is_split_here
        self.labels = index.column("label", self._first, self._stop).astype(np.int64)
        self.num_listed = len(self.labels)
        if self._about.num_val:
            self.held_out = np.arange(len(self.labels) - self._about.num_val, len(self.labels))

    def _noted(self) -> tuple[str, ...]:
        notes = [f"{self._about.num_val:,} validation images among those packed"] if self._about.num_val else []
        if self.is_split_here:
            tested = self._index.splits[TEST].num_images if TEST in self._index.splits else 0
            notes.append(f"{tested:,} images were held out as a test split when the folder was packed")
        return (*notes, *self._judged())

    def fingerprint(self) -> str:
        return f"packed 1 {self._cut()} {self._about.contents}"

    def keys(self) -> np.ndarray:
        return self._index.digests(self._first, self._stop, KEY)

    def contents(self, num_images: int | None = None) -> Contents:
        stop = self._stop if num_images is None else self._first + num_images
        known = self._about.contents if stop == self._stop else None
        return Contents(lambda: self._index.text(self._first, stop), known)

    def sizes(self) -> np.ndarray:
        return self._index.column("length", self._first, self._stop).astype(np.int64)

    def name_of(self, number: int) -> str:
        return self._index.name(self._first + number)

    def file_of(self, number: int) -> str | Part:
        return self._index.part(self._first + number)
