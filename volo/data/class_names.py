"""Names of classes: which are the same, and in what others differ."""

import unicodedata
from collections.abc import Iterable, Sequence

NUM_NAMED = 8


def plain(name: str) -> str:
    """What names are compared by: composed letters (NFC), no blanks at the ends."""
    return unicodedata.normalize("NFC", name).strip()


def same_names(names: Sequence[str], others: Sequence[str]) -> bool:
    """Whether the names are the same, in the same order."""
    return list(map(plain, names)) == list(map(plain, others))


def places(names: Iterable[str], among: Iterable[str]) -> list[int]:
    """Of each name, its place in `among`, which must hold it."""
    place = {plain(name): number for number, name in enumerate(among)}
    return [place[plain(name)] for name in names]


def differences(names: Iterable[str], others: Iterable[str]) -> str:
    """The names that only one of the two has, quoted, and those that look alike; empty if there are none."""
    own, foreign = set(map(plain, names)), set(map(plain, others))
    return f"not in both: {_quoted(own ^ foreign)}{_alike(own - foreign, foreign - own)}" if own != foreign else ""


def unknown(names: Iterable[str], among: Iterable[str]) -> str:
    """The names that are not among the others, quoted, and those of both that look alike; empty if there are none."""
    own, known = set(map(plain, names)), set(map(plain, among))
    return f"{_quoted(own - known)}{_alike(known - own, own - known)}" if own - known else ""


def _quoted(names: set[str]) -> str:
    more = f" and {len(names) - NUM_NAMED:,} more" if len(names) > NUM_NAMED else ""
    return ", ".join(map(repr, sorted(names)[:NUM_NAMED])) + more


def _alike(names: set[str], others: set[str]) -> str:
    """The first two that a person may take for the same."""
    looks = {_look(name): name for name in others}
    for name in sorted(names):
        if other := looks.get(_look(name)):
            return f" ({name!a} and {other!a} differ in case, width, blanks or invisible letters)"
    return ""


def _look(name: str) -> str:
    visible = (letter for letter in unicodedata.normalize("NFKC", name) if unicodedata.category(letter) != "Cf")
    return "".join("".join(visible).casefold().split())
