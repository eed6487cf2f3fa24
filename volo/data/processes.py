"""Work on images done by processes of their own, in order and ahead of what uses it.

Processes, because threads that decode small images wait for each other's interpreter lock: two are no faster than one.

What they send back must be small: a pipe takes up to SMALL bytes as a whole or not at all, whereas the reader of a
larger message waits for ever if its writer is killed in the midst of it. Images are left on a `Shelf`.
"""

import math
import mmap
import multiprocessing
import os
import signal
import sys
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import count, islice
from multiprocessing.process import BaseProcess
from typing import TypeVar

import numpy as np

from volo.log import LOGGER

SMALL = 4096 - 128  # bytes: PIPE_BUF of Linux, less what is sent with a result
AHEAD = 2  # parts for each process that are done, or waiting, before the first of them is used
IGNORED = (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
Part = TypeVar("Part")
Done = TypeVar("Done")


SHELVES: "weakref.WeakValueDictionary[int, Shelf]" = weakref.WeakValueDictionary()
NUMBERS = count()


class Shelf:
    """Memory that this process shares with those it forks, in which they leave images: sent through a pipe, these would
    be copied four times. It is not of /dev/shm, which containers keep small.

    Attributes:
        number: By which a forked process finds it among SHELVES.
        places: uint8 arrays of one shape, for parts in turn: more than `done_ahead` has in work, and the one in use.
    """

    def __init__(self, num_processes: int, shape: tuple[int, ...]):
        self.places = [
            np.frombuffer(mmap.mmap(-1, math.prod(shape)), np.uint8).reshape(shape)
            for _ in range(AHEAD * num_processes + 1)
        ]
        self.number = next(NUMBERS)
        SHELVES[self.number] = self

    def place(self, part: int) -> np.ndarray:
        """Where the images of a part are, by its number."""
        return self.places[part % len(self.places)]


def done_ahead(work: Callable[[Part], Done], parts: Iterable[Part], num_processes: int) -> Iterator[Done]:
    """Yields `work(part)` of each part, in order.

    A process that is killed costs time alone: this one does the part that is needed next, new ones do the others.

    Args:
        work: A module's function, or a dataclass or `partial`, that processes can be sent. What it returns is small.
        parts: What to work on; may be endless, since few of them are taken ahead.
        num_processes: Beside this one; with 0, this process does each part when it is asked for.
    """
    if not num_processes:
        yield from map(work, parts)
        return
    remaining, pool = iter(parts), _Pool(num_processes)
    waiting = deque[tuple[Part, Future[Done]]]()
    try:
        while True:
            for part in islice(remaining, AHEAD * num_processes - len(waiting)):
                waiting.append((part, pool.submit(work, part)))
            if not waiting:
                return
            part, future = waiting.popleft()
            try:
                done = future.result()
            except BrokenProcessPool:
                LOGGER.warning("a process that decodes images was killed; what it was doing is done again")
                pool.end()
                done, pool = work(part), _Pool(num_processes)
                waiting = deque((part, pool.submit(work, part)) for part, _ in waiting)
            yield done
    finally:
        pool.close()


def inherits_memory() -> bool:
    """Whether these processes have the memory of this one."""
    return _context().get_start_method() == "fork"


class _Pool:
    """Processes, which start with the first work."""

    def __init__(self, num_processes: int):
        self._executor = ProcessPoolExecutor(num_processes, mp_context=_context(), initializer=_begin)
        self._processes: set[BaseProcess] = set()

    def submit(self, work: Callable[[Part], Done], part: Part) -> Future[Done]:
        before = {*multiprocessing.active_children()}
        try:
            return self._executor.submit(work, part)
        except BrokenProcessPool as error:
            failed: Future[Done] = Future()
            failed.set_exception(error)
            return failed
        finally:
            self._processes |= {*multiprocessing.active_children()} - before

    def close(self) -> None:
        """Returns when each process has done the part it is at. The executor's thread has ended too: at the end of this
        process it might find its pipe closed."""
        self._executor.shutdown(cancel_futures=True)

    def end(self) -> None:
        """Ends the processes at once: what they still left on a shelf would come between."""
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            process.join()
        self.close()


def _context() -> multiprocessing.context.BaseContext:
    """On Linux a fork, which takes no time and only decodes; elsewhere, where it is not safe, the default."""
    return multiprocessing.get_context("fork" if sys.platform == "linux" else None)


def _begin() -> None:
    """The process that started this one hears the signals of a terminal; its pool ends this one by SIGTERM. This one
    also ends when that one is killed. It computes by one thread: those of the other do not survive a fork."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
    for name in IGNORED:
        signal.signal(name, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    parent = multiprocessing.parent_process()
    assert parent is not None, "this is a child"

    def end_with_parent() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
