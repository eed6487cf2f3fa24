"""The processes that train together: the rank of this one, and the few collectives that the loop needs."""

import datetime
import os
import socket
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

from volo.data.archives.download import LIMIT_S
from volo.errors import InputError
from volo.hosts import interface_of, is_loopback
from volo.threads import set_threads

# When to give up on a worker that hangs. The others wait while rank 0 downloads (LIMIT_S) and decodes data.
COLLECTIVE_TIMEOUT_S = int(LIMIT_S) + 1800
TIMEOUT = datetime.timedelta(seconds=COLLECTIVE_TIMEOUT_S)
# By these, gloo and NCCL are told at which of a machine's interfaces to listen.
INTERFACE_VARIABLES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
LOOPBACK_INTERFACES = ("lo", "lo0")  # of Linux, of macOS


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
    if local_size == size:
        listen_on_loopback()
    _join(_store_of_this_start(), rank, size, own)
    return _world(rank, size, local_rank, local_size, own)


def _store_of_this_start() -> dist.Store:
    """A store for this start only: torchrun's own outlives restarts, and holds the addresses of ranks that died."""
    store, _, _ = next(rendezvous("env://", timeout=TIMEOUT))
    return dist.PrefixStore(f"start-{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)


def open_store(address: str, timeout: datetime.timedelta = TIMEOUT) -> dist.TCPStore:
    """A store for the ranks to meet at, at a free port of this machine's address.

    PyTorch itself would listen at every address, and asks nobody who they are.

    Args:
        timeout: How long each rank waits for the others.
    """
    try:
        listener = _listening(address)
    except OSError:  # the address is translated on its way here, so this machine does not know it
        listener = _listening("::" if ":" in address else "")
    port = listener.getsockname()[1]
    return dist.TCPStore(
        address, port, is_master=True, timeout=timeout, wait_for_workers=False, master_listen_fd=listener.detach()
    )


def met_at(
    host: str, port: int, address: str, own: dist.Store | None = None, timeout: datetime.timedelta = TIMEOUT
) -> dist.Store:
    """The store that rank 0 has opened. From here on, this rank listens where the others of its cluster reach it.

    Args:
        host, port: Of the store.
        address: By which the cluster knows this rank's node.
        own: The store, on rank 0.
        timeout: As of `open_store`.
    """
    listen_at(host if is_loopback(host) else address)
    return own or dist.TCPStore(host, port, timeout=timeout, wait_for_workers=False)


def _listening(address: str) -> socket.socket:
    return socket.create_server((address, 0), family=socket.AF_INET6 if ":" in address else socket.AF_INET)


def joined_world(
    rank: int,
    size: int,
    local_rank: int,
    local_size: int,
    device: torch.device,
    store: dist.Store | None = None,
    timeout: datetime.timedelta = TIMEOUT,
) -> World:
    """A world of ranks that meet at a store; without one, the process group exists already, or there is one rank."""
    if store is not None:
        _join(store, rank, size, device, timeout)
    return _world(rank, size, local_rank, local_size, device)


def _join(store: dist.Store, rank: int, size: int, device: torch.device, timeout: datetime.timedelta = TIMEOUT) -> None:
    # Every optimizer loads PyTorch's compiler. Loaded while a group exists, it keeps the group's threads for ever.
    import volo.model.outlook_ops.constants  # noqa: F401

    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=timeout)


def listen_on_loopback() -> None:
    """For ranks that are all on this machine: has their connections stay there, unless the user names an interface."""
    known = [name for _, name in socket.if_nameindex()]
    for name in (name for name in LOOPBACK_INTERFACES if name in known):
        for variable in INTERFACE_VARIABLES:
            os.environ.setdefault(variable, name)


def listen_at(address: str) -> None:
    """Has this rank listen at the interface of an address of this machine, unless the user names one. Otherwise gloo
    asks what the host's own name resolves to, which on many hosts no other host can reach."""
    if is_loopback(address):
        listen_on_loopback()
    elif interface := interface_of(address):
        for variable in INTERFACE_VARIABLES:
            os.environ.setdefault(variable, interface)


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
