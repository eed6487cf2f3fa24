"""How many workers there are, and which resources each one gets."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import ray

from volo.cluster.connect import OWN_CLUSTER, resolved_address
from volo.cluster.living import this_node
from volo.console import Patience
from volo.cores import heed
from volo.errors import InputError
from volo.settings.run import RunSettings

POLL_S = 0.2
Pending = TypeVar("Pending", ray.ObjectRef, ray.ObjectRefGenerator)


@dataclass(frozen=True)
class Workers:
    """`num_workers` with one core each, and one GPU each if `use_gpu`. If `min_workers` is given, that many are enough
    to train with."""

    num_workers: int
    use_gpu: bool
    min_workers: int | None = None

    def __str__(self) -> str:
        count = f"{self.min_workers} to {self.num_workers}" if self.min_workers else f"{self.num_workers}"
        return f"{count} {'GPU' if self.use_gpu else 'CPU'} worker{'s' * (self.num_workers > 1)}"

    @property
    def bounds(self) -> int | tuple[int, int]:
        """The number of workers as Ray's ScalingConfig takes it."""
        return (self.min_workers, self.num_workers) if self.min_workers else self.num_workers

    def need(self) -> str:
        """What the workers need, or at least so many of them as are enough."""
        least = self.min_workers or self.num_workers
        return f"needed {counted(least, least if self.use_gpu else 0)}"

    def num_local(self) -> int:
        """The largest number of workers on one node if they are spread evenly over the nodes that are alive."""
        num_nodes = sum(node["Alive"] for node in ray.nodes())
        return -(-self.num_workers // max(1, num_nodes))


def plan_workers(run: RunSettings) -> Workers:
    """As many workers as requested, on GPUs if there are enough; by default one per GPU, or one if there is none.

    An existing cluster may grow, so missing resources are waited for; our own cluster cannot grow. The lower bound of
    an elastic number must fit, and decides whether there are enough GPUs.

    Raises:
        InputError: more workers than our own cluster has cores or, with device cuda, GPUs.
    """
    resources = ray.cluster_resources()
    num_gpus, num_cpus = int(resources.get("GPU", 0)), int(resources.get("CPU", 0))
    can_grow = resolved_address(run.address) != OWN_CLUSTER
    wanted = wanted_workers(run, num_gpus)
    most, num_workers, use_gpu = wanted.num_workers, wanted.min_workers or wanted.num_workers, wanted.use_gpu
    limit = min(num_cpus, num_gpus) if use_gpu else num_cpus
    if num_workers > limit and not can_grow:
        raise InputError(
            f"num_workers must not exceed this machine's {'GPUs' if use_gpu else 'cores'}, got "
            f"num_workers={run.num_workers or most}, {num_cpus} cores, {num_gpus} GPUs; use --num-workers "
            f"{max(1, limit)}" + (" or --device cpu" if use_gpu else "")
        )
    if num_workers > limit:
        print(f"waiting for {num_workers} workers; the cluster now has {num_cpus} cores and {num_gpus} GPUs")
    most = most if can_grow else min(most, limit)
    return Workers(most, use_gpu, num_workers if num_workers < most else None)


def wanted_workers(run: RunSettings, num_gpus: int) -> Workers:
    """As many workers as requested for a cluster with so many GPUs, whether or not they fit."""
    most = run.max_workers or (num_gpus if run.device != "cpu" else 0) or 1
    least = run.min_workers or most
    use_gpu = run.device == "cuda" or (run.device == "auto" and num_gpus >= least)
    return Workers(most, use_gpu, least if least < most else None)


def first_done(results: Sequence[Pending], workers: Workers, patience: Patience) -> Pending:
    """The first of the workers' results, or of the streams of results that has one. Until there is one, says now and
    then what it waits for."""
    while True:
        ready, _ = ray.wait(list(results), num_returns=1, timeout=POLL_S)
        if ready:
            patience.end()
            return ready[0]
        patience.wait_for(lambda: f"{workers} to compute: {workers.need()}, {free_resources()}")


def heed_node() -> None:
    """Has a worker divide those cores that Ray shares out on its node, as `ray start --num-cpus` says: the node may be
    another user's too."""
    own = this_node()
    for node in ray.nodes() if own else []:
        if node["NodeID"] == own:
            heed(node["Resources"].get("CPU", 0))


def free_resources() -> str:
    """What nobody uses on the connected cluster, of what it has."""
    free, most = ray.available_resources(), ray.cluster_resources()
    return (
        f"free {counted(free.get('CPU', 0), free.get('GPU', 0))} of {counted(most.get('CPU', 0), most.get('GPU', 0))}"
    )


def counted(num_cores: float, num_gpus: float) -> str:
    """`2 cores`, `1 core and 1 GPU`."""
    cores = f"{num_cores:g} core{'s' * (num_cores != 1)}"
    return cores + (f" and {num_gpus:g} GPU{'s' * (num_gpus != 1)}" if num_gpus else "")
