"""Unreadable images: everything that one pass over the data has found, in one error and one list."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from volo.errors import InputError, first_of
from volo.files import replace_synced

SHOWN = 20


@dataclass(frozen=True)
class Damage:
    """An image by its number in its split and by the name a person knows it by, and why it cannot be read."""

    number: int
    name: str
    reason: str

    def __str__(self) -> str:
        return f"{self.name} ({self.reason})"


class DamagedImages(InputError):
    """Names the first few damaged images and the file that lists all of them."""

    def __init__(self, damaged: Sequence[Damage], num_images: int, listed_in: Path | None):
        are, them = ("is", "it") if len(damaged) == 1 else ("are", "them")
        shown = "\n  " + first_of([str(damage) for damage in damaged], SHOWN, "\n  ")
        where = f"\nall are listed in {listed_in}" if listed_in and len(damaged) > 1 else ""
        super().__init__(
            f"every image must be readable, got {len(damaged):,} of {num_images:,} that {are} not:{shown}{where}"
            f"; fix or remove {them}"
        )


def noted(damaged: Sequence[Damage], path: Path) -> Path | None:
    """Writes one line per damaged image to `path` and returns it, or None if it cannot be written."""
    lines = "".join(f"{damage}\n" for damage in damaged)
    with contextlib.suppress(OSError):
        replace_synced(path, lines.encode(errors="surrogateescape"))
        return path
    return None
