"""How many workers, and what each one gets."""

from dataclasses import dataclass

import ray

from volo.cluster.connect import OWN_CLUSTER, resolved_address
from volo.errors import InputError
from volo.sections import RunSettings


@dataclass(frozen=True)
class Workers:
    """`num_workers` of one core each, and of one GPU each where `use_gpu`."""

    num_workers: int
    use_gpu: bool

    def num_local(self) -> int:
        """How many share a node, at most, where they are spread evenly over those that are alive."""
        num_nodes = sum(node["Alive"] for node in ray.nodes())
        return -(-self.num_workers // max(1, num_nodes))


def plan_workers(run: RunSettings) -> Workers:
    """As many as asked, on GPUs where there are enough; by default as many as there are GPUs, else one.

    A cluster that was there before us may grow, so what it lacks now is waited for; one of our own cannot.

    Raises:
        InputError: more workers than a cluster of our own has cores or, with device cuda, GPUs.
    """
    resources = ray.cluster_resources()
    num_gpus, num_cpus = int(resources.get("GPU", 0)), int(resources.get("CPU", 0))
    can_grow = resolved_address(run.address) != OWN_CLUSTER
    num_workers = run.num_workers or (num_gpus if run.device != "cpu" else 0) or 1
    use_gpu = run.device == "cuda" or (run.device == "auto" and num_gpus >= num_workers)
    limit = min(num_cpus, num_gpus) if use_gpu else num_cpus
    if num_workers > limit and not can_grow:
        raise InputError(
            f"num_workers must not exceed this machine's {'GPUs' if use_gpu else 'cores'}, got "
            f"num_workers={num_workers}, {num_cpus} cores, {num_gpus} GPUs; use --num-workers {max(1, limit)}"
            + (" or --device cpu" if use_gpu else "")
        )
    if num_workers > limit:
        print(f"waiting for {num_workers} workers; the cluster now has {num_cpus} cores and {num_gpus} GPUs")
    return Workers(num_workers, use_gpu)
