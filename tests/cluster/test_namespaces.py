"""The hosts that tests in namespaces use are as separate as two machines on a network."""

import os
import socket
import sys
from pathlib import Path

import pytest

from tests.cluster.conftest import ROOT
from tests.cluster.namespaces import network, why_not

pytestmark = pytest.mark.skipif(bool(reason := why_not()), reason=reason or "")

ANSWER = """
import socket
listener = socket.create_server(("{}", 7000))
print("listens", flush=True)
listener.accept()[0].sendall(b"hello")
"""
ASK = "import socket; print(socket.create_connection(('{}', 7000), timeout=20).recv(5).decode())"


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def assert_reached(one, other):
    """A process of one host gets an answer from a process of the other, at its address."""
    process = other.popen(python(ANSWER.format(other.address)), stdout=-1, text=True)
    assert process.stdout.readline() == "listens\n"
    assert one.run(python(ASK.format(other.address))).stdout == "hello\n"
    assert process.wait(20) == 0
    process.stdout.close()


def test_hosts_reach_each_other_by_address_and_share_nothing_else(tmp_path):
    with network() as lan:
        one, two = lan.host("one"), lan.host("two")
        assert_reached(one, two)
        assert_reached(two, one)

        assert one.run(["hostname"]).stdout == "one\n"
        resolved = python("import socket; print(socket.gethostbyname(socket.gethostname()))")
        assert one.run(resolved).stdout == "127.0.1.1\n"
        one.file("/tmp/note").write_text("of one")
        assert one.run(["cat", "/tmp/note"]).stdout == "of one"
        assert not two.file("/tmp/note").exists() and not Path("/tmp/note").exists()
        assert not one.file(str(tmp_path)).exists()
        for folder in (ROOT, Path.home(), Path("/var/tmp")):
            written = one.run(["touch", str(folder / "by-one")])
            assert written.returncode == 1 and "Read-only file system" in written.stdout
        imported = one.run(python("import volo; print(volo.__file__)")).stdout.strip()
        assert imported == str(ROOT / "volo" / "__init__.py")


def test_a_killed_host_leaves_no_process_and_comes_back_empty_at_its_address():
    with network() as lan:
        one, two = lan.host("one"), lan.host("two")
        assert_reached(two, one)
        one.file("/tmp/note").write_text("of one")
        process = one.popen(["bash", "-c", "setsid sleep 1000 & echo started; wait"], stdout=-1, text=True)
        assert process.stdout.readline() == "started\n"
        namespace = os.readlink(f"/proc/{one.pid}/ns/pid")
        one.kill()
        assert process.wait(20) != 0
        process.stdout.close()
        assert not in_namespace(namespace)
        one.start()
        assert not one.file("/tmp/note").exists()
        assert_reached(two, one)


def test_what_is_sent_to_an_unplugged_host_is_lost_until_it_is_plugged_in_again():
    with network() as lan:
        one, two = lan.host("one"), lan.host("two")
        lan.unplug(two)
        assert one.run(python(ASK.format(two.address))).returncode == 1
        lan.replug(two)
        assert_reached(one, two)


def test_nothing_is_left_of_a_network_whose_test_fails():
    interfaces, namespaces = socket.if_nameindex(), []
    with pytest.raises(RuntimeError), network() as lan:
        host = lan.host("one")
        namespaces = [os.readlink(f"/proc/{pid}/ns/pid") for pid in (lan.pid, host.pid)]
        host.popen(["sleep", "1000"])
        raise RuntimeError
    assert not any(in_namespace(name) for name in namespaces)
    assert socket.if_nameindex() == interfaces


def in_namespace(name: str) -> list[str]:
    """The processes of a PID namespace."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if os.readlink(entry / "ns" / "pid") == name:
                found.append(entry.name)
        except OSError:  # it has ended, and so may the next
            continue
    return found
