"""Tars of webdataset as a data set."""

from pathlib import Path

from volo.data.folders.layout import TEST, TEST_SHARE, TRAIN
from volo.data.folders.passed_over import PassedOver
from volo.data.packed.source import PackedFolder
from volo.data.tars.indexing import open_index
from volo.data.tars.layout import ALL, find_tars, nothing_to_train_on
from volo.errors import first_of
from volo.settings.paths import folder_to_read

SHOWN = 8


class TarFolder(PackedFolder):
    """The split `train` or `test` of tars (volo/data/tars/layout.py), whose images are read where they lie; a `Source`.

    It has the images of an image folder with the same classes and names of images, by the same numbers, so a run
    trained on either goes on with the other.

    Raises:
        InputError: as `find_tars` and `open_index`; no tars to train on.
        NoTestSplit: there is no test split.
    """

    kind = "tar files"

    def _open(self, data_dir: str | Path, split: str) -> None:
        self.root = folder_to_read(data_dir, "--data-dir")
        self.place, self._layout = str(self.root), find_tars(self.root)
        if split == TRAIN and not {TRAIN, ALL} & self._layout.splits.keys():
            raise nothing_to_train_on(self.root, self._layout.splits)
        found = open_index(self._layout)
        self._take(found.index, split)
        used = [ALL] if self.is_split_here else [TEST] if split == TEST else [TRAIN, self._layout.validation]
        self.num_listed = sum(found.num_listed.get(name, 0) for name in used)
        self.passed_over = PassedOver()
        for skipped in [found.passed_over[name] for name in used if name in found.passed_over]:
            self.passed_over.add(skipped)
        if split == TRAIN or self.is_split_here:
            self.passed_over.add(self._layout.passed_over)
        self.place = str(self.root) if self.is_split_here else f"{split} tars in {self.root}"
        self.notes = (*self._said(split), *(found.notes if split == TRAIN else ()))
        self.notes += tuple(self._judged()) if split == TRAIN else ()

    def _said(self, split: str) -> list[str]:
        """On the splits."""
        if self.is_split_here:
            tested = self._index.splits[TEST].num_images if TEST in self._index.splits else 0
            return [
                f"no tar in {self.root} names a split: {TEST_SHARE:.0%} of their images, chosen by name, {tested:,} of "
                f"{self.num_listed:,} images, are held out as a test split"
            ]
        if split == TEST:
            return []
        unused, num_val = self._layout.unused, self._about.num_val
        notes = [f"not used: {first_of(unused, SHOWN)} in {self.root}"] if unused else []
        return [*notes, *([f"{num_val:,} validation images in {self._layout.validation} tars"] if num_val else [])]

    def fingerprint(self) -> str:
        return f"tars 1 {self._cut()} {self.root.absolute()}"

    def name_of(self, number: int) -> str:
        return str(self.file_of(number))
