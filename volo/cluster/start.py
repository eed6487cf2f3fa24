"""One start of a run or sweep on Ray: its own numbered folder, and the file that asks it to stop. Needs no Ray."""

import shutil
import time
from pathlib import Path
from typing import Protocol

KEPT = 3
POLL_S = 0.2


def new_start(parent: Path) -> Path:
    """Makes the next `<parent>/.ray/<number>`, which no later start reads; Ray keeps its own state there.

    The newest KEPT stay for a person to look at. The caller holds the lock of the run or sweep.
    """
    folders = parent / ".ray"
    folders.mkdir(exist_ok=True)
    numbers = sorted(int(path.name) for path in folders.iterdir() if path.name.isdecimal())
    for number in numbers[: -(KEPT - 1)]:
        shutil.rmtree(folders / f"{number:03d}", ignore_errors=True)
    folder = folders / f"{1 + max(numbers, default=0):03d}"
    folder.mkdir()
    return folder


class StopFile:
    """The file `stop` of one start: the number of the signal that asks it to stop, 0 until then.

    The file exists from the beginning and is written in place: opening it shows a client of NFS its current content,
    whereas a new file may stay invisible there for half a minute.
    """

    def __init__(self, folder: Path):
        self.path = folder / "stop"

    @classmethod
    def create(cls, folder: Path) -> "StopFile":
        file = cls(folder)
        file.path.write_text("0")
        return file

    def ask(self, signal_number: int) -> None:
        """Does not empty the file first: on a full disk it could not be filled again."""
        with open(self.path, "r+b") as file:
            file.write(str(signal_number).encode())
            file.truncate()

    def asked(self) -> int:
        """The number given to `ask`; 0 before, while it is being written, and for anything else in the file."""
        try:
            content = self.path.read_bytes()
        except OSError:
            return 0
        return int(content) if content.isdigit() and len(content) < 4 else 0


class StopSource(Protocol):
    """Whatever knows whether a signal asks to stop."""

    def asked(self) -> int: ...


class StopListener:
    """Asks at most every POLL_S, so that it can be asked after every step itself."""

    def __init__(self, source: StopSource):
        self.source = source
        self._asked = 0
        self._next_look = 0.0

    def __call__(self) -> int:
        """The signal's number, once there is one; 0 before."""
        if not self._asked and time.monotonic() >= self._next_look:
            self._next_look = time.monotonic() + POLL_S
            self._asked = self.source.asked()
        return self._asked
