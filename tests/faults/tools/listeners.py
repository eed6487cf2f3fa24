"""Where the processes of a run listen, read from Linux's /proc."""

import contextlib
import ipaddress
import os
import sys
from collections.abc import Iterator
from pathlib import Path

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
LISTENS = "0A"  # the state of a socket in /proc/net/tcp


def family(pid: int) -> set[int]:
    """A process, all that it has started, and all of their sessions."""
    parents = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    found: set[int] = set()
    more = {pid}
    while more:
        found |= more
        more = {one for one, parent in parents.items() if parent in found or session_of(one) in found} - found
    return found


def session_of(pid: int) -> int:
    try:
        return os.getsid(pid)
    except OSError:
        return 0


def listening(pid: int) -> dict[Address, set[int]]:
    """Where a process and its family listen: addresses, and their ports."""
    own = set(sockets(pid))
    found: dict[Address, set[int]] = {}
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            _, local, _, state, *rest = line.split()
            if state == LISTENS and rest[5] in own:
                host, port = local.split(":")
                found.setdefault(address_of(host), set()).add(int(port, 16))
    return found


def beyond_loopback(pid: int) -> list[str]:
    """Each HOST:PORT at which other machines reach a process of the family."""
    found = {address: ports for address, ports in listening(pid).items() if not address.is_loopback}
    return [f"{address}:{port}" for address, ports in found.items() for port in ports]


def sockets(pid: int) -> Iterator[str]:
    """The inodes of the sockets that the family of a process holds."""
    for one in family(pid):
        with contextlib.suppress(OSError):
            for handle in Path(f"/proc/{one}/fd").iterdir():
                with contextlib.suppress(OSError):
                    target = os.readlink(handle)
                    if target.startswith("socket:["):
                        yield target[8:-1]


def commands_of(pid: int) -> Iterator[str]:
    """The command lines of the family of a process."""
    for one in family(pid):
        with contextlib.suppress(OSError):
            yield Path(f"/proc/{one}/cmdline").read_bytes().decode(errors="replace")


def address_of(text: str) -> Address:
    """From the kernel's hexadecimal words, each in the machine's order of bytes."""
    words = [int(text[start : start + 8], 16).to_bytes(4, sys.byteorder) for start in range(0, len(text), 8)]
    address = ipaddress.ip_address(b"".join(words))
    return getattr(address, "ipv4_mapped", None) or address
