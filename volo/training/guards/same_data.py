"""Checks before the first step that all ranks train on the same data: each reads the disk of its own node."""

import hashlib
import json
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from volo.data.contents import Contents, Differences
from volo.data.decoded.cache import Images
from volo.data.splits import Split
from volo.errors import InputError, first_of
from volo.runs.folder import open_data
from volo.settings.config import ResolvedSettings
from volo.settings.data import PLACE_HERE, ResolvedData
from volo.training.world import World

SHOWN = 8
REMEDY = (
    f"make the folders the same on all nodes, or have {PLACE_HERE} name the right one on a node, set there before "
    "`ray start`"
)


@dataclass(frozen=True)
class Seen:
    """What one process found on its disk; `digests` of the classes, images, and split, by these names.

    Attributes:
        place: Where, if $VOLO_DATA_DIR says so.
    """

    host: str
    refusal: str | None
    digests: dict[str, str]
    in_words: str = ""
    place: str = ""

    def __str__(self) -> str:
        return f"{self.in_words} in {self.place}" if self.place else self.in_words


@dataclass(frozen=True)
class Reference:
    """What the process that starts a training found on its disk: all ranks must find the same.

    Attributes:
        contents: Asks it for its images, to name those that differ; None if nobody knows them.
    """

    seen: Seen
    contents: Callable[[], Contents | None]


def open_same_data(
    settings: ResolvedSettings, world: World, reference: Reference | None = None
) -> tuple[Images, Split]:
    """Opens the data as `open_data` does; all ranks call this.

    Args:
        reference: What to compare with; None: with what rank 0 has.

    Raises:
        InputError: on every rank, if any rank cannot open its data or has other data.
    """
    opened, refusal = None, None
    try:
        opened = open_data(settings)
    except InputError as error:
        if world.size == 1 and reference is None:
            raise
        refusal = str(error)
    if world.size > 1 or reference is not None:
        _check(settings, world, opened, refusal, reference)
    assert opened is not None
    return opened


def seen_here(data: Images, split: Split, settings: ResolvedData) -> Seen:
    """What this process has found.

    Args:
        settings: Of the data.
    """
    more = f", {len(data.damaged):,} left out as damaged" if data.damaged else ""
    words = in_short(len(data), data.class_names, split, more)
    return Seen(platform.node(), None, data_digests(data, split), words, own_place(settings))


def own_place(settings: ResolvedData) -> str:
    """Where this machine has the data, if $VOLO_DATA_DIR says so; otherwise empty."""
    place = settings.here().data_dir
    return "" if place is None or place == settings.data_dir else place


def data_digests(data: Images, split: Split) -> dict[str, str]:
    """Digests of classes, images, and split; equal if and only if the data are, on any machine and in any folder."""
    return digests_of(data.class_names, data.contents, split)


def digests_of(class_names: Sequence[str], contents: Contents, split: Split) -> dict[str, str]:
    """As `data_digests`, of data that are not decoded."""
    return {
        "classes": _digest(class_names),
        "images": contents.digest,
        "split": split.digest(),
    }


def differing(one: Seen, other: Seen) -> list[str]:
    """What differs, of that which both know."""
    return [name for name, digest in one.digests.items() if other.digests.get(name, digest) != digest]


def _check(
    settings: ResolvedSettings,
    world: World,
    opened: tuple[Images, Split] | None,
    refusal: str | None,
    reference: Reference | None,
) -> None:
    own = seen_here(*opened, settings.data) if opened else Seen(platform.node(), refusal, {})
    seen = world.gather(own)
    for rank, one in enumerate(seen):
        if one.refusal is not None:
            raise InputError(f"rank {rank} on {one.host}: {one.refusal}")
    first = reference.seen if reference else seen[0]
    others = [rank for rank, one in enumerate(seen) if differing(first, one)]
    if others:
        assert opened is not None, "no rank was refused its data"
        raise InputError(_difference(world, seen, others, opened[0].contents, reference))


def _difference(world: World, seen: list[Seen], others: list[int], own: Contents, reference: Reference | None) -> str:
    first, other = reference.seen if reference else seen[0], seen[others[0]]
    where = "where the training was started," if reference else "on rank 0 on"
    ranks = first_of([f"{rank} on {seen[rank].host}" for rank in others], SHOWN)
    return (
        f"all ranks must have the same data, got {first} {where} {first.host}, but others on "
        f"rank{'s' * (len(others) > 1)} {ranks}: {other} on rank {others[0]}. They differ in "
        f"{' and '.join(differing(first, other))}{_named(world, others[0], own, reference)}; {REMEDY}"
    )


def _named(world: World, other: int, own: Contents, reference: Reference | None) -> str:
    """How the images of rank `other` differ from the reference's or rank 0's, in words; all ranks call this."""
    first = world.from_main(own) if reference is None else None
    words = ""
    if world.rank == other:
        before = reference.contents() if reference else first
        if before is not None and before.digest != own.digest:
            only_on = ["only where it was started" if reference else "only on rank 0", f"only on rank {other}"]
            words = f": {Differences.between(before, own).in_words(*only_on)}"
    return world.gather(words)[other]


def in_short(num_images: int, class_names: Sequence[str], split: Split, more: str = "") -> str:
    return (
        f"{num_images:,} images of {len(class_names)} classes ({len(split.train):,} to train on, "
        f"{len(split.val):,} to validate{more})"
    )


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()
