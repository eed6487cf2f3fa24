"""Whether workers on all nodes of a cluster reach each other: they form a group as a training does, and sum a number.

If they cannot, the pairs of nodes that cannot are looked for.
"""

import datetime
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import torch
import torch.distributed as dist

from volo.cluster.nodes.asking import Node, on_node, reason
from volo.doctor.findings import Finding, failure, ok, warning
from volo.errors import first_of
from volo.training.world import INTERFACE_VARIABLES, joined_world, met_at, open_store

START_S = 30.0  # for a process on each node to start and import PyTorch
SUM_S = 30.0
PAIR_S = 10.0
PAIRS_S = 60.0  # after which no more pairs are tried
GRACE_S = 3.0  # for a rank that waits so long to say it
SHOWN = 6
Item = TypeVar("Item")


@dataclass(frozen=True)
class Sum:
    """What came of a sum: `words` are where each rank listened, or what failed, or what kept it from being tried."""

    status: Literal["done", "failed", "untried"]
    words: str


class Summand:
    """A rank, in an actor on its node: a process like that of a worker.

    Args:
        use_gpu: With NCCL on a GPU, otherwise with gloo.
        limit_s: How long it waits for the other ranks.
    """

    def __init__(self, rank: int, size: int, use_gpu: bool, limit_s: float):
        self.rank, self.size, self.use_gpu = rank, size, use_gpu
        self.timeout = datetime.timedelta(seconds=limit_s)
        self.store: dist.Store | None = None

    def open(self) -> tuple[str, int] | None:
        """Where rank 0 has opened the store at which all meet; None on the others."""
        import ray

        if self.rank:
            return None
        store = open_store(ray.util.get_node_ip_address(), self.timeout)
        self.store = store
        return store.host, store.port

    def sum(self, host: str, port: int) -> str:
        """The interface that was listened at; empty if the system chose it. Raises RuntimeError if there is no sum."""
        import ray

        store = met_at(host, port, ray.util.get_node_ip_address(), self.store, self.timeout)
        device = torch.device("cuda", 0) if self.use_gpu else torch.device("cpu")
        world = joined_world(self.rank, self.size, 0, 1, device, store, self.timeout)
        total = world.sum(torch.ones(1, device=device)).item()
        if total != self.size:
            raise RuntimeError(f"{self.size} ones make {total:g}")
        return os.environ.get(_variable(self.use_gpu), "")


def check_network(nodes: Sequence[Node], use_gpu: bool, num_workers: int) -> Finding:
    """Whether workers on these nodes can sum their gradients.

    Args:
        nodes: That can hold a worker; of a single one, with two workers there.
        use_gpu: As the training would.
        num_workers: At most so many would train: one alone needs no sum.
    """
    members = list(nodes)
    if len(nodes) == 1 and (nodes[0].num_gpus if use_gpu else nodes[0].num_cpus) > 1:
        members *= 2
    if len(members) < 2:
        return ok("network", "not more than one worker fits, which has nobody to reach")
    found = summed(members, use_gpu, SUM_S)
    if found.status == "done":
        where = f"{len(nodes)} nodes" if len(nodes) > 1 else "one node"
        return ok("network", f"workers on {where} sum over {_backend(use_gpu)}: {found.words}")
    if found.status == "untried":
        return warning("network", f"{_backend(use_gpu)} was not tried: {found.words}", "look again when it is free")
    said, is_each = found.words, False
    if len(nodes) > 2:
        said, is_each = _of_pairs(pairs_apart(nodes, use_gpu), found.words)
    say = failure if num_workers > 1 else warning
    alone = "" if num_workers > 1 else ", which one worker alone does not need"
    who = "" if is_each else f"{_together([node.name for node in members])} "
    return say("network", f"{who}cannot sum over {_backend(use_gpu)}{alone}: {said}", remedy(use_gpu))


