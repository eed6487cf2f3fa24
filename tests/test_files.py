"""What is written under another name first: when it gets its own, and when it is taken away."""

import os
import platform
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.faults.tools.forked import FORKS, ended
from tests.limits import LIMIT_S
from volo.files import ABANDONED_S, exchange, partial_of, remove_abandoned, replaced, write_synced


def test_a_file_is_replaced_whole_or_stays_as_it_was(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("before")
    with pytest.raises(KeyboardInterrupt), replaced(path) as partial:
        partial.write_text("half")
        raise KeyboardInterrupt
    assert [file.name for file in tmp_path.iterdir()] == ["a.txt"]
    assert path.read_text() == "before"
    with replaced(path) as partial:
        partial.write_text("after")
    assert path.read_text() == "after"


def test_a_failing_write_names_its_file(tmp_path):
    with pytest.raises(OSError, match=r"No space left on device: '/dev/full'"):
        write_synced(type(tmp_path)("/dev/full"), b"x")


def left_by(tmp_path, pid: int | str, host: str = platform.node()):
    folder = tmp_path / f".step_00000009.{host}-{pid}.partial"
    folder.mkdir()
    return folder


def test_what_a_dead_process_left_is_removed_and_what_a_living_one_writes_is_not(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    gone = [left_by(tmp_path, dead.pid), left_by(tmp_path, os.getpid()), left_by(tmp_path, f"{os.getpid()}_0")]
    writing = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        living = left_by(tmp_path, writing.pid)
        remove_abandoned(tmp_path)
    finally:
        writing.communicate(b"\n")
    assert living.exists()
    assert not any(folder.exists() for folder in gone)


def test_what_this_process_is_writing_stays_while_another_of_its_threads_cleans_up(tmp_path):
    """A checkpoint's thread prunes while training lists a batch or records an epoch."""
    with replaced(tmp_path / "batch.json") as partial:
        partial.write_text("all of it")
        folder = partial_of(tmp_path / "step_00000009")
        folder.mkdir()
        thread = threading.Thread(target=remove_abandoned, args=(tmp_path,))
        thread.start()
        thread.join(LIMIT_S)
    assert (tmp_path / "batch.json").read_text() == "all of it"
    assert folder.is_dir()


def replace_until_killed(path: Path) -> None:
    with replaced(path) as partial:
        partial.write_text("half")
        os.kill(os.getpid(), signal.SIGKILL)


def test_what_a_killed_process_left_of_a_file_is_removed_by_the_next_that_replaces_it(tmp_path):
    path, other = tmp_path / "a[1].csv", tmp_path / "b.csv"
    for left in (path, other):
        process = FORKS.Process(target=replace_until_killed, args=(left,))
        process.start()
        assert ended(process) == -signal.SIGKILL
    assert len([*tmp_path.iterdir()]) == 2
    with replaced(path) as partial:
        partial.write_text("whole")
    assert sorted(file.name.split(".")[1] for file in tmp_path.iterdir()) == ["b", "csv"]


def test_two_folders_or_files_change_names_at_once_or_not_at_all(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_text("")
    assert exchange(tmp_path / "a", tmp_path / "b")
    assert [path.relative_to(tmp_path).as_posix() for path in sorted(tmp_path.rglob("*/*"))] == ["a/b", "b/a"]
    assert not exchange(tmp_path / "a", tmp_path / "none")


def test_another_machines_is_removed_when_it_has_not_been_touched_for_long(tmp_path):
    recent, old = left_by(tmp_path, 1, "elsewhere"), left_by(tmp_path, 2, "elsewhere")
    long_ago = old.stat().st_mtime - ABANDONED_S - 60
    os.utime(old, (long_ago, long_ago))
    remove_abandoned(tmp_path)
    assert recent.exists()
    assert not old.exists()
