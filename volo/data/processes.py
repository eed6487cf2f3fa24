"""Work on images done by processes of their own, in order and ahead of what uses it.

Processes, because threads that decode small images wait for each other's interpreter lock: two are no faster than one.
"""

import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from typing import TypeVar

from volo.log import LOGGER

AHEAD = 2  # parts for each process that are done, or waiting, before the first of them is used
IGNORED = (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
Part = TypeVar("Part")
Done = TypeVar("Done")


def done_ahead(work: Callable[[Part], Done], parts: Iterable[Part], num_processes: int) -> Iterator[Done]:
    """Yields `work(part)` of each part, in order.

    A process that is killed costs time alone: this one does the part that is needed next, new ones do the others.

    Args:
        work: A module's function, or a dataclass or `partial`, that processes can be sent.
        parts: What to work on; may be endless, since few of them are taken ahead.
        num_processes: Beside this one; with 0, this process does each part when it is asked for.
    """
    if not num_processes:
        yield from map(work, parts)
        return
    remaining, pool = iter(parts), _pool(num_processes)
    waiting = deque[tuple[Part, Future[Done]]]()
    try:
        while True:
            for part in islice(remaining, AHEAD * num_processes - len(waiting)):
                waiting.append((part, _submitted(pool, work, part)))
            if not waiting:
                return
            part, future = waiting.popleft()
            try:
                done = future.result()
            except BrokenProcessPool:
                LOGGER.warning("a process that decodes images was killed; what it was doing is done again")
                pool.shutdown(wait=False, cancel_futures=True)
                done, pool = work(part), _pool(num_processes)
                waiting = deque((part, _submitted(pool, work, part)) for part, _ in waiting)
            yield done
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def inherits_memory() -> bool:
    """Whether these processes have the memory of this one."""
    return _context().get_start_method() == "fork"


def _submitted(pool: ProcessPoolExecutor, work: Callable[[Part], Done], part: Part) -> Future[Done]:
    try:
        return pool.submit(work, part)
    except BrokenProcessPool as error:
        failed: Future[Done] = Future()
        failed.set_exception(error)
        return failed


def _pool(num_processes: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(num_processes, mp_context=_context(), initializer=_begin)


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