def summed(members: Sequence[Node], use_gpu: bool, limit_s: float) -> Sum:
    """Has one rank on each of these nodes, the first being rank 0, sum a number."""
    import ray

    actor: Any = ray.remote(num_cpus=0, num_gpus=int(use_gpu), max_restarts=0)(Summand)
    ranks = [
        actor.options(scheduling_strategy=on_node(node)).remote(rank, len(members), use_gpu, limit_s)
        for rank, node in enumerate(members)
    ]
    try:
        try:
            host, port = _gathered([rank.open.remote() for rank in ranks], members, START_S)[0]
        except TimeoutError as error:
            what = "no GPU was free" if use_gpu else "no process could be started"
            return Sum("untried" if use_gpu else "failed", f"{what}: {error}")
        told = _gathered([rank.sum.remote(host, port) for rank in ranks], members, limit_s + GRACE_S)
    except (RuntimeError, TimeoutError) as error:
        return Sum("failed", str(error))
    finally:
        for rank in ranks:
            ray.kill(rank)
    where = [f"{node.name} at {name or 'the interface of its name'}" for node, name in zip(members, told, strict=True)]
    return Sum("done", first_of(list(dict.fromkeys(where)), SHOWN))


def _gathered(refs: list[Any], members: Sequence[Node], limit_s: float) -> list[Any]:
    """What each rank answers.

    Raises:
        RuntimeError: the first error of any: the other ranks could only say that they wait for that one.
        TimeoutError: not all have answered in time; it names the others.
    """
    import ray

    deadline, left = time.monotonic() + limit_s, list(refs)
    while left:
        done, left = ray.wait(left, num_returns=1, timeout=max(0.0, deadline - time.monotonic()))
        if not done:
            late = [members[refs.index(ref)].name for ref in left]
            raise TimeoutError(f"no answer within {limit_s:g} s from {first_of(late, SHOWN)}")
        try:
            ray.get(done[0])
        except ray.exceptions.RayError as error:
            raise RuntimeError(f"{members[refs.index(done[0])].name} says {reason(error)}") from None
    return ray.get(refs)


def pairs_apart(nodes: Sequence[Node], use_gpu: bool) -> tuple[list[tuple[Node, Node, str]], bool]:
    """The pairs that cannot sum, and why not; and whether all pairs were tried."""
    apart: list[tuple[Node, Node, str]] = []
    deadline = time.monotonic() + PAIRS_S
    for pairs in rounds(nodes):
        if time.monotonic() > deadline:
            return apart, False
        with ThreadPoolExecutor(len(pairs)) as together:
            found = list(together.map(lambda pair: summed(pair, use_gpu, PAIR_S), pairs))
        apart += [(*pair, one.words) for pair, one in zip(pairs, found, strict=True) if one.status == "failed"]
    return apart, True


def rounds(items: Sequence[Item]) -> list[list[tuple[Item, Item]]]:
    """Every pair once, in rounds in which each item is in at most one pair (the circle method)."""
    ring: list[Item | None] = [*items, *[None] * (len(items) % 2)]
    half, found = len(ring) // 2, []
    for _ in range(len(ring) - 1):
        pairs = zip(ring[:half], reversed(ring[half:]), strict=True)
        found.append([(one, other) for one, other in pairs if one is not None and other is not None])
        ring = [ring[0], ring[-1], *ring[1:-1]]
    return found


def remedy(use_gpu: bool) -> str:
    variable = _variable(use_gpu)
    more = "; NCCL_DEBUG=INFO says more" if use_gpu else ""
    return (
        "let the nodes reach each other at all TCP ports (firewall), and before `ray start` on a node set "
        f"{variable} to the interface of their common network, or unset it where it names another{more}"
    )


def _of_pairs(found: tuple[list[tuple[Node, Node, str]], bool], whole: str) -> tuple[str, bool]:
    """The pairs in words, and whether there are any."""
    apart, is_all = found
    rest = "" if is_all else f"; not all pairs were tried within {PAIRS_S:g} s"
    if not apart:
        return f"{whole}; {'each two of them can' if is_all else 'no two that were tried cannot'}{rest}", False
    return first_of([f"{one.name} and {other.name} ({why})" for one, other, why in apart], SHOWN) + rest, True


def _together(names: Sequence[str]) -> str:
    return first_of(list(dict.fromkeys(names)), SHOWN, " and ")


def _backend(use_gpu: bool) -> str:
    return "NCCL" if use_gpu else "gloo"


def _variable(use_gpu: bool) -> str:
    """By which a user names the interface."""
    return INTERFACE_VARIABLES[use_gpu]
