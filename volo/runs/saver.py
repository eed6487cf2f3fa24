"""Saving off the training thread: training waits while its state is copied, and goes on while that is written."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor


class Saver:
    """Writes what it is given in a thread of its own, one thing at a time.

    Used as a context, which is left when all is written. What a write raises is raised by the next call that finds
    it ended, or on leaving; an error that training is left with has precedence, but for one of `gives_way`.
    """

    def __init__(self, gives_way: tuple[type[BaseException], ...] = ()):
        self._gives_way = gives_way
        self._buffers: dict[tuple, Tensor] = {}
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._pending: Future | None = None

    def __enter__(self) -> "Saver":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_) -> None:
        self._thread.shutdown(wait=True)
        if kind is None or issubclass(kind, self._gives_way):
            self.wait()

    def save(self, state: Any, write: Callable[[Any], None]) -> None:
        """Copies the state, tensors in nested dictionaries and lists, and has `write` called with the copy.

        A save before that is not yet on disk is waited for.
        """
        self.wait()
        copied = self._copied(state)
        if torch.cuda.is_available():
            torch.cuda.current_stream().synchronize()
        self._pending = self._thread.submit(write, copied)

    def check(self) -> None:
        """Raises what the last write has met, if it has ended."""
        if self._pending is not None and self._pending.done():
            self.wait()

    def wait(self) -> None:
        """Returns when everything is written."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def _copied(self, value: Any, place: tuple = ()) -> Any:
        """Tensors in buffers on the host, which are kept: the first save alone has to find memory for them."""
        if isinstance(value, dict):
            return {key: self._copied(inner, (*place, key)) for key, inner in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(self._copied(inner, (*place, number)) for number, inner in enumerate(value))
        if not isinstance(value, Tensor):
            return value
        buffer = self._buffers.get(place)
        if buffer is None or (buffer.dtype, buffer.shape) != (value.dtype, value.shape):
            buffer = torch.empty_like(value, device="cpu", pin_memory=value.is_cuda)  # laid out as the tensor is
            self._buffers[place] = buffer
        return buffer.copy_(value.detach(), non_blocking=value.is_cuda)
