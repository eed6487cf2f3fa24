"""Images of files, decoded by processes of their own, in order and ahead of what uses them.

Processes, because threads that decode small images wait for each other's interpreter lock: two are no faster than one.
"""

import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial

import numpy as np

from volo.data.folders.image import Unreadable, read_image
from volo.log import LOGGER

TOGETHER, TOGETHER_BYTES = 64, 2**22  # images that a process reads before it sends them, and their size
AHEAD = 2  # such parts for each process that are read, or waiting, before the first of them is used
FEW = 256  # as many images are decoded before processes have started
IGNORED = (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)

Read = np.ndarray | str
Part = list[str]


def read_images(files: Sequence[str], image_size: int, resize: str, num_processes: int) -> Iterator[Read]:
    """Each image, (image_size, image_size, 3) uint8, or the reason why it cannot be read, in the order of the files.

    Args:
        files: Image files, read as by `read_image`.
        image_size, resize: As there.
        num_processes: To decode in beside this one; with one, or few files, this process decodes.
    """
    read = partial(_read_part, image_size=image_size, resize=resize)
    size = max(1, min(TOGETHER, TOGETHER_BYTES // (3 * image_size**2)))
    parts = [list(files[start : start + size]) for start in range(0, len(files), size)]
    if num_processes < 2 or len(files) <= FEW:
        for file in files:
            yield from read([file])
        return
    yield from _by_processes(read, parts, num_processes)


def _by_processes(read: Callable[[Part], list[Read]], parts: list[Part], num_processes: int) -> Iterator[Read]:
    pool = ProcessPoolExecutor(num_processes, mp_context=_context(), initializer=_begin)
    submitted, num_done = deque[Future[list[Read]]](), 0
    try:
        while num_done < len(parts):
            for part in parts[num_done + len(submitted) : num_done + AHEAD * num_processes]:
                submitted.append(pool.submit(read, part))
            yield from submitted.popleft().result()
            num_done += 1
    except BrokenProcessPool:
        LOGGER.warning("a process that decodes images was killed; this one decodes the rest, which takes longer")
        for part in parts[num_done:]:
            yield from read(part)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _context() -> multiprocessing.context.BaseContext:
    """On Linux a fork, which takes no time and only decodes; elsewhere, where it is not safe, the default."""
    return multiprocessing.get_context("fork" if sys.platform == "linux" else None)


def _begin() -> None:
    """The process that started this one hears the signals of a terminal; its pool ends this one by SIGTERM. This one
    also ends when that one is killed."""
    for name in IGNORED:
        signal.signal(name, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    parent = multiprocessing.parent_process()
    assert parent is not None, "this is a child"

    def end_with_parent() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()


def _read_part(part: Part, image_size: int, resize: str) -> list[Read]:
    return [_read(file, image_size, resize) for file in part]


def _read(file: str, image_size: int, resize: str) -> Read:
    try:
        return read_image(file, image_size, resize)
    except Unreadable as error:
        return error.reason
