"""Hosts in namespaces of this machine: each has a name, an address, processes and writable folders of its own, and
shares with the others a network alone.

A host lives as long as its first process, which ends when the pipe from this process does, however this one ends. With
it go its processes, mounts and interfaces: nothing is left on the machine. It needs root on Linux.
"""

import contextlib
import itertools
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.cluster.conftest import ROOT, own_environment

FIRST_OF = "10.77.0.{}"  # addresses, given out from 1 on
TOOLS = ("unshare", "nsenter", "setpriv", "ip", "mount", "hostname", "bash", "taskset")
OWN = ["--net", "--uts", "--ipc", "--mount", "--pid"]
HOLDER = ["unshare", *OWN, "--fork", "--kill-child", "--mount-proc", "bash", "-c"]
HOME, CACHE = "/tmp/home", "/tmp/cache"

# All that is mounted becomes read-only, and /tmp and /dev/shm the host's own. What the tests run from is seen under
# /tmp nevertheless. The host's name is that of no address that another host could reach, as Debian and Ubuntu have it.
SET_UP = """
set -e
hostname "$1"; shift
while read -r _ place kind _; do
  case $kind in proc|sysfs|dev*|cgroup*|mqueue) ;; *) mount -n -o remount,bind,ro "$place" || true ;; esac
done < /proc/self/mounts
mount -n -t tmpfs tmpfs /dev/shm
mount -n -t tmpfs tmpfs /mnt
for place; do
  mkdir -p "/mnt/${place#/tmp/}"
  mount -n --bind "$place" "/mnt/${place#/tmp/}"
  mount -n -o remount,bind,ro "/mnt/${place#/tmp/}"
done
mount -n --move /mnt /tmp
mkdir /tmp/home /tmp/cache
printf '127.0.0.1 localhost\\n127.0.1.1 %s\\n' "$(hostname)" > /tmp/.hosts
mount -n --bind /tmp/.hosts /etc/hosts
: > /tmp/.nameservers
mount -n --bind /tmp/.nameservers /etc/resolv.conf
ip link set lo up
echo up
trap '' CHLD  # whoever lost its parent is this process's, and leaves no zombie
exec cat
"""


def why_not() -> str | None:
    """Why this machine cannot have such hosts; None if it can."""
    if missing := [name for name in TOOLS if shutil.which(name, path=_path()) is None]:
        return f"hosts in namespaces need {', '.join(missing)}"
    asked = "mount -n -t tmpfs tmpfs /mnt && ip link add one type bridge && ip link add two type veth peer name three"
    tried = subprocess.run([*HOLDER, asked], capture_output=True, text=True, env=os.environ | {"PATH": _path()})
    return f"hosts in namespaces need root on Linux: {tried.stderr.strip()}" if tried.returncode else None


@dataclass
class Host:
    """A host of a network. `name` is what it calls itself; others reach it at `address`."""

    name: str
    address: str
    network: "Network"
    pid: int = 0  # of its first process, as seen from outside
    _holder: subprocess.Popen | None = None
    _port: str = ""

    @property
    def env(self) -> dict[str, str]:
        """Of its processes. What this process's says of proxies, folders and Ray's tokens does not hold there, nor that
        Ray's clusters have one node."""
        outside = ("TMPDIR", "XDG_CACHE_HOME", "RAY_AUTH_MODE", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER")
        env = {name: value for name, value in own_environment().items() if name not in outside}
        env = {name: value for name, value in env.items() if not name.lower().endswith("_proxy")}
        return env | {"PATH": _path(env["PATH"]), "HOME": HOME, "VOLO_CACHE_DIR": CACHE}

    def start(self) -> None:
        """Starts it with empty folders, at its address."""
        assert not self.pid, f"{self.name} runs"
        self._holder, self.pid = _held(self.name)
        self._port = self.network.plug_in(self)
        for words in (["addr", "add", f"{self.address}/24", "dev", "eth0"], ["link", "set", "eth0", "up"],
                      ["route", "add", "default", "dev", "eth0"]):  # fmt: skip
            _ip(self.pid, *words)

    def kill(self) -> None:
        """Ends it as a loss of power does: first nothing arrives any more, then no process is left, no file either."""
        if not self.pid:
            return
        if self._port:
            self.network.unplug(self)
        _end(self._holder)
        self.pid, self._port = 0, ""

    def command(self, command: list[str]) -> list[str]:
        """What runs a command there from here, in the root of this checkout. Killed, it takes the command with it."""
        return [
            "nsenter", "--target", str(self.pid), *OWN, "setpriv", "--pdeathsig", "KILL", "env", f"--chdir={ROOT}",
            *command,
        ]  # fmt: skip

    def popen(self, command: list[str], env: dict[str, str] | None = None, **kwargs) -> subprocess.Popen:
        """Starts a command there; `env` is added to the host's. Any signal to what is returned kills the command."""
        return subprocess.Popen(self.command(command), env=self.env | (env or {}), **kwargs)

    def run(self, command: list[str], env: dict[str, str] | None = None, **kwargs) -> subprocess.CompletedProcess:
        """Runs a command there to its end, its output as text in `stdout`, that of both streams."""
        options = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) | kwargs
        return subprocess.run(self.command(command), env=self.env | (env or {}), **options)

    def file(self, path: str) -> Path:
        """A file of the host, as this process reads and writes it."""
        return Path(f"/proc/{self.pid}/root{path}")


