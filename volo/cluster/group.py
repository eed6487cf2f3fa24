"""The process group of Ray Train's workers, which they make themselves.

Ray has PyTorch open the port at which they meet, on every address of a node, to anyone. Ours is open on the one address
by which the cluster knows the node: on a cluster that a command starts, loopback.
"""

import contextlib
import os
from collections.abc import Iterator

import ray
import ray.train
import torch.distributed as dist
from ray.train.backend import Backend
from ray.train.torch import TorchConfig, get_device

from volo.cluster.workers import heed_node
from volo.training.world import World, joined_world, met_at, open_store


class NoGroup(Backend):
    """What Ray's own backend for PyTorch does beside making the group and ending it."""

    share_cuda_visible_devices = True  # NCCL wants every worker to see all GPUs of its node


class WorkersJoin(TorchConfig):
    """Ray starts the workers, and each calls `joined_group`."""

    @property
    def backend_cls(self) -> type[Backend]:
        return NoGroup


@contextlib.contextmanager
def joined_group(num_local: int | None = None) -> Iterator[World]:
    """In a worker of Ray Train: its world, whose process group ends with the block.

    After an error, ending the group could wait for the other ranks, so it is left to the end of the process.

    Args:
        num_local: How many processes share the node's cores; None: this training's own.
    """
    context = ray.train.get_context()
    rank, size = context.get_world_rank(), context.get_world_size()
    store = _common_store(rank) if size > 1 else None
    local_rank, local_size = _place_on_node(store, rank, size) if store else (0, 1)
    # As torchrun and Ray's own backend set them, for libraries that look.
    values = {"RANK": rank, "WORLD_SIZE": size, "LOCAL_RANK": local_rank, "LOCAL_WORLD_SIZE": local_size}
    os.environ.update({name: str(value) for name, value in values.items()})
    heed_node()
    yield joined_world(rank, size, local_rank, num_local or local_size, get_device(), store)
    if store is not None:
        dist.destroy_process_group()


def _common_store(rank: int) -> dist.Store:
    """Rank 0's store, opened by it and reached by the others."""
    from ray.train.collective import broadcast_from_rank_zero  # exists in Ray Train 2 alone, which `prepare` asks for

    store = open_store(ray.util.get_node_ip_address()) if rank == 0 else None
    host, port = broadcast_from_rank_zero((store.host, store.port) if store else None)
    return met_at(host, port, ray.util.get_node_ip_address(), store)


def _place_on_node(store: dist.Store, rank: int, size: int) -> tuple[int, int]:
    """This rank's number among those of its node, and how many these are.

    Ray counts the workers at one address, where there may be several nodes, each with its own cache and environment.
    """
    own = ray.get_runtime_context().get_node_id()
    store.set(f"node of rank {rank}", own)
    nodes = [store.get(f"node of rank {other}").decode() for other in range(size)]
    return nodes[:rank].count(own), nodes.count(own)
