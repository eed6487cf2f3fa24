"""An image folder with an index of its own files, which `volo pack --in-place` has made: opened without listing it."""

import os
from pathlib import Path
from typing import Any

from volo.data.folders.image import Unreadable
from volo.data.folders.imagefolder import fingerprint
from volo.data.folders.layout import TRAIN
from volo.data.folders.listing import is_systems
from volo.data.folders.passed_over import Kind, PassedOver
from volo.data.packed import IN_PLACE
from volo.data.packed.index import Index, read_index
from volo.data.packed.source import PackedFolder
from volo.errors import InputError, first_of
from volo.settings.paths import folder_to_read

ROOT = "<root>"  # in texts, so that the folder may be reached by another path
AGAIN = f"run volo pack --in-place again, or remove {IN_PLACE} from it"
SHOWN = 8


class IndexedFolder(PackedFolder):
    """The split `train` or `test` of an image folder with an index; a `Source`.

    It is that of `ImageFolder`, image by image, so a run trained on either goes on with the other. Folders whose
    entries have changed since are found when it is opened, and a file that has changed when it is read.

    Raises:
        InputError: as `read_index`; folders that have changed.
        NoTestSplit: there is no test split.
    """

    kind = "indexed images"

    def _open(self, data_dir: str | Path, split: str) -> None:
        self.root = folder_to_read(data_dir, "--data-dir")
        self.place = str(self.root)
        index = read_index(self.root, name=IN_PLACE)
        _check_unchanged(self.root, index)
        self._take(index, split)
        found = index.found["splits"][split]
        self.place, self.num_listed = self._here(found["place"]), found["num_listed"]
        kinds = {reason: Kind(number, self._here(example)) for reason, number, example in found["passed_over"]}
        self.passed_over = PassedOver(kinds)
        self.notes = tuple(map(self._here, found["said"])) + (tuple(self._judged()) if split == TRAIN else ())

    def fingerprint(self) -> str:
        return fingerprint(self.root, self._cut())

    def name_of(self, number: int) -> str:
        path = self._index.table.column("path")[self._first + number].as_py()
        return os.path.join(self.root, os.fsdecode(path))

    def file_of(self, number: int) -> str:
        """Raises Unreadable for a file that has changed, or is gone."""
        file, row = self.name_of(number), self._first + number
        known = [self._index.table.column(name)[row].as_py() for name in ("length", "modified_ns")]
        try:
            stat = os.stat(file)
        except OSError as error:
            raise Unreadable(file, f"{error.strerror}, since its folder was indexed: {AGAIN}") from None
        if [stat.st_size, stat.st_mtime_ns] != known:
            raise Unreadable(file, f"it has changed since its folder was indexed: {AGAIN}")
        return file

    def _here(self, text: str) -> str:
        return text.replace(ROOT, str(self.root))


def entries_of(root: Path) -> list[str]:
    """What lies directly in a folder, sorted."""
    return sorted(name for name in os.listdir(root) if not (is_systems(name) or name.startswith(".")))


def _check_unchanged(root: Path, index: Index) -> None:
    found: dict[str, Any] = index.found
    changed = [path for path, modified_ns in found["folders"] if _modified(root / path) != modified_ns]
    if entries_of(root) != found["entries"]:
        changed.insert(0, str(root))
    if changed:
        folders = f"{len(changed):,} folder{'s' * (len(changed) > 1)}"
        raise InputError(
            f"an image folder must be as it was when it was indexed, got {folders} in {root} whose entries have "
            f"changed: {first_of(changed, SHOWN)}; {AGAIN}"
        )


def _modified(path: Path) -> int:
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return -1
