"""Which images a data set holds, so that a run knows them again: on any machine, in any folder, at any time."""

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from volo.errors import first_of

SHOWN = 8
Name = str | tuple[str, str]  # of an image, before and now if they differ


class Item(NamedTuple):
    """An image file, or a file of an archive that holds many images.

    Attributes:
        name: Its path below the data folder, which for an image names its class.
        size: In bytes; 0 for an archive's file.
        digest: Of its content, after the way it was read (volo/data/folders/reading.py); empty if it was not read.
    """

    name: str
    size: int
    digest: str


class Contents:
    """The images of a data set in the order of its listing.

    Args:
        text: A line of JSON for each image; or a function that makes it, called when it is needed.
        digest: sha256 of the text, if it is known already.
    """

    def __init__(self, text: bytes | Callable[[], bytes] = b"", digest: str | None = None):
        self._text, self._digest = text, digest

    @classmethod
    def of(cls, items: Iterable[Item]) -> "Contents":
        return cls(text_of(items))

    @cached_property
    def text(self) -> bytes:
        return self._text() if callable(self._text) else self._text

    @cached_property
    def digest(self) -> str:
        """sha256: equal if and only if the images are, as far as they were read. Empty if nothing is known of them."""
        if self._digest is not None:
            return self._digest
        return hashlib.sha256(self.text).hexdigest() if self.text else ""

    def items(self) -> list[Item]:
        return [Item(*json.loads(line)) for line in self.text.splitlines()]


def text_of(items: Iterable[Item]) -> bytes:
    return b"".join(json.dumps(item).encode() + b"\n" for item in items)


@dataclass(frozen=True)
class Differences:
    """Names of images: only before, only now, with another content, and pairs of names of one content."""

    missing: list[str]
    added: list[str]
    changed: list[str]
    moved: list[tuple[str, str]]

    @classmethod
    def between(cls, before: Contents, now: Contents) -> "Differences":
        old, new = ({item.name: item for item in contents.items()} for contents in (before, now))
        missing = [item for name, item in old.items() if name not in new]
        added = [item for name, item in new.items() if name not in old]
        moved = _same_content(missing, added)
        gone, come = {name for name, _ in moved}, {name for _, name in moved}
        return cls(
            missing=[item.name for item in missing if item.name not in gone],
            added=[item.name for item in added if item.name not in come],
            changed=[name for name, item in old.items() if name in new and _differs(item, new[name])],
            moved=moved,
        )

    def in_words(self, missing: str = "missing", added: str = "added") -> str:
        """How many images differ in each way, and the names of some."""
        changes: dict[str, Sequence[Name]] = {"changed": self.changed, "moved": self.moved}
        changes |= {missing: self.missing, added: self.added}
        found = [
            f"{len(names):,} {kind} ({first_of(_shown(names), SHOWN)})" for kind, names in changes.items() if names
        ]
        return ", ".join(found) or "the same images in another order"


def _shown(names: Sequence[Name]) -> list[str]:
    """Names, and pairs of them, as they may be printed."""
    pairs = [(name,) if isinstance(name, str) else name for name in names]
    return [" to ".join(name if name.isprintable() else ascii(name) for name in pair) for pair in pairs]


def _same_content(missing: list[Item], added: list[Item]) -> list[tuple[str, str]]:
    """Pairs of names of one content, each in one pair."""
    names = defaultdict(list)
    for item in reversed(added):
        names[item.size, item.digest].append(item.name)
    return [
        (item.name, names[item.size, item.digest].pop())
        for item in missing
        if item.digest and names[item.size, item.digest]
    ]


def _differs(one: Item, other: Item) -> bool:
    """By content only if both were read in the same way: a data set that grew may be read in another."""
    if one.size != other.size:
        return True
    ways = [item.digest.partition(":")[0] for item in (one, other)]
    return one.digest != other.digest and ways[0] == ways[1]
