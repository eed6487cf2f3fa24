"""Host names and addresses."""

import contextlib
import fcntl
import ipaddress
import socket
import struct

ADDRESS_OF = 0x8915  # SIOCGIFADDR of Linux


def is_loopback(host: str) -> bool:
    """Whether an address, with or without brackets, belongs to this machine alone; of names only `localhost` does."""
    if host == "localhost":
        return True
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


def interface_of(address: str) -> str | None:
    """The network interface of this machine that has an IPv4 address; None if none has, or the system does not tell."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        for _, name in socket.if_nameindex():
            with contextlib.suppress(OSError):
                found = fcntl.ioctl(asking.fileno(), ADDRESS_OF, struct.pack("256s", name.encode()))
                if socket.inet_ntoa(found[20:24]) == address:
                    return name
    return None
