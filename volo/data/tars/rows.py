"""The images of tars in the order of their numbers, by the names that they have as image folders: class by class, and
within a class by name."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from volo.data.folders.class_names import plain
from volo.data.tars.layout import ALL, SUFFIX
from volo.data.tars.samples import TarImage


class TarRow(NamedTuple):
    """An image: the number of its class, its path as of an image folder, and its place in the tar of this number."""

    number: int
    name: str
    tar: int
    offset: int
    length: int


@dataclass(frozen=True)
class Naming:
    """How classes are called: by the lines of `classes.txt`, or without it by their numbers."""

    lines: tuple[str, ...]

    def of(self, number: int) -> str:
        return self.lines[number] if self.lines else str(number)

    def all(self, rows: Sequence[TarRow]) -> tuple[str, ...]:
        """Of the classes of these images, in the order of their numbers."""
        return tuple(map(self.of, sorted({row.number for row in rows})))


def rows_of(split: str, tars: dict[int, tuple[str, list[TarImage]]], naming: Naming) -> tuple[list[TarRow], bool]:
    """The images of a split in order, and whether their names hold the names of tars: if some would otherwise be called
    the same, as where keys begin again in each tar.

    Args:
        tars: The name and the images of each tar, by its number.
    """
    rows = _listed(split, tars, naming, with_tars=False)
    is_repeated = any(count > 1 for count in Counter(row.name for row in rows).values())
    if is_repeated:
        rows = _listed(split, tars, naming, with_tars=True)
    return sorted(rows, key=lambda row: (row.number, row.name.split("/"))), is_repeated


def _listed(split: str, tars: dict[int, tuple[str, list[TarImage]]], naming: Naming, with_tars: bool) -> list[TarRow]:
    rows = []
    for tar, (file, images) in tars.items():
        below = file.removesuffix(SUFFIX) if with_tars else ""
        for image in images:
            name = _name(split, naming.of(image.number), below, image.name)
            rows.append(TarRow(image.number, name, tar, image.offset, image.length))
    return rows


def _name(split: str, class_name: str, below: str, member: str) -> str:
    """Such as train/cat/0001.jpg, whether the member is called that, or cat/0001.jpg, or 0001.jpg."""
    parts = member.split("/")
    for folder in (split, class_name):
        if len(parts) > 1 and plain(parts[0]) == folder != ALL:
            del parts[0]
    return "/".join(filter(None, [split, class_name, below, *parts]))
