"""The resources of a trial, and how many trials fit into the cluster: computed before any is started."""

from dataclasses import dataclass, replace
from typing import Any

import ray

from volo.cluster.connect import OWN_CLUSTER, resolved_address
from volo.cluster.living import this_node
from volo.cluster.workers import counted
from volo.errors import InputError
from volo.settings.run import RunSettings
from volo.tuning.options import SweepOptions


@dataclass(frozen=True)
class TrialPlan:
    """`num_concurrent` trials at a time, each with `num_workers` workers of one core and `gpus` GPUs in total; at most
    `num_local` workers share a node. `by_train`: Ray Train starts the workers, otherwise the trial's actor trains.
    `awaited` says what a cluster that may grow lacks; empty if the trials fit. `seen`: the fields of a `Seen`, the data
    that every trial's node must have."""

    num_concurrent: int
    num_workers: int
    gpus: float
    num_local: int
    by_train: bool = False
    awaited: str = ""
    seen: dict[str, Any] | None = None

    def of_actor(self) -> dict[str, float]:
        """What Tune reserves for a trial: all its resources, or, if Ray Train reserves those of its workers, one byte,
        since a request cannot be empty."""
        return {"CPU": 0, "memory": 1} if self.by_train else {"CPU": 1, "GPU": self.gpus}

    def need(self) -> str:
        """What one trial needs, in words."""
        return counted(self.num_workers, self.gpus)

    def __str__(self) -> str:
        workers = f"{self.num_workers} worker{'s' * (self.num_workers > 1)}"
        gpus = f" and {self.gpus:g} GPU{'s' * (self.gpus > 1)}" if self.gpus else ""
        return f"{self.num_concurrent} trial{'s' * (self.num_concurrent > 1)} at a time, each with {workers}{gpus}"


def plan_trials(options: SweepOptions, run: RunSettings) -> TrialPlan:
    """Plans trials for the connected cluster, and says what they will wait for.

    An existing cluster may grow, though Ray does not say how far. So what the user asks for by --max-concurrent or
    --device cuda is waited for, as the workers of a training are (`plan_workers`); our own cluster cannot grow.

    Raises:
        InputError: a trial could never be scheduled there, or more trials at a time than fit.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    planned = plan(options, run, nodes, can_grow=resolved_address(run.address) != OWN_CLUSTER)
    if planned.awaited:
        print(f"waiting for the cluster to grow: {planned.awaited}", flush=True)
    return planned


def plan(options: SweepOptions, run: RunSettings, nodes: list[dict[str, float]], can_grow: bool = False) -> TrialPlan:
    """Like `plan_trials`, for nodes with these resources, such as {"CPU": 8.0, "GPU": 1.0}; says nothing."""
    workers, gpus = options.workers_per_trial, _gpus(options, run, nodes)
    if workers == 1:
        most = sum(_fits(node, 1, gpus) for node in nodes)
    else:  # the workers may be on several nodes
        most = sum(_fits(node, 1, gpus / workers) for node in nodes) // workers
    there = f"{_sum(nodes, 'CPU'):g} cores and {_sum(nodes, 'GPU'):g} GPUs on {len(nodes)} node{'s' * (len(nodes) > 1)}"
    is_named = options.max_concurrent != "auto"
    if most == 0 and not (can_grow and (is_named or run.device == "cuda")):
        raise InputError(
            f"a trial must fit into the cluster, got trials of {workers} cores and {gpus:g} GPUs for {there}; lower "
            "--workers-per-trial or --gpus-per-trial"
            + (", or give --max-concurrent to wait for nodes that are still to come" if can_grow else "")
        )
    wanted = int(options.max_concurrent) if is_named else max(1, most)
    if wanted > most and can_grow:
        return _awaiting(TrialPlan(wanted, workers, gpus, wanted * workers, by_train=workers > 1), there, is_named)
    if wanted > most:
        raise InputError(
            f"trials at a time must fit into the cluster, got --max-concurrent {wanted} of {workers} cores and "
            f"{gpus:g} GPUs each for {there}; use --max-concurrent {most} or auto"
        )
    num_local = -(-wanted * workers // len(nodes))
    return TrialPlan(wanted, workers, gpus, num_local, by_train=workers > 1)


def _awaiting(planned: TrialPlan, there: str, is_named: bool) -> TrialPlan:
    """The plan with what it waits for."""
    num_trials, num_workers = planned.num_concurrent, planned.num_workers
    trials = "a trial" if num_trials == 1 else f"{num_trials} trials at a time"
    more = "" if is_named else "; with --max-concurrent, several run at a time"
    needed = counted(num_trials * num_workers, num_trials * planned.gpus)
    return replace(planned, awaited=f"needed {needed} for {trials}, it has {there}{more}")


def num_sharing(config: dict[str, Any]) -> int:
    """In a trial: how many workers, of all trials, share this node at most: as planned, and no more than fit.

    Args:
        config: The trial's: `num_local`, `gpus` of the trial and its `num_workers`.
    """
    nodes = ray.nodes() if (own := this_node()) else []
    here = [node["Resources"] for node in nodes if node["NodeID"] == own]
    gpus = config["gpus"] / config["num_workers"]
    return max(1, min([config["num_local"], *(_fits(node, 1, gpus) for node in here)]))


def _gpus(options: SweepOptions, run: RunSettings, nodes: list[dict[str, float]]) -> float:
    """GPUs of a trial: as requested, otherwise one per worker if there are enough."""
    if run.device == "cpu":
        if options.gpus_per_trial:
            raise InputError("--gpus-per-trial has no effect with --device cpu; drop one of them")
        return 0.0
    if options.gpus_per_trial:
        return options.gpus_per_trial
    workers = options.workers_per_trial
    return float(workers) if run.device == "cuda" or _sum(nodes, "GPU") >= workers else 0.0


def _fits(node: dict[str, float], cpus: float, gpus: float) -> int:
    by_cpu = int(node.get("CPU", 0) // cpus)
    return min(by_cpu, int(node.get("GPU", 0) / gpus + 1e-9)) if gpus else by_cpu


def _sum(nodes: list[dict[str, float]], name: str) -> float:
    return sum(node.get(name, 0) for node in nodes)
