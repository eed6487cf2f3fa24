"""Notices that a node is about to be taken away, as a spot machine is: Ray tells the workers when it is drained."""

import os
import time
from collections.abc import Callable
from typing import Any

import ray.train

from volo.cluster.connect import WATCHER
from volo.cluster.failures import tells_of_neighbor

LOOK_S = 2.0
UNKNOWN_S = 120.0  # of a notice without a deadline, until Ray takes it for over
PATIENCE_S = 30.0  # with Ray, after a deadline


class PreemptionNotices:
    """Asks Ray every LOOK_S, by rank 0's clock: for Ray the question is a barrier of all workers.

    Args:
        ask: Ray's function.
        announce: Called with the ids of nodes that were not told before.
    """

    def __init__(self, ask: Any, announce: Callable[[list[str]], None]):
        self._ask, self._announce = ask, announce
        self._next, self._told = time.monotonic() + LOOK_S, set[str]()
        self._gone_at = 0.0

    def is_due(self) -> bool:
        if time.monotonic() < self._next:
            return False
        self._next = time.monotonic() + LOOK_S
        return True

    def await_end(self, error: Exception) -> None:
        """Keeps back an error that says that a neighbor is gone, if its node was to be taken away: Ray then ends this
        worker too, and counts no failure. Returns for any other error, and if Ray does not."""
        if self._told and tells_of_neighbor(error):
            time.sleep(max(0.0, self._gone_at + PATIENCE_S - time.time()))

    def look(self) -> str:
        info = self._ask()
        nodes = {} if info is None else info.preempted_node_to_ranks
        new = {*nodes} - self._told
        if not new:
            return ""
        self._told |= new
        self._announce(sorted(new))
        self._gone_at = info.deadline_ms / 1000 if info.deadline_ms else time.time() + UNKNOWN_S
        ranks = sorted(rank for node in new for rank in nodes[node])
        left = f" in {info.deadline_ms / 1000 - time.time():.0f} s" if info.deadline_ms else ""
        which = f"worker{'s' * (len(ranks) > 1)} {', '.join(map(str, ranks))}"
        return f"Ray says that the node of {which} will be taken away{left}: saving now"


def preemption_notices(announce: Callable[[list[str]], None]) -> PreemptionNotices | None:
    """None where Ray gives no notices: before 2.60, and without its watcher."""
    ask = getattr(ray.train, "get_preemption_info", None)
    return None if ask is None or os.environ.get(WATCHER) == "0" else PreemptionNotices(ask, announce)
