"""Checks before the first step that all ranks train on the same data: each reads the disk of its own node."""

import hashlib
import json
import platform
from dataclasses import dataclass

from volo.data.contents import Contents, Differences
from volo.data.decoded.cache import Images
from volo.data.splits import Split
from volo.errors import InputError, first_of
from volo.runs.folder import open_data
from volo.settings.config import ResolvedSettings
from volo.training.world import World

SHOWN = 8


@dataclass(frozen=True)
class Seen:
    """What one rank found on its disk; `digests` of the classes, images, and split, by these names."""

    host: str
    refusal: str | None
    digests: dict[str, str]
    in_words: str = ""


def open_same_data(settings: ResolvedSettings, world: World) -> tuple[Images, Split]:
    """Opens the data as `open_data` does; all ranks call this.

    Raises:
        InputError: on every rank, if any rank cannot open its data or has other data than rank 0.
    """
    opened, refusal = None, None
    try:
        opened = open_data(settings)
    except InputError as error:
        if world.size == 1:
            raise
        refusal = str(error)
    if world.size > 1:
        _check(world, opened, refusal)
    assert opened is not None
    return opened


def data_digests(data: Images, split: Split) -> dict[str, str]:
    """Digests of classes, images, and split; equal if and only if the data are, on any machine and in any folder."""
    return {
        "classes": _digest(data.class_names),
        "images": data.contents.digest,
        "split": split.digest(),
    }


def _check(world: World, opened: tuple[Images, Split] | None, refusal: str | None) -> None:
    host = platform.node()
    own = Seen(host, None, data_digests(*opened), _in_words(*opened)) if opened else Seen(host, refusal, {})
    seen = world.gather(own)
    for rank, one in enumerate(seen):
        if one.refusal is not None:
            raise InputError(f"rank {rank} on {one.host}: {one.refusal}")
    others = [rank for rank, one in enumerate(seen) if one.digests != seen[0].digests]
    if others:
        assert opened is not None, "no rank was refused its data"
        raise InputError(_difference(world, seen, others, opened[0].contents))


def _difference(world: World, seen: list[Seen], others: list[int], own: Contents) -> str:
    first, other = seen[0], seen[others[0]]
    ranks = first_of([f"{rank} on {seen[rank].host}" for rank in others], SHOWN)
    what = [name for name, digest in first.digests.items() if other.digests[name] != digest]
    return (
        f"all ranks must have the same data, got {first.in_words} on rank 0 on {first.host}, but others on "
        f"rank{'s' * (len(others) > 1)} {ranks}: {other.in_words} on rank {others[0]}. They differ in "
        f"{' and '.join(what)}{_named(world, others[0], own)}; make the folders the same on all nodes"
    )


def _named(world: World, other: int, own: Contents) -> str:
    """How the images of rank `other` differ from rank 0's, in words; all ranks call this."""
    first = world.from_main(own)
    words = ""
    if world.rank == other and first.digest != own.digest:
        only_on = [f"only on rank {rank}" for rank in (0, other)]
        words = f": {Differences.between(first, own).in_words(*only_on)}"
    return world.gather(words)[other]


def _in_words(data: Images, split: Split) -> str:
    left_out = f", {len(data.damaged):,} left out as damaged" if data.damaged else ""
    return (
        f"{len(data):,} images of {len(data.class_names)} classes ({len(split.train):,} to train on, "
        f"{len(split.val):,} to validate{left_out})"
    )


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()
