"""What the choice of a formulation asks and says. `constants` makes the answers constants to torch.compile."""

import logging

import torch

logger = logging.getLogger("volo")

_announced: set[tuple[str, str]] = set()
_warned: set[tuple[str, str]] = set()


def is_exporting() -> bool:
    """Whether torch.export, or an older exporter that traces, is running.

    Must be a constant to torch.compile: while it traces, torch 2.11 would take `is_exporting` to be true.
    """
    return torch.compiler.is_exporting() or torch.jit.is_tracing()


def announce(op: str, device: str) -> bool:
    """Logs the choice once per device. Under torch.compile this runs once, during tracing."""
    is_new = (op, device) not in _announced
    if is_new:
        _announced.add((op, device))
        logger.info("outlook attention on %s: the %s formulation", device, op)
    return is_new


def warn(op: str, reason: str) -> bool:
    """Logs, once, why a formulation that would be faster is not used."""
    is_new = (op, reason) not in _warned
    if is_new:
        _warned.add((op, reason))
        logger.warning("the %s formulation of outlook attention %s; falling back to the next best", op, reason)
    return is_new
