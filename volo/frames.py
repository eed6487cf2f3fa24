"""Where in its own code a program stands: one line for a person, in place of a wall of frames."""

import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from traceback import FrameSummary, walk_stack

PACKAGE = Path(__file__).parent
FOREIGN = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})


def stack_of(thread: int) -> list[FrameSummary]:
    """The frames of a thread, by its ident, outermost first. Reads no source: the disk may hang."""
    frames = [(frame.f_code, line) for frame, line in walk_stack(sys._current_frames()[thread])]
    return [FrameSummary(code.co_filename, line, code.co_name, lookup_line=False) for code, line in reversed(frames)]


def own_frame(frames: Sequence[FrameSummary]) -> str:
    """The innermost frame that is neither Python's nor an installed package's, as `file:line in function`.

    Args:
        frames: Outermost first, as `traceback.extract_stack` and `extract_tb` give them; may be empty.
    """
    own = [frame for frame in frames if is_own(frame.filename)] or list(frames)
    return shown(own[-1]) if own else "an unknown place"


def is_own(filename: str) -> bool:
    """This package is, wherever it is installed; frozen and generated code is nobody's."""
    return filename.startswith(f"{PACKAGE}/") or not filename.startswith(("<", *FOREIGN))


def shown(frame: FrameSummary) -> str:
    """`volo/training/learner.py:62 in update`."""
    path = Path(frame.filename)
    place = path.relative_to(PACKAGE.parent) if path.is_relative_to(PACKAGE) else path
    return f"{place}:{frame.lineno} in {frame.name}"