@dataclass
class Network:
    """A switch and the hosts that hang on it. It is not connected to any other network."""

    pid: int
    hosts: list[Host] = field(default_factory=list)
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def host(self, name: str) -> Host:
        """A new host, at the next address."""
        host = Host(name, FIRST_OF.format(len(self.hosts) + 1), self)
        self.hosts.append(host)
        host.start()
        return host

    def plug_in(self, host: Host) -> str:
        """Gives a host an interface, with the same hardware address each time; returns the port of the switch."""
        port, hardware = f"port{next(self._numbers)}", f"02:00:00:00:00:{self.hosts.index(host) + 1:02x}"
        peer = ["peer", "name", "eth0", "address", hardware, "netns", str(host.pid)]
        _ip(self.pid, "link", "add", port, "type", "veth", *peer)
        _ip(self.pid, "link", "set", port, "master", "switch", "up")
        return port

    def unplug(self, host: Host) -> None:
        """From here on, whatever is sent to the host or by it is lost."""
        _ip(self.pid, "link", "set", host._port, "down")

    def replug(self, host: Host) -> None:
        """Connects a host again that was unplugged."""
        _ip(self.pid, "link", "set", host._port, "up")


@contextlib.contextmanager
def network() -> Iterator[Network]:
    """A network without hosts. Those that it is given end with the block."""
    holder, pid = _held("switch")
    made = Network(pid)
    try:
        _ip(pid, "link", "add", "switch", "type", "bridge")
        _ip(pid, "link", "set", "switch", "up")
        yield made
    finally:
        for host in made.hosts:
            host.kill()
        _end(holder)


def _end(holder: subprocess.Popen) -> None:
    """Returns when no process is left in the namespaces: the first one ends with its input, and kills all others."""
    holder.stdin.close()
    holder.wait()


def _held(name: str) -> tuple[subprocess.Popen, int]:
    """New namespaces: what holds them, and the first process in them, which ends with the pipe to it."""
    places = {ROOT.resolve(), *(Path(path).resolve() for path in (sys.prefix, sys.base_prefix))}
    hidden = sorted(str(place) for place in places if place.is_relative_to("/tmp"))
    holder = subprocess.Popen(
        [*HOLDER, SET_UP, "bash", name, *hidden], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env=os.environ | {"PATH": _path()},
    )  # fmt: skip
    with holder.stdout as answer:
        if answer.readline() != "up\n":
            holder.kill()
            raise OSError(f"no namespaces for {name}")
    children = Path(f"/proc/{holder.pid}/task/{holder.pid}/children").read_text()
    return holder, int(children)


def _ip(pid: int, *words: str) -> None:
    command = ["nsenter", "--target", str(pid), "--net", "ip", *words]
    subprocess.run(command, check=True, env=os.environ | {"PATH": _path()})


def _path(path: str | None = None) -> str:
    """Where the tools are, also for those whose shell does not look into the administrator's folders."""
    return f"{path or os.environ.get('PATH', os.defpath)}{os.pathsep}/usr/sbin{os.pathsep}/sbin"
