"""Class names: which are the same, and how the others differ."""

import unicodedata
from collections.abc import Iterable, Sequence

from volo.errors import first_of

NUM_NAMED = 8


def plain(name: str) -> str:
    """The form in which names are compared: composed letters (NFC), no leading or trailing whitespace."""
    return unicodedata.normalize("NFC", name).strip()


def is_text(name: str) -> bool:
    """Whether a class may have this name: not empty, without control characters and bytes that are no text."""
    return bool(name) and not any(unicodedata.category(letter) in ("Cc", "Cs") for letter in name)


def same_names(names: Sequence[str], others: Sequence[str]) -> bool:
    """Whether the names are the same, in the same order."""
    return list(map(plain, names)) == list(map(plain, others))


def places(names: Iterable[str], among: Iterable[str]) -> list[int]:
    """The index of each name in `among`, which must contain it."""
    place = {plain(name): number for number, name in enumerate(among)}
    return [place[plain(name)] for name in names]


def extra(names: Iterable[str], others: Iterable[str]) -> list[str]:
    """The names that are missing from `others`."""
    known = set(map(plain, others))
    return [name for name in names if plain(name) not in known]


def differences(names: Sequence[str], others: Sequence[str]) -> str:
    """The names that appear in only one of the two, in words; empty if there are none."""
    own, foreign = extra(names, others), extra(others, names)
    return f"not in both: {quoted(sorted(own + foreign), foreign)}" if own or foreign else ""


def quoted(names: Sequence[str], others: Iterable[str]) -> str:
    """The first few names in quotes, and a pair from `names` and `others` that looks the same to a person, if any."""
    return first_of([repr(name) for name in names], NUM_NAMED) + _alike(names, others)


def _alike(names: Iterable[str], others: Iterable[str]) -> str:
    looks = {_look(name): name for name in others}
    for name in names:
        if (other := looks.get(_look(name), name)) != name:
            return f" ({name!a} and {other!a} differ in case, width, whitespace or invisible characters)"
    return ""


def _look(name: str) -> str:
    visible = (letter for letter in unicodedata.normalize("NFKC", name) if unicodedata.category(letter) != "Cf")
    return "".join("".join(visible).casefold().split())
