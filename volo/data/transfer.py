"""Copies numbers to the device and back while it computes."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor


def to_device(array: np.ndarray, device: torch.device) -> Tensor:
    """Copies an array to the device without waiting for the GPU's queued work: only copies from pinned memory are
    queued; from any other memory the host would wait until the queue is empty."""
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def numbers_later(tensor: Tensor) -> Callable[[], list[float]]:
    """Returns a function that returns the numbers of a device tensor (n,). It waits only for work queued before this
    call; reading the tensor would also wait for work queued since."""
    if tensor.device.type != "cuda":
        return tensor.tolist
    copy = tensor.to("cpu", non_blocking=True)  # pinned
    is_there = torch.cuda.current_stream(tensor.device).record_event()

    def numbers() -> list[float]:
        is_there.synchronize()
        return copy.tolist()

    return numbers
