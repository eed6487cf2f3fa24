"""The resources of a trial, and how many trials fit into the cluster: computed before any is started."""

from dataclasses import dataclass
from typing import Any

import ray

from volo.cluster.workers import counted
from volo.errors import InputError
from volo.settings.run import RunSettings
from volo.tuning.options import SweepOptions


@dataclass(frozen=True)
class TrialPlan:
    """`num_concurrent` trials at a time, each with `num_workers` workers of one core and `gpus` GPUs in total; at most
    `num_local` workers share a node. `by_train`: Ray Train starts the workers, otherwise the trial's actor trains.
    `seen`: the fields of a `Seen`, which the data of every trial's node must be like."""

    num_concurrent: int
    num_workers: int
    gpus: float
    num_local: int
    by_train: bool = False
    seen: dict[str, Any] | None = None

    @property
    def use_gpu(self) -> bool:
        return self.gpus > 0

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
    """Plans trials for the connected cluster.

    Raises:
        InputError: a trial could never be scheduled there, or more trials at a time than fit.
    """
    return plan(options, run, [node["Resources"] for node in ray.nodes() if node["Alive"]])


def plan(options: SweepOptions, run: RunSettings, nodes: list[dict[str, float]]) -> TrialPlan:
    """Like `plan_trials`, for nodes with these resources, such as {"CPU": 8.0, "GPU": 1.0}."""
    workers, gpus = options.workers_per_trial, _gpus(options, run, nodes)
    if workers == 1:
        most = sum(_fits(node, 1, gpus) for node in nodes)
    else:  # the workers may be on several nodes
        most = sum(_fits(node, 1, gpus / workers) for node in nodes) // workers
    there = f"{_sum(nodes, 'CPU'):g} cores and {_sum(nodes, 'GPU'):g} GPUs on {len(nodes)} node{'s' * (len(nodes) > 1)}"
    if most == 0:
        raise InputError(
            f"a trial must fit into the cluster, got trials of {workers} cores and {gpus:g} GPUs for {there}; lower "
            "--workers-per-trial or --gpus-per-trial"
        )
    wanted = most if options.max_concurrent == "auto" else int(options.max_concurrent)
    if wanted > most:
        raise InputError(
            f"trials at a time must fit into the cluster, got --max-concurrent {wanted} of {workers} cores and "
            f"{gpus:g} GPUs each for {there}; use --max-concurrent {most} or auto"
        )
    num_local = -(-wanted * workers // len(nodes))
    return TrialPlan(wanted, workers, gpus, num_local, by_train=workers > 1)


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
