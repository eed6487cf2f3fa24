"""The thread that connects to Ray, and the processes of a cluster that it ends; here without Ray."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from tests.faults.tools.processes import children_of
from tests.limits import LIMIT_S
from volo import console
from volo.cluster import connection_thread
from volo.cluster.connection_thread import kept_connection
from volo.cluster.processes import kill_all, killed_when_asked, process
from volo.signals import FROM_OUTSIDE

# Like Ray's raylet: it has a child, and reports it.
DEAF = (
    "import subprocess, sys\n"
    "child = subprocess.Popen(['sleep', '600'], stdout=subprocess.DEVNULL)\n"
    "print(child.pid, flush=True)\n"
    "sys.stdin.read()\n"
    "child.kill()\n"
)
# As gcs_server or the dashboard on the way to its end: the first thread has ended, another has not.
HALF_ENDED = (
    "import ctypes, threading\n"
    f"threading.Thread(target=lambda: exec({DEAF!r})).start()\n"
    "ctypes.CDLL(None).pthread_exit(None)\n"
)


@pytest.fixture(params=[DEAF, HALF_ENDED], ids=["running", "half ended"])
def family(request):
    """Two processes that do not notice what is sent to all, each with a child. They are waited for at the end."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, FROM_OUTSIDE)
    try:
        pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        deaf = [subprocess.Popen([sys.executable, "-c", request.param], text=True, **pipes) for _ in range(2)]
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    yield [(own, int(own.stdout.readline())) for own in deaf]
    for own in deaf:
        own.communicate()  # the end of its input is its own


def test_a_signal_to_all_processes_is_not_noticed_by_those_of_a_cluster(family):
    for own, child in family:
        for number in FROM_OUTSIDE:
            os.kill(own.pid, number)
            os.kill(child, number)
        assert own.poll() is None
        assert child in children_of(own.pid)


@pytest.mark.parametrize("has_been_sent", [False, True])
def test_ending_a_cluster_kills_its_processes_and_theirs_once_one_is_asked(family, has_been_sent):
    """Also if all of them have been sent a SIGTERM before, when the first one is asked in vain, and then killed."""
    if has_been_sent:
        for own, _ in family:
            own.terminate()
    with killed_when_asked():
        first = family[0][0]
        first.kill() if has_been_sent else first.terminate()
        assert [own.wait(LIMIT_S) for own, _ in family] == [-signal.SIGKILL] * 2
    assert_children_end(family)


def assert_children_end(family) -> None:
    """On their own time: nobody here can wait for them."""
    deadline = time.monotonic() + LIMIT_S
    while any(process(child) for _, child in family):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_killing_all_of_a_cluster_leaves_no_child_of_a_process_that_is_ending(family):
    kill_all({}, LIMIT_S)
    assert [own.wait(LIMIT_S) for own, _ in family] == [-signal.SIGKILL] * 2
    assert_children_end(family)


PARENT_ENDS_DURING_A_LOOK = f"""
import os, signal, subprocess, sys
from volo.cluster import processes
from volo.signals import FROM_OUTSIDE

processes.adopt_orphans()
signal.pthread_sigmask(signal.SIG_BLOCK, FROM_OUTSIDE)
own = subprocess.Popen([sys.executable, "-c", {DEAF!r}], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
child, read = int(own.stdout.readline()), processes.process
earlier = [read(child)]
own.kill()
own.wait()
# The first look has read the child when its parent was still there.
processes.process = lambda pid: earlier.pop() if pid == child and earlier else read(pid)
processes.kill_all({{}}, {LIMIT_S})
print("left" if read(child) else "none is left")
if read(child):
    os.kill(child, signal.SIGKILL)
"""


def test_a_child_whose_parent_ends_while_the_processes_are_read_is_killed_too():
    done = subprocess.run([sys.executable, "-c", PARENT_ENDS_DURING_A_LOOK], capture_output=True, text=True)
    assert done.stdout == "none is left\n", done.stdout + done.stderr


def test_a_cluster_that_is_ended_without_being_asked_leaves_others_alone(family):
    with killed_when_asked():
        pass
    assert [own.poll() for own, _ in family] == [None, None]


def test_a_connection_that_does_not_come_says_what_it_waits_for_and_ends(monkeypatch, capsys):
    monkeypatch.setattr(console, "PLAIN_INTERVAL_S", 0.0)
    over = threading.Event()
    try:
        opened = kept_connection(lambda: over.wait(LIMIT_S) and None, "the Ray cluster at head:6379 to answer", 0.3)
        with pytest.raises(ConnectionError, match=r"no answer within 0\.3 s"), opened:
            pass
    finally:
        over.set()
    assert capsys.readouterr().out == "waiting for the Ray cluster at head:6379 to answer\n"


@pytest.mark.parametrize("number", FROM_OUTSIDE)
def test_a_signal_is_answered_while_a_connection_is_made(number):
    """Ray's own init would replace the handler."""
    over = threading.Event()

    def answer(*_):
        raise KeyboardInterrupt

    def connect() -> None:
        os.kill(os.getpid(), number)
        over.wait(LIMIT_S)

    before = signal.signal(number, answer)
    try:
        with pytest.raises(KeyboardInterrupt), kept_connection(connect, "nothing", LIMIT_S):
            pass
    finally:
        over.set()
        signal.signal(number, before)


def test_an_error_of_a_connection_is_raised_where_it_is_used():
    def connect() -> None:
        raise ValueError("no such head")

    with pytest.raises(ValueError, match="no such head"), kept_connection(connect, "nothing", LIMIT_S):
        pass


def test_an_interruption_ends_a_start_even_if_python_drops_it_once(monkeypatch, capfd, tmp_path):
    """Python drops an exception that comes while it frees an object."""
    monkeypatch.setattr(connection_thread, "AGAIN_S", 0.05)
    was_dropped, has_ended, never = threading.Event(), threading.Event(), threading.Event()

    class Freed:
        def __del__(self):
            os.kill(os.getpid(), signal.SIGTERM)
            while True:
                never.wait(0.01)

    def connect() -> None:
        freed = Freed()
        try:
            del freed
            was_dropped.set()
            while True:
                never.wait(0.01)
        finally:
            has_ended.set()

    def answer(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, answer)
    try:
        with pytest.raises(KeyboardInterrupt), kept_connection(connect, "nothing", LIMIT_S, tmp_path):
            pass
    finally:
        signal.signal(signal.SIGTERM, before)
    assert was_dropped.is_set() and has_ended.is_set()
    assert "StartInterrupted" not in capfd.readouterr().err
