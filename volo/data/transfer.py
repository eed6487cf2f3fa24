"""Host arrays on their way to the device."""

import numpy as np
import torch
from torch import Tensor


def to_device(array: np.ndarray, device: torch.device) -> Tensor:
    """The array's numbers as a tensor on the device, without waiting for what a GPU still has to do: only from pinned
    memory can a copy be queued; from any other the host would wait until the queue is empty."""
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)
