"""The index of tars that are read where they are: made by one pass over their headers, and kept in the cache.

    <cache>/tars/<of the folder>/<of the tars and their times>/index.arrow, found.json

It is that of packed images (volo/data/packed/index.py), so what reads those reads tars as well.
"""

import hashlib
import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from volo.cache import OTHER_PLACE, place_of_copies
from volo.console import Progress
from volo.data.folders.passed_over import Kind, PassedOver
from volo.data.packed.index import Index, read_index
from volo.data.tars.building import built
from volo.data.tars.labels import read_classes
from volo.data.tars.layout import CLASSES, Tar, TarLayout
from volo.data.tars.members import DamagedTar
from volo.data.tars.samples import TarContents, read_samples
from volo.errors import InputError, first_of
from volo.files import commit, read_json, remove, staging
from volo.locks import waited_for

VERSION = 1  # of what is read from a tar
FOUND, PROGRESS = "found.json", "progress"
MEGABYTE = 10**6
EVERY = 4 * MEGABYTE  # bytes between two signs of progress
SHOWN = 8


@dataclass(frozen=True)
class TarIndex:
    """An index, and what else is known of the tars.

    Attributes:
        passed_over, num_listed: What is no image, and how many are, in the tars of each split.
        notes: What the user should know, each a sentence without its period.
    """

    index: Index
    passed_over: dict[str, PassedOver]
    num_listed: dict[str, int]
    notes: tuple[str, ...]


def open_index(layout: TarLayout) -> TarIndex:
    """The index of a folder's tars, which one process makes while others wait.

    Raises:
        InputError: tars that are damaged, have no images, repeat a key, or have labels that are no classes; a cache
            that cannot be written.
    """
    class_names = read_classes(layout.root)
    place = place_of_copies("tars", str(layout.root.absolute()))
    folder = place / _state(layout, class_names)
    if found := _read(folder, layout.root):
        return found
    try:
        place.mkdir(parents=True, exist_ok=True)
        with waited_for(place / ".lock", f"indexing {layout.root}", OTHER_PLACE, lambda: _progress(place)):
            return _read(folder, layout.root) or _made(place, folder, layout, class_names)
    except OSError as error:
        raise InputError(
            f"the index of {layout.root} must fit into the cache, got {error.filename or folder} "
            f"({error.strerror or error}); {OTHER_PLACE}"
        ) from None


def _state(layout: TarLayout, class_names: tuple[str, ...]) -> str:
    """Everything that the index depends on, as the name of a folder."""
    content = json.dumps([VERSION, layout.splits, class_names])
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def _read(folder: Path, root: Path) -> TarIndex | None:
    """None if it is not there, or damaged."""
    with suppress(InputError, OSError, ValueError, KeyError, TypeError, AttributeError):
        index, found = read_index(folder, root), read_json(folder / FOUND)
        kinds = {split: {why: Kind(*kind) for why, kind in of.items()} for split, of in found["passed_over"].items()}
        passed_over = {split: PassedOver(of) for split, of in kinds.items()}
        return TarIndex(index, passed_over, found["num_listed"], tuple(found["notes"]))
    return None


def _made(place: Path, folder: Path, layout: TarLayout, class_names: tuple[str, ...]) -> TarIndex:
    """Makes an index. The caller holds the lock."""
    tars = [(split, tar) for split, of_split in layout.splits.items() for tar in of_split]
    contents = _contents(layout.root, [tar for _, tar in tars], class_names, place / PROGRESS)
    passed_over = {split: PassedOver() for split in layout.splits}
    for (split, _), found in zip(tars, contents, strict=True):
        passed_over[split].add(found.passed_over)
    for other in place.glob("?" * len(folder.name)):
        remove(other)
    with staging(folder) as partial:
        num_listed, notes = built(partial, layout, tars, contents, passed_over, class_names)
        kinds = {split: of.kinds for split, of in passed_over.items()}
        (partial / FOUND).write_text(json.dumps(dict(passed_over=kinds, num_listed=num_listed, notes=notes)))
        commit(partial, folder)
    return TarIndex(read_index(folder, layout.root), passed_over, num_listed, tuple(notes))


def _contents(root: Path, tars: list[Tar], class_names: tuple[str, ...], progress: Path) -> list[TarContents]:
    """Of each tar. Raises InputError for all that are wrong."""
    total, found, damaged = sum(tar.size for tar in tars), [], []
    with Progress("indexing", total // MEGABYTE, "MB") as shown:
        done = 0
        for tar in tars:
            beat = _Beat(progress, shown, done)
            try:
                found.append(read_samples(root / tar.file, tar.file, class_names, beat))
            except (DamagedTar, OSError) as error:
                damaged.append(f"{tar.file} ({getattr(error, 'strerror', None) or error})")
            done += tar.size
    _refuse("every tar file must be whole", "damaged", damaged, root, "copy or make them again")
    repeated = [name for one in found for name in one.repeated]
    _refuse("a key of a tar must have one image, and one label of a kind", "more", repeated, root, "remove one of each")
    mislabeled = [name for one in found for name in one.mislabeled]
    remedy = f"correct them, or name all classes in {root / CLASSES}, one in a line"
    _refuse("a label must be the number of a class, or its name", "others", mislabeled, root, remedy)
    return found


def _refuse(rule: str, called: str, wrong: list[str], root: Path, remedy: str) -> None:
    if wrong:
        raise InputError(f"{rule}, got {len(wrong):,} {called} in {root}: {first_of(wrong, SHOWN)}; {remedy}")


class _Beat:
    """Shows how far the reading of a tar is, and tells it to the processes that wait."""

    def __init__(self, progress: Path, shown: Progress, before: int):
        self.progress, self.shown, self.before, self.said = progress, shown, before, -EVERY

    def __call__(self, place: int) -> None:
        if place - self.said < EVERY:
            return
        self.said = place
        self.progress.touch()
        self.shown.update((self.before + place) // MEGABYTE)


def _progress(place: Path) -> object:
    with suppress(OSError):
        return (place / PROGRESS).stat().st_mtime_ns
    return None
