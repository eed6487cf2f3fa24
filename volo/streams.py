"""Standard output and error that may be lost: whatever is printed then is dropped, and the command continues.

A reader can leave at any time: `volo train | head`, a `tee` that Ctrl-C ends first, a closed terminal. No training,
analysis or sweep ends because of it.
"""

import contextlib
import errno
import io
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO

from volo.errors import ExitCode

READER_LEFT = (errno.EPIPE, errno.EIO)  # of a pipe or socket, and of a terminal
STANDARD = ("stdout", "stderr")


class Output(io.FileIO):
    """The unbuffered end of a standard stream. After an error it writes to the null device, as do the process's own C
    code and the processes that it starts later."""

    lost: OSError | None = None

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            self.lost = error
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self.fileno())
            os.close(null)
            return memoryview(data).nbytes


@contextlib.contextmanager
def kept_running() -> Iterator[None]:
    """Wraps a command, so that losing its output does not end it; it exits with the same code as with a reader.

    Output that is lost for another reason than a reader who left, such as a full disk, changes exit code 0 to
    WORK_FAILED, because it may be what the command was started for.
    """
    for name in STANDARD:
        setattr(sys, name, _guarded(getattr(sys, name)))
    try:
        yield
    except SystemExit as ended:
        if not ended.code:
            _check_complete()
        raise
    _check_complete()


def _guarded(stream: TextIO | None) -> TextIO:
    """The same stream over an `Output`. Streams that someone else has put in place, such as a test, stay."""
    if stream is None:  # closed by whoever started this process
        return io.TextIOWrapper(io.BufferedWriter(Output(os.devnull, "w")), encoding="utf-8")
    if not isinstance(stream, io.TextIOWrapper) or type(_raw(stream)) is not io.FileIO or stream.fileno() not in (1, 2):
        return stream
    output = Output(stream.fileno(), "w", closefd=False)
    return io.TextIOWrapper(
        output if stream.write_through else io.BufferedWriter(output),
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


def _raw(stream: TextIO) -> object:
    """With `python -u` there is no buffer between the text and the file."""
    buffer = getattr(stream, "buffer", None)
    return getattr(buffer, "raw", buffer)


def _check_complete() -> None:
    for name in STANDARD:
        stream = getattr(sys, name)
        stream.flush()
        lost = getattr(_raw(stream), "lost", None)
        if lost and lost.errno not in READER_LEFT:
            print(
                f"error: not all output could be written ({lost.strerror}); the files that the command makes are "
                "complete",
                file=sys.stderr,
            )
            sys.exit(ExitCode.WORK_FAILED)
