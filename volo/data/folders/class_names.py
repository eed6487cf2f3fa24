"""Names of classes: which are the same, and in what others differ."""

import unicodedata
from collections.abc import Iterable, Sequence

from volo.errors import first_of

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


def extra(names: Iterable[str], others: Iterable[str]) -> list[str]:
    """Those of the names that the others do not have."""
    known = set(map(plain, others))
    return [name for name in names if plain(name) not in known]


def differences(names: Sequence[str], others: Sequence[str]) -> str:
    """The names that only one of the two has, in words; empty if there are none."""
    own, foreign = extra(names, others), extra(others, names)
    return f"not in both: {quoted(sorted(own + foreign), foreign)}" if own or foreign else ""


def quoted(names: Sequence[str], others: Iterable[str]) -> str:
    """The first of some names in quotes, and two of them and the others that a person may take for the same."""
    return first_of([repr(name) for name in names], NUM_NAMED) + _alike(names, others)


def _alike(names: Iterable[str], others: Iterable[str]) -> str:
    looks = {_look(name): name for name in others}
    for name in names:
        if (other := looks.get(_look(name), name)) != name:
            return f" ({name!a} and {other!a} differ in case, width, blanks or invisible letters)"
    return ""


def _look(name: str) -> str:
    visible = (letter for letter in unicodedata.normalize("NFKC", name) if unicodedata.category(letter) != "Cf")
    return "".join("".join(visible).casefold().split())
