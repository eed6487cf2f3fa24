"""Several ranks of one world, each a process of its own on this machine, and what a function gives on each of them."""

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from tests.faults.tools.forked import FORKS, ended
from volo.training.world import World, joined_world


def on_ranks(size: int, folder: Path, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """What `function(world, *arguments)` of a module gives, rank by rank: tensors and plain values.

    Args:
        folder: Of this call alone; the ranks meet there.
    """
    folder.mkdir(parents=True)
    processes = [FORKS.Process(target=_run, args=(rank, size, folder, function, arguments)) for rank in range(size)]
    for process in processes:
        process.start()
    codes = [ended(process) for process in processes]
    assert not any(codes), codes
    return [torch.load(folder / f"{rank}.pt") for rank in range(size)]


def _run(rank: int, size: int, folder: Path, function: Callable[..., Any], arguments: tuple) -> None:
    dist.init_process_group("gloo", store=dist.FileStore(str(folder / "store"), size), rank=rank, world_size=size)
    found = function(_world(rank, size), *arguments)
    torch.save(found, folder / f"{rank}.pt")
    dist.destroy_process_group()
    gc.collect()  # models under DDP are parts of cycles that keep the group, whose threads abort a process at its end


def _world(rank: int, size: int) -> World:
    return joined_world(rank, size, rank, size, torch.device("cpu"))
