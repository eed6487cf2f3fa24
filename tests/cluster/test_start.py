"""One start on Ray: its folder, and the file that asks it to stop."""

import signal
from pathlib import Path
from types import SimpleNamespace

from volo.cluster import start
from volo.cluster.start import StopFile, StopListener, new_start


def test_every_start_has_its_own_folder_and_the_newest_stay(tmp_path):
    names = [new_start(tmp_path).name for _ in range(6)]
    assert names == ["001", "002", "003", "004", "005", "006"]
    assert sorted(path.name for path in (tmp_path / ".ray").iterdir()) == ["004", "005", "006"]


def test_the_stop_file_exists_before_it_asks_and_is_written_in_place(tmp_path):
    """A client of NFS sees a known file change at once, but may overlook a new file for half a minute."""
    file = StopFile.create(tmp_path)
    before = file.path.stat().st_ino
    assert StopFile(tmp_path).asked() == 0
    file.ask(signal.SIGTERM)
    assert (StopFile(tmp_path).asked(), file.path.stat().st_ino) == (signal.SIGTERM, before)


def test_a_stop_file_that_is_being_written_or_gone_does_not_ask(tmp_path):
    assert StopFile(tmp_path).asked() == 0
    StopFile.create(tmp_path).path.write_text("")
    assert StopFile(tmp_path).asked() == 0


def test_a_listener_reads_the_file_at_most_once_per_interval_and_never_after_the_answer(tmp_path, monkeypatch):
    now, reads = [100.0], []
    monkeypatch.setattr(start, "time", SimpleNamespace(monotonic=lambda: now[0]))
    file = StopFile.create(tmp_path)
    read = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: reads.append(path) or read(path))
    listener = StopListener(file)
    assert (listener(), listener(), len(reads)) == (0, 0, 1)
    file.ask(signal.SIGINT)
    assert listener() == 0
    now[0] += start.POLL_S
    assert (listener(), listener(), len(reads)) == (signal.SIGINT, signal.SIGINT, 2)
    now[0] += start.POLL_S
    assert (listener(), len(reads)) == (signal.SIGINT, 2)
