"""Numbers on their way to the device and back, while it computes."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor


def to_device(array: np.ndarray, device: torch.device) -> Tensor:
    """The array's numbers as a tensor on the device, without waiting for what a GPU still has to do: only from pinned
    memory can a copy be queued; from any other the host would wait until the queue is empty."""
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def numbers_later(tensor: Tensor) -> Callable[[], list[float]]:
    """(n,) on the device: a function that gives its numbers. It waits for what was queued there before this call, not
    for what has been since, as reading the tensor would."""
    if tensor.device.type != "cuda":
        return tensor.tolist
    copy = tensor.to("cpu", non_blocking=True)  # pinned
    is_there = torch.cuda.current_stream(tensor.device).record_event()

    def numbers() -> list[float]:
        is_there.synchronize()
        return copy.tolist()

    return numbers
