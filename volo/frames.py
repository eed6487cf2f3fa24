"""The line of its own code that a program is at, instead of a long traceback."""

import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from traceback import FrameSummary, walk_stack

PACKAGE = Path(__file__).parent
FOREIGN = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})


def stack_of(thread: int) -> list[FrameSummary]:
    """The frames of the thread with this ident, outermost first. Reads no source files: the disk may hang."""
    frames = [(frame.f_code, line) for frame, line in walk_stack(sys._current_frames()[thread])]
    return [FrameSummary(code.co_filename, line, code.co_name, lookup_line=False) for code, line in reversed(frames)]


def own_frame(frames: Sequence[FrameSummary]) -> str:
    """The innermost frame that is not in Python's or an installed package's code, as `file:line in function`.

    Args:
        frames: Outermost first, as `traceback.extract_stack` and `extract_tb` return them; may be empty.
    """
    own = [frame for frame in frames if is_own(frame.filename)] or list(frames)
    return shown(own[-1]) if own else "an unknown place"


def is_own(filename: str) -> bool:
    """Whether a file is the user's or this package's, wherever that is installed; frozen and generated code is not."""
    return filename.startswith(f"{PACKAGE}/") or not filename.startswith(("<", *FOREIGN))


def shown(frame: FrameSummary) -> str:
    """`volo/training/learner.py:62 in update`."""
    path = Path(frame.filename)
    place = path.relative_to(PACKAGE.parent) if path.is_relative_to(PACKAGE) else path
    return f"{place}:{frame.lineno} in {frame.name}"
