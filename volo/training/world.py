"""The processes that train together: the rank of this one, and the few collectives that the loop needs."""

import datetime
import os
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

from volo.data.archives.download import LIMIT_S
from volo.errors import InputError

# When to give up on a worker that hangs. The others wait while rank 0 downloads (LIMIT_S) and decodes data.
COLLECTIVE_TIMEOUT_S = int(LIMIT_S) + 1800


@dataclass(frozen=True)
class World:
    """This process among `size` workers, `local_size` of them on its node."""

    rank: int
    size: int
    local_rank: int
    local_size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def in_short(self) -> str:
        """Number of workers, device, and threads, on which the last bits of a result depend."""
        workers = f"{self.size} worker{'s' * (self.size > 1)}"
        return f"{workers} on {self.device.type}, {torch.get_num_threads()} threads each"

    def sum(self, values: Tensor) -> Tensor:
        """The elementwise sum over all workers, in place."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def copy_from_main(self, values: Tensor) -> Tensor:
        """Rank 0's values, on every worker, in place."""
        if self.size > 1:
            dist.broadcast(values, src=0)
        return values

    def from_main(self, value: Any) -> Any:
        """Rank 0's value of a small picklable object, on every worker."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, device=self.device)
        return box[0]

    def gather(self, value: Any) -> list[Any]:
        """Every rank's value of a small picklable object, on every worker."""
        if self.size == 1:
            return [value]
        values = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def wait(self) -> None:
        """Returns when every worker has called this."""
        self.sum(torch.zeros(1, device=self.device))


def single_process(device: str = "auto") -> World:
    """A world of one process. `device` is auto (the GPU if there is one), cpu, or cuda."""
    use_gpu = _uses_gpu(device, 1)
    return _world(0, 1, 0, 1, torch.device("cuda", 0) if use_gpu else torch.device("cpu"))


def under_torchrun() -> bool:
    return "TORCHELASTIC_RUN_ID" in os.environ


def torchrun_world(device: str = "auto") -> World:
    """Joins torchrun's process group: nccl if there is a GPU for each local worker, otherwise gloo."""
    rank, size, local_rank, local_size = (
        int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    )
    use_gpu = _uses_gpu(device, local_size)
    own = torch.device("cuda", local_rank) if use_gpu else torch.device("cpu")
    if use_gpu:
        torch.cuda.set_device(own)
    timeout = datetime.timedelta(seconds=COLLECTIVE_TIMEOUT_S)
    dist.init_process_group(
        "nccl" if use_gpu else "gloo", store=_store_of_this_start(timeout), rank=rank, world_size=size, timeout=timeout
    )
    return _world(rank, size, local_rank, local_size, own)


def _store_of_this_start(timeout: datetime.timedelta) -> dist.Store:
    """A store for this start only: torchrun's own outlives restarts, and holds the addresses of ranks that died."""
    store, _, _ = next(rendezvous("env://", timeout=timeout))
    return dist.PrefixStore(f"start-{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)


def joined_world(rank: int, size: int, local_rank: int, local_size: int, device: torch.device) -> World:
    """A world whose process group Ray Train has started."""
    return _world(rank, size, local_rank, local_size, device)


def _uses_gpu(device: str, num_workers: int) -> bool:
    num_gpus = torch.cuda.device_count()
    if device == "cuda" and num_gpus < num_workers:
        raise InputError(
            f"device cuda needs a GPU for each worker of a machine, got {num_gpus} GPUs for {num_workers} workers; "
            "use --device cpu or fewer workers"
        )
    return device != "cpu" and num_gpus >= num_workers


def _world(rank: int, size: int, local_rank: int, local_size: int, device: torch.device) -> World:
    set_threads(local_size)
    return World(rank, size, local_rank, local_size, device)


def set_threads(num_local_workers: int) -> None:
    """Divides a node's cores among its workers; the same rule for every launcher."""
    torch.set_num_threads(max(1, num_cores() // num_local_workers))


def num_cores() -> int:
    """The number of cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
