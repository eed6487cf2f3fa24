"""The room on each node's disk for decoded images and for checkpoints."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace

from volo.cache import cache_dir
from volo.cluster.nodes.asking import Answer, Node, ask
from volo.console import format_bytes
from volo.data.decoded.cache import MORE_ROOM, Room
from volo.doctor.cache import TIGHT, cache_room, judged
from volo.doctor.findings import Finding, failure, ok, warning
from volo.doctor.storage import checkpoint_room
from volo.errors import InputError
from volo.files import existing
from volo.settings.config import ResolvedSettings, build_settings

ROOM_S = 30.0  # to list the images of a slow disk


@dataclass(frozen=True)
class NodeRoom:
    """The room of one node.

    Attributes:
        folder: Where checkpoints are written there.
        needed, free: Bytes for checkpoints, and for the cache too if that is on the same disk.
    """

    cache: Room
    folder: str
    needed: int
    free: int
    in_words: str


def check_rooms(nodes: Sequence[Node], settings: ResolvedSettings) -> list[Finding]:
    """The caches' room, and the checkpoints', any node of which may be the one that writes them."""
    return judged_rooms(ask(nodes, room_of, lambda node: (settings.to_dict(),), ROOM_S))


def judged_rooms(answers: dict[Node, Answer]) -> list[Finding]:
    rooms: dict[Node, NodeRoom] = {}
    wrong = []
    for node, answer in answers.items():
        if isinstance(answer.value, NodeRoom):
            rooms[node] = answer.value
        else:
            wrong.append(f"{node.name} {answer.value or answer.fault}")
    if wrong:
        return [failure("caches", "; ".join(wrong), "make data and cache the same on all nodes")]
    if not rooms:
        return []
    node, tightest = min(rooms.items(), key=lambda item: item[1].cache.free - item[1].cache.needed)
    finding = judged(tightest.cache)
    caches = replace(finding, check="caches", found=f"fullest of {len(rooms)}, on {node.name}: {finding.found}")
    return [caches, _judged_disks(rooms)]


def _judged_disks(rooms: dict[Node, NodeRoom]) -> Finding:
    node, room = min(rooms.items(), key=lambda item: item[1].free - item[1].needed)
    found = (
        f"fullest of {len(rooms)}, on {node.name}: {format_bytes(room.free)} free at {room.folder}, "
        f"{format_bytes(room.needed)} needed for {room.in_words}"
    )
    remedy = f"lower --keep-checkpoints, set --output-dir to another disk, or {MORE_ROOM}"
    if room.needed > room.free:
        return failure("node disks", found, remedy)
    return warning("node disks", found, remedy) if TIGHT * room.needed > room.free else ok("node disks", found)


def room_of(settings: dict) -> NodeRoom | str:
    """On a node: its room, or why training would be refused there."""
    resolved = build_settings(settings).resolved()
    try:
        cache = cache_room(resolved.data.here())
        needed, free, words = checkpoint_room(resolved)
        shares_disk = existing(resolved.run_dir).stat().st_dev == os.stat(existing(cache_dir())).st_dev
    except InputError as error:
        return str(error)
    if shares_disk and cache.needed:
        needed, words = needed + cache.needed, f"{words}, and the cache"
    return NodeRoom(cache, str(existing(resolved.run_dir)), needed, free, words)
