"""The threads by which a process computes on a CPU, whatever started it."""

import torch

from volo.cores import num_cores


def set_threads(num_local_workers: int) -> None:
    """Divides a node's cores among its workers. Their threads take numbers below 1.2e-38 for zero, with which some CPUs
    compute many times as slowly as with others (EXPERIMENTS.md, 2026-12-01)."""
    torch.set_flush_denormal(True)  # of this thread and those it starts, so before its first work for several
    torch.set_num_threads(max(1, num_cores() // num_local_workers))
