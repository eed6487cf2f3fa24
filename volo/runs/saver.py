"""Saves in a background thread: training waits while its state is copied and continues while the copy is written."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor


class Saver:
    """Writes states in its own thread, one at a time.

    A context manager, which exits when everything is written. An exception in a write is raised by the next call after
    the write has ended, or on exit; an exception from training takes precedence, except for those in `gives_way`.
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
        """Copies the state, tensors in nested dictionaries and lists, and calls `write` with the copy in the thread.

        Waits for the previous save to be on disk first.
        """
        self.wait()
        copied = self._copied(state)
        if torch.cuda.is_available():
            torch.cuda.current_stream().synchronize()
        self._pending = self._thread.submit(write, copied)

    def check(self) -> None:
        """Raises the exception of the last write, if it has ended with one."""
        if self._pending is not None and self._pending.done():
            self.wait()

    def wait(self) -> None:
        """Returns when everything is written."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def _copied(self, value: Any, place: tuple = ()) -> Any:
        """Copies tensors to host buffers, which are reused: only the first save allocates memory."""
        if isinstance(value, dict):
            return {key: self._copied(inner, (*place, key)) for key, inner in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(self._copied(inner, (*place, number)) for number, inner in enumerate(value))
        if not isinstance(value, Tensor):
            return value
        buffer = self._buffers.get(place)
        if buffer is None or (buffer.dtype, buffer.shape) != (value.dtype, value.shape):
            buffer = torch.empty_like(value, device="cpu", pin_memory=value.is_cuda)  # keeps the tensor's memory layout
            self._buffers[place] = buffer
        return buffer.copy_(value.detach(), non_blocking=value.is_cuda)
