"""The end of a command's process while a library may still be at work in it.

Python takes its interpreter apart before a process ends. A thread that is in C++ meanwhile, such as one that starts
Ray, may come back into what is gone, and abort the process.
"""

import contextlib
import os
import sys
from typing import NoReturn

_is_skipped = False


def skip_teardown() -> None:
    """From now on `end_process` ends this process as it is, without what Python does at exit."""
    global _is_skipped
    _is_skipped = True


def end_process(code: int) -> NoReturn:
    """Ends this process with an exit code: by SystemExit, or at once after `skip_teardown`."""
    if _is_skipped:
        end_at_once(code)
    sys.exit(code)


def end_at_once(code: int) -> NoReturn:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)
